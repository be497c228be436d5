"""Exports: every target, judged by real tools."""
