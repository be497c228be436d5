"""Tests of dataplane.readers."""
