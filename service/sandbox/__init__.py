"""What a worker gives up before it reads hostile input: memory, privileges, system calls, files."""
