"""Door of the pieces kernel: windows cut where their content says."""

from __future__ import annotations

from dataplane._native.pieces import PieceRows, check_window

__all__ = ["PieceRows", "check_window"]
