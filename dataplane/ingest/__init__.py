"""Moves a source into a store and keeps the sizes it finds on the way."""
