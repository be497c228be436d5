"""Lists images with the unmodified public SDK, which first gets a token for what it is given; prints their ids."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
from yandex.cloud.compute.v1.image_service_pb2 import ListImagesRequest
from yandex.cloud.compute.v1.image_service_pb2_grpc import ImageServiceStub
from yandexcloud import SDK  # type: ignore[attr-defined]


def main(endpoint: str, ca: str, credential: str, folder: str) -> None:
    given: dict[str, Any] = json.loads(credential)
    sdk = SDK(endpoint=endpoint, root_certificates=Path(ca).read_bytes(), **given)
    try:
        listed = sdk.client(ImageServiceStub).List(ListImagesRequest(folder_id=folder), timeout=120)
    except grpc.RpcError as error:
        sys.stdout.write(json.dumps({"code": error.code().name, "text": error.details()}))
    else:
        sys.stdout.write(json.dumps({"code": "OK", "ids": [image.id for image in listed.images]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
