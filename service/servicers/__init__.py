"""One class for each gRPC service: check the request, call the use case, convert the answer."""
