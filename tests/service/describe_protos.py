"""Prints the descriptors of the public API as JSON: ours, or with the argument `public` those of the public SDK.

The two cannot be loaded into one process, so a test runs this file.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from google.protobuf import descriptor_pb2

MODULES = {  # ours: the SDK's, where it has another name
    "yandex.cloud.access.access_pb2": "",
    "yandex.cloud.api.operation_pb2": "",
    "yandex.cloud.compute.v1.disk_pb2": "",
    "yandex.cloud.compute.v1.disk_service_pb2": "",
    "yandex.cloud.compute.v1.hardware_generation_pb2": "",
    "yandex.cloud.compute.v1.image_pb2": "",
    "yandex.cloud.compute.v1.image_service_pb2": "",
    "yandex.cloud.compute.v1.kms_key_pb2": "yandex.cloud.compute.v1.kek_pb2",
    "yandex.cloud.compute.v1.snapshot_pb2": "",
    "yandex.cloud.compute.v1.snapshot_schedule_pb2": "",
    "yandex.cloud.compute.v1.snapshot_service_pb2": "",
    "yandex.cloud.endpoint.api_endpoint_pb2": "",
    "yandex.cloud.endpoint.api_endpoint_service_pb2": "",
    "yandex.cloud.iam.v1.iam_token_service_pb2": "",
    "yandex.cloud.operation.operation_pb2": "",
    "yandex.cloud.operation.operation_service_pb2": "",
}


def describe(prefix: str, *, public: bool) -> dict[str, Any]:
    """Return every message, enumeration, method and extension of the modules, by full name."""
    operation = importlib.import_module(f"{prefix}yandex.cloud.api.operation_pb2").operation
    http = importlib.import_module("google.api.annotations_pb2").http
    found: dict[str, Any] = {}
    for ours, theirs in MODULES.items():
        file = importlib.import_module(prefix + ((public and theirs) or ours)).DESCRIPTOR
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        for message in proto.message_type:
            _message(found, proto.package, message)
        for enum in proto.enum_type:
            found[f"{proto.package}.{enum.name}"] = {value.name: value.number for value in enum.value}
        for extension in proto.extension:
            found[f"{proto.package}.({extension.name})"] = [extension.number, extension.type, extension.extendee]
        for service in proto.service:
            for method in service.method:
                found[f"{proto.package}.{service.name}/{method.name}"] = {
                    "types": [method.input_type, method.output_type, method.client_streaming, method.server_streaming],
                    "http": str(method.options.Extensions[http]),
                    "operation": str(method.options.Extensions[operation]),
                }
    return found


def _message(found: dict[str, Any], scope: str, message: descriptor_pb2.DescriptorProto) -> None:
    name = f"{scope}.{message.name}"
    oneofs = [oneof.name for oneof in message.oneof_decl]
    found[name] = {
        "fields": {
            field.name: [
                field.number,
                field.type,
                field.label,
                field.type_name,
                oneofs[field.oneof_index] if field.HasField("oneof_index") else "",
            ]
            for field in message.field
        },
        "reserved": sorted(number for part in message.reserved_range for number in range(part.start, part.end)),
    }
    for nested in message.nested_type:
        _message(found, name, nested)
    for enum in message.enum_type:
        found[f"{name}.{enum.name}"] = {value.name: value.number for value in enum.value}


if __name__ == "__main__":
    wants_public = sys.argv[1:] == ["public"]
    sys.stdout.write(json.dumps(describe("" if wants_public else "service._pb.", public=wants_public)))
