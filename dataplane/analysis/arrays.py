"""numpy, imported when the first array is made and not before: what a verb reads first, it reads without it.

Importing numpy takes two or three times as long as Python's own start. Type checkers see the module itself.
"""

from __future__ import annotations

from dataplane.hints import TYPE_CHECKING

__all__ = ["np"]

if TYPE_CHECKING:
    import numpy as np
else:

    class _Numpy:
        """Stands for the module, and keeps what was once asked of it."""

        def __getattr__(self, name):
            """Return an attribute of numpy that was not asked for before."""
            import numpy

            found = getattr(numpy, name)
            setattr(self, name, found)
            return found

    np = _Numpy()
