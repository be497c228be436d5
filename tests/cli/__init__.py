"""The dataplane command, run as scripts run it."""
