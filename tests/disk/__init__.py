"""Disks over the store, and what is left of them after every kind of end (tests/disks.py makes the images)."""
