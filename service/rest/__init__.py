"""The public HTTP mapping of the same calls: requests are turned into gRPC ones and answers into JSON."""
