"""Makes an image with the unmodified public SDK, in a process of its own; prints what the SDK saw as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from yandex.cloud.compute.v1.image_pb2 import Image
from yandex.cloud.compute.v1.image_service_pb2 import (
    CreateImageMetadata,
    CreateImageRequest,
    DeleteImageMetadata,
    DeleteImageRequest,
    GetImageRequest,
    ListImagesRequest,
)
from yandex.cloud.compute.v1.image_service_pb2_grpc import ImageServiceStub
from yandexcloud import SDK  # type: ignore[attr-defined]
from yandexcloud.operations import OperationResult


def main(endpoint: str, ca: str, uri: str, name: str) -> None:
    root = Path(ca).read_bytes()
    sdk = SDK(endpoint=endpoint, iam_token="any", root_certificates=root)
    service = sdk.client(ImageServiceStub)
    operation = service.Create(CreateImageRequest(folder_id="sdk", name=name, uri=uri, labels={"from": "sdk"}))
    result = sdk.wait_operation_and_get_result(
        operation, response_type=Image, meta_type=CreateImageMetadata, timeout=120
    )
    assert isinstance(result, OperationResult)
    image = result.response
    assert image is not None
    assert result.meta is not None
    assert result.meta.image_id == image.id
    assert service.Get(GetImageRequest(image_id=image.id)) == image

    with_oauth = SDK(endpoint=endpoint, token="oauth", root_certificates=root)  # asks for an IAM token
    listed = with_oauth.client(ImageServiceStub).List(ListImagesRequest(folder_id="sdk", filter=f'name="{name}"'))
    assert [one.id for one in listed.images] == [image.id]

    if name == "gone":
        deleted = service.Delete(DeleteImageRequest(image_id=image.id))
        sdk.wait_operation_and_get_result(deleted, meta_type=DeleteImageMetadata, timeout=120)
    seen = {"id": image.id, "status": image.status, "size": image.size, "storage_size": image.storage_size}
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
