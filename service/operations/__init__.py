"""Long-running work: how an operation is claimed, kept alive, cancelled, finished and undone."""
