"""Tests of the native kernels through their doors, each beside its slow twin."""
