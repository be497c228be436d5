"""What the service remembers: tables, rows and every SQL statement of the service."""
