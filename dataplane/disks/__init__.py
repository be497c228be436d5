"""Disks: a stored image as the base, and over it an overlay of what was written since."""
