"""Imports and exports, whole."""
