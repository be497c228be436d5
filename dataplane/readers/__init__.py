"""Where an image's bytes come from: local files, block devices and HTTP ranges."""
