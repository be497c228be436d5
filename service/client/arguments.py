"""The arguments of `dataplane image`; standard library only, because every start of the program may read them."""

from __future__ import annotations

import argparse

TOKEN_VARIABLE = "DATAPLANE_TOKEN"  # noqa: S105 - the name of a variable, not a token


def add(parser: argparse.ArgumentParser) -> None:
    """Add the actions of the verb, each with its own arguments."""
    common = _common()
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    create = actions.add_parser("create", parents=[common], help="make an image from a URL or from what is there")
    source = create.add_mutually_exclusive_group(required=True)
    source.add_argument("--uri", metavar="URL", help="http or https URL of a disk image")
    source.add_argument("--image", metavar="ID", help="an image of this folder, or of another one that you may see")
    source.add_argument("--snapshot", metavar="ID", help="a snapshot likewise")
    source.add_argument("--disk", metavar="ID", help="a disk likewise, as it is now")
    create.add_argument("--folder", required=True, metavar="ID")
    create.add_argument("--name", default="", help="unique in the folder; may be left out")
    create.add_argument("--description", default="")
    create.add_argument("--family", default="")
    create.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    create.add_argument("--min-disk-size", default="0", metavar="SIZE", help="bytes, or with K, M, G, T")
    create.add_argument("--os", choices=("linux", "windows"), help="default: that of the source image, or linux")
    create.add_argument("--product", action="append", default=[], metavar="ID", help="may be repeated")
    create.add_argument("--pooled", action="store_true", help="make the first reads of its disks quick")
    create.add_argument("--key", default="", help="idempotency key: however often it is sent, one image is made")
    create.add_argument("--wait", action="store_true", help="follow the operation to its end, with live progress")

    get = actions.add_parser("get", parents=[common], help="show one image")
    get.add_argument("image_id", metavar="IMAGE_ID")

    listing = actions.add_parser("list", parents=[common], help="show the images of a folder")
    listing.add_argument("--folder", required=True, metavar="ID")
    listing.add_argument("--name", help="only the image of this name")
    listing.add_argument("--filter", default="", help='such as: family = "debian" AND status != "CREATING"')
    listing.add_argument("--order-by", default="", metavar="FIELD", help="such as: createdAt desc")

    latest = actions.add_parser("latest", parents=[common], help="show the newest image of a family that is ready")
    latest.add_argument("--folder", required=True, metavar="ID")
    latest.add_argument("--family", required=True)

    update = actions.add_parser("update", parents=[common], help="change what is given, and nothing else")
    update.add_argument("image_id", metavar="IMAGE_ID")
    update.add_argument("--name", help="empty: no name")
    update.add_argument("--description")
    update.add_argument("--label", action="append", metavar="KEY=VALUE", help="all labels there are to be; repeat it")
    update.add_argument("--no-labels", action="store_true", help="remove all labels")
    update.add_argument("--min-disk-size", metavar="SIZE", help="0: the smallest that is allowed")

    history = actions.add_parser("operations", parents=[common], help="show the operations of an image, newest first")
    history.add_argument("image_id", metavar="IMAGE_ID")

    delete = actions.add_parser("delete", parents=[common], help="remove an image")
    delete.add_argument("image_id", metavar="IMAGE_ID")

    cancel = actions.add_parser("cancel", parents=[common], help="stop an operation")
    cancel.add_argument("operation_id", metavar="OPERATION_ID")

    refresh = actions.add_parser("refresh", parents=[common], help="give an import another URL of the same object")
    refresh.add_argument("operation_id", metavar="OPERATION_ID")
    refresh.add_argument("--uri", required=True, metavar="URL")

    wait = actions.add_parser("wait", parents=[common], help="follow an operation to its end, with live progress")
    wait.add_argument("operation_id", metavar="OPERATION_ID")


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--endpoint", required=True, metavar="HOST:PORT", help="address of the server")
    common.add_argument("--ca", metavar="FILE", help="certificate of the authority to trust; default: the system's")
    common.add_argument("--client-cert", metavar="FILE", help="certificate to show to a server that asks for one")
    common.add_argument("--client-key", metavar="FILE", help="private key of that certificate")
    common.add_argument(
        "--plaintext", action="store_true", help="speak without TLS; tokens are sent to this machine only then"
    )
    common.add_argument("--token", help=f"bearer token; default: ${TOKEN_VARIABLE}")
    common.add_argument("--json", action="store_true", help="print JSON with integers of bytes")
    return common
