"""The arguments of `dataplane image`; standard library only, because every start of the program may read them."""

from __future__ import annotations

import argparse

TOKEN_VARIABLE = "DATAPLANE_TOKEN"  # noqa: S105 - the name of a variable, not a token


def add(parser: argparse.ArgumentParser) -> None:
    """Add the actions of the verb, each with its own arguments."""
    common = _common()
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|get|list|delete|cancel|wait")

    create = actions.add_parser("create", parents=[common], help="make an image from a URL")
    create.add_argument("--uri", required=True, metavar="URL", help="http or https URL of a disk image")
    create.add_argument("--folder", required=True, metavar="ID")
    create.add_argument("--name", default="", help="unique in the folder; may be left out")
    create.add_argument("--description", default="")
    create.add_argument("--family", default="")
    create.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    create.add_argument("--min-disk-size", default="0", metavar="SIZE", help="bytes, or with K, M, G, T")
    create.add_argument("--wait", action="store_true", help="follow the operation to its end, with live progress")

    get = actions.add_parser("get", parents=[common], help="show one image")
    get.add_argument("image_id", metavar="IMAGE_ID")

    listing = actions.add_parser("list", parents=[common], help="show the images of a folder")
    listing.add_argument("--folder", required=True, metavar="ID")
    listing.add_argument("--name", help="only the image of this name")

    delete = actions.add_parser("delete", parents=[common], help="remove an image")
    delete.add_argument("image_id", metavar="IMAGE_ID")

    cancel = actions.add_parser("cancel", parents=[common], help="stop an operation")
    cancel.add_argument("operation_id", metavar="OPERATION_ID")

    wait = actions.add_parser("wait", parents=[common], help="follow an operation to its end, with live progress")
    wait.add_argument("operation_id", metavar="OPERATION_ID")


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--endpoint", required=True, metavar="HOST:PORT", help="address of the server")
    common.add_argument("--ca", metavar="FILE", help="certificate of the authority to trust; default: the system's")
    common.add_argument("--token", help=f"bearer token; default: ${TOKEN_VARIABLE}")
    common.add_argument("--json", action="store_true", help="print JSON with integers of bytes")
    return common
