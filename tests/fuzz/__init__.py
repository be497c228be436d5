"""Fuzzing: arbitrary bytes given to every parser, which may read or refuse them and nothing else."""
