"""What the failure of a native load means, in words."""

from __future__ import annotations

import os

from dataplane.errors import Corrupt, DataplaneError, InvalidImage, SourceUnavailable
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.engine.window import LoadFailure
    from dataplane.image_source import ImageSource


def load_error(source: ImageSource, failure: LoadFailure) -> DataplaneError:
    """Return the error that says in words why a window could not be loaded."""
    name = source.readers[failure.reader].name
    if source.own_data:
        return Corrupt(
            f"{name} is damaged or unreadable at {failure.offset}: a chunk does not decode (errno {failure.error})"
        )
    if failure.kind == "cut":
        return InvalidImage(f"{name} is cut short: it ends inside the data that should lie at {failure.offset}")
    if failure.kind == "decode":
        return InvalidImage(f"{name} is damaged: the compressed data at {failure.offset} does not decode")
    return SourceUnavailable(f"{name} cannot be read at {failure.offset}: {os.strerror(failure.error)}")
