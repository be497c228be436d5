"""Native kernels, built from ext/; each has a stub beside it and exactly one Python door."""
