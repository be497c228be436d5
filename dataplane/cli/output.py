"""Results on standard output: JSON for programs, aligned lines for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from dataplane.cli.sizes import both_ways
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.ingest.accounting import Sizes


def print_json(value: object) -> None:
    """Print one JSON document."""
    import json

    print(json.dumps(value, indent=2))


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one aligned line a field; names that end in ``_size`` or start with ``bytes_`` are sizes in bytes."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{name:<{width}}  {show(name, value)}")


def show(name: str, value: object) -> str:
    """Return a value as people read it."""
    if isinstance(value, int) and (name.endswith("_size") or name.startswith("bytes_")):
        return both_ways(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def size_fields(sizes: Sizes) -> dict[str, object]:
    """Return the sizes of an image under the names that every verb shares."""
    return {
        "virtual_size": sizes.virtual_size,
        "data_size": sizes.data_size,
        "storage_size": sizes.storage_size,
        "allocated_size": sizes.allocated_size,
        "chunk_size": sizes.chunk_size,
        "codec": sizes.codec,
        "chunks": sizes.chunks,
        "distinct_chunks": sizes.distinct_chunks,
    }


def utc(seconds: float) -> str:
    """Return a time since 1970 as ISO 8601 has it, to the second."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def say(message: str) -> None:
    """Print a message for people to standard error."""
    print(message, file=sys.stderr)
