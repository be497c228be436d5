"""What happens when the machine fails: processes killed at every call that reaches the disk."""
