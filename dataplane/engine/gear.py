"""Door of the gear kernel: where content itself says that a chunk may end."""

from __future__ import annotations

from dataplane._native.gear import CONTEXT, PLACES_EVERY, choose_variant, chosen_variant, find, variants

__all__ = ["CONTEXT", "PLACES_EVERY", "choose_variant", "chosen_variant", "find", "variants"]
