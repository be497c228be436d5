"""What the service tells about itself: metrics, what workers report of their operations, traces."""
