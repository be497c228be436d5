"""The control plane: serves the image API over gRPC and runs imports in worker processes of its own."""
