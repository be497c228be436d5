"""Pieces: windows cut where their content says, and digested, before it is known where chunks end."""

from dataplane._native.window import Window

class PieceRows:
    """Room for the pieces of some windows."""

    count: int
    def __init__(self, count: int) -> None: ...
    def note_window(self, index: int, window: Window) -> None: ...

def check_window(window: Window) -> None: ...
