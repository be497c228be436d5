"""What a resource takes over from the one it is made from, where the request leaves it open."""

from __future__ import annotations

from dataclasses import replace

from service.model import Json, S, Spec

LINUX: Json = {"type": "LINUX"}


def inherit(spec: S, source: Spec | None) -> S:
    """Return `spec` without open ends: operating system and hardware of the source, and its products before others.

    An operating system that neither names is Linux.
    """
    os = spec.os
    if "type" not in os:
        os = (source.os if source is not None else LINUX) | os
    if source is None:
        return replace(spec, os=os)
    hardware = spec.hardware_generation if spec.hardware_generation is not None else source.hardware_generation
    products = tuple(dict.fromkeys((*source.product_ids, *spec.product_ids)))
    return replace(spec, os=os, hardware_generation=hardware, product_ids=products)
