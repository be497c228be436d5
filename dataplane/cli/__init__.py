"""The dataplane command, one file for each verb."""
