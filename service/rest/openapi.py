"""An OpenAPI document, and a page to read, generated from the descriptors of the calls and their messages."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.rpc import status_pb2

from dataplane import __version__
from service.rest.http_rules import Route, Routes

Json = dict[str, Any]

_INTEGER_32: Json = {"type": "integer", "format": "int32"}
_INTEGER_64: Json = {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
_SCALARS: dict[int, Json] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    **dict.fromkeys(
        (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64), _INTEGER_64
    ),
    **dict.fromkeys(
        (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_SINT32), _INTEGER_32
    ),
}
_WELL_KNOWN: dict[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9.]+s$"},
    "google.protobuf.FieldMask": {"type": "string", "description": "names of fields, separated by commas"},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
    "google.protobuf.BoolValue": {"type": "boolean"},
    "google.protobuf.Int64Value": _INTEGER_64,
}


def document(routes: Routes) -> Json:
    """Return the OpenAPI document of `routes`."""
    schemas: dict[str, Json] = {}
    paths: dict[str, Json] = {}
    for route in routes.all:
        path = re.sub(r"\{(\w+)\}", lambda match: "{" + _camel(match[1]) + "}", route.template)
        paths.setdefault(path, {})[route.verb.lower()] = _operation(route, schemas)
    _add(status_pb2.Status.DESCRIPTOR, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dataplane image service", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def page(described: Json) -> str:
    """Return a page that lists the calls; it loads nothing from anywhere."""
    rows = []
    for path, verbs in described["paths"].items():
        for verb, operation in verbs.items():
            names = ", ".join(parameter["name"] for parameter in operation["parameters"])
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            shape = body.get("$ref", "").rpartition("/")[2]
            cells = (verb.upper(), path, operation["operationId"], names, shape)
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("Verb", "Path", "Call", "Parameters", "Body"))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Dataplane image service</title>"
        "<style>body{font:15px sans-serif;margin:2em}td,th{text-align:left;padding:.3em .8em}</style>"
        "<h1>Dataplane image service</h1><p>Messages: <a href=/openapi.json>/openapi.json</a></p>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table></html>"
    )


def _operation(route: Route, schemas: dict[str, Json]) -> Json:
    request = route.method.input_type
    suffix = "_post" if route.verb == "POST" and not route.body else ""
    failure = _reference(status_pb2.Status.DESCRIPTOR, schemas)
    operation: Json = {
        "operationId": f"{route.method.containing_service.name}_{route.method.name}{suffix}",
        "tags": [route.method.containing_service.full_name],
        "parameters": [*_path_parameters(route), *([] if route.body else _query_parameters(route))],
        "responses": {
            "200": {"description": "done", "content": _content(_reference(route.method.output_type, schemas))},
            "default": {
                "description": "failed",
                "content": _content(failure),
            },
        },
    }
    if route.body:
        operation["requestBody"] = {"required": True, "content": _content(_reference(request, schemas))}
    return operation


def _path_parameters(route: Route) -> Iterator[Json]:
    for name in route.variables:
        yield {
            "name": _camel(name),
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": "^[^/:]+$"},
        }


def _query_parameters(route: Route) -> Iterator[Json]:
    for field in route.method.input_type.fields:
        if field.name in route.variables or (field.message_type and field.message_type.full_name not in _WELL_KNOWN):
            continue
        yield {"name": field.json_name, "in": "query", "schema": _field_schema(field, {})}


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _reference(descriptor: Descriptor, schemas: dict[str, Json]) -> Json:
    if descriptor.full_name in _WELL_KNOWN:
        return _WELL_KNOWN[descriptor.full_name]
    _add(descriptor, schemas)
    return {"$ref": f"#/components/schemas/{descriptor.full_name}"}


def _add(descriptor: Descriptor, schemas: dict[str, Json]) -> None:
    """Describe a message and those it is made of, once."""
    if descriptor.full_name in schemas:
        return
    described: Json = {"type": "object", "additionalProperties": False, "properties": {}}
    schemas[descriptor.full_name] = described  # before its fields: messages may hold themselves
    for field in descriptor.fields:
        described["properties"][field.json_name] = _field_schema(field, schemas)


def _field_schema(field: FieldDescriptor, schemas: dict[str, Json]) -> Json:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _one(message.fields_by_name["value"], schemas)}
    return {"type": "array", "items": _one(field, schemas)} if field.is_repeated else _one(field, schemas)


def _one(field: FieldDescriptor, schemas: dict[str, Json]) -> Json:
    if field.message_type is not None:
        return _reference(field.message_type, schemas)
    if field.enum_type is not None:
        return _enum(field.enum_type)
    return _SCALARS[field.type]


def _enum(descriptor: EnumDescriptor) -> Json:
    return {"type": "string", "enum": [value.name for value in descriptor.values]}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
