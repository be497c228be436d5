"""What tells one state of a source from all others, also after a restart: the key under which checkpoints are found."""

from __future__ import annotations

from dataplane.engine.scan import blake3
from dataplane.image_source import ImageSource

READING_VERSION = 1
"""Raised when what a format makes of the same bytes changes: half an image must not be of one kind, half of another."""


def source_version(source: ImageSource, key: bytes) -> bytes | None:
    """Return a digest, keyed with the dedup domain's `key`, of all that decides the disk; None when a part can change.

    Nothing can be learnt from it of the URL it stands for.
    """
    parts = [str(READING_VERSION), source.format, source.choice, str(source.virtual_size)]
    for reader in source.readers:
        version = reader.version()
        if version is None:
            return None
        parts.append(version)
    # Each part with its length, so that no two lists of parts read the same.
    return blake3("".join(f"{len(part)}:{part}" for part in parts).encode(), key)
