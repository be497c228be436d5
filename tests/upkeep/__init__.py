"""Scrub, and what it finds."""
