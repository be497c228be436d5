"""Keeps a store healthy: reads everything again, and says what is hurt and whom it hurts."""
