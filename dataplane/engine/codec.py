"""Door of the codec, and the names users give to its settings."""

from __future__ import annotations

from dataplane._native.codec import LEVEL_MAX, LEVEL_MIN, Codec, Decoder, Encoder
from dataplane.dataclass import dataclass
from dataplane.errors import UsageError

__all__ = ["LEVEL_MAX", "LEVEL_MIN", "Codec", "CodecProfile", "Decoder", "Encoder"]


@dataclass(frozen=True, slots=True)
class CodecProfile:
    """How a store encodes its chunks: a zstd level, or None to keep every chunk as it is."""

    level: int | None

    @classmethod
    def parse(cls, text: str) -> CodecProfile:
        """Return the profile that ``none``, ``zstd`` or ``zstd:LEVEL`` names; raises UsageError for anything else."""
        name, _, level = text.partition(":")
        if text == "none":
            return cls(None)
        if name == "zstd" and (not level or level.removeprefix("-").isdecimal()):
            number = int(level or 1)
            if LEVEL_MIN <= number <= LEVEL_MAX and number != 0:
                return cls(number)
        raise UsageError(f"codec {text!r} is not known: use none or zstd:LEVEL with a level from 1 to {LEVEL_MAX}")

    def __str__(self) -> str:
        return "none" if self.level is None else f"zstd:{self.level}"
