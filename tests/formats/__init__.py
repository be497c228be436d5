"""Tests of dataplane.formats."""
