"""What an image's bytes mean: untrusted headers and tables become extents."""
