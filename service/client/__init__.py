"""The gRPC client for people behind `dataplane image`."""
