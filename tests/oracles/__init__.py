"""Slow twins of fast code, short enough to believe by reading."""
