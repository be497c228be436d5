"""Images and operations as JSON objects with integers, and as tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.operation import operation_pb2
from service.client.progress_line import size_text

_SIZES = ("size", "min_disk_size", "virtual_size", "data_size", "storage_size", "allocated_size", "chunk_size")


def image_fields(image: image_pb2.Image, sizes: details.ImageSizes | None = None) -> dict[str, Any]:
    """Return what there is to show of an image; sizes are integers of bytes."""
    fields: dict[str, Any] = {
        "id": image.id,
        "folder_id": image.folder_id,
        "name": image.name,
        "status": image_pb2.Image.Status.Name(image.status),
        "created_at": image.created_at.ToJsonString(),
        "description": image.description,
        "family": image.family,
        "labels": dict(image.labels),
        "os": image_pb2.Os.Type.Name(image.os.type),
        "pooled": image.pooled,
        "min_disk_size": image.min_disk_size,
        "size": image.size,
        "storage_size": image.storage_size,
    }
    if sizes is not None:
        fields |= {
            "root": sizes.root.hex(),
            "virtual_size": sizes.virtual_size,
            "data_size": sizes.data_size,
            "allocated_size": sizes.allocated_size,
            "chunk_size": sizes.chunk_size,
            "codec": sizes.codec,
            "chunks": sizes.chunks,
            "distinct_chunks": sizes.distinct_chunks,
        }
    return fields


def operation_fields(operation: operation_pb2.Operation, image_id: str) -> dict[str, Any]:
    """Return what there is to show of an operation that has not failed."""
    return {
        "id": operation.id,
        "description": operation.description,
        "image_id": image_id,
        "done": operation.done,
        "created_at": operation.created_at.ToJsonString(),
    }


def show(fields: dict[str, Any], *, as_json: bool) -> None:
    """Print one thing on stdout."""
    if as_json:
        _out(json.dumps(fields))
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        _out(f"{name:<{width}}  {_text(name, value)}".rstrip())


def show_images(images: Sequence[image_pb2.Image], *, as_json: bool) -> None:
    """Print images on stdout, a line each."""
    if as_json:
        _out(json.dumps([image_fields(image) for image in images]))
        return
    rows = [("ID", "NAME", "STATUS", "SIZE", "STORAGE SIZE")]
    rows += [
        (
            image.id,
            image.name,
            image_pb2.Image.Status.Name(image.status),
            size_text(image.size),
            size_text(image.storage_size),
        )
        for image in images
    ]
    _table(rows)


def show_operations(found: Sequence[operation_pb2.Operation], image_id: str, *, as_json: bool) -> None:
    """Print operations on stdout, a line each."""
    if as_json:
        _out(json.dumps([operation_fields(one, image_id) | {"error": one.error.message} for one in found]))
        return
    rows = [("ID", "WHAT", "CREATED", "STATE")]
    rows += [(one.id, one.description, one.created_at.ToJsonString(), _state(one)) for one in found]
    _table(rows)


def _state(operation: operation_pb2.Operation) -> str:
    if operation.HasField("error"):
        return f"failed: {operation.error.message}"
    return "done" if operation.done else "running"


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        _out("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _text(name: str, value: Any) -> str:
    if name in _SIZES:
        return f"{value} ({size_text(value)})" if value >= 1024 else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in sorted(value.items()))
    return str(value)


def _out(line: str) -> None:
    sys.stdout.write(f"{line}\n")
