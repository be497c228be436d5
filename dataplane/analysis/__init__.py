"""Answers questions about sources without writing a store."""
