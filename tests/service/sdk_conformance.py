"""Every call of the image service with the unmodified public SDK, in a process of its own; exits 0 when all is as said.

Run as: python -m tests.service.sdk_conformance ENDPOINT CA SOURCE_URL VIRTUAL_SIZE; a CA of - means plaintext.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2
from yandex.cloud.access.access_pb2 import (
    AccessBinding,
    AccessBindingAction,
    AccessBindingDelta,
    AccessBindingsOperationResult,
    ListAccessBindingsRequest,
    SetAccessBindingsMetadata,
    SetAccessBindingsRequest,
    Subject,
    UpdateAccessBindingsMetadata,
    UpdateAccessBindingsRequest,
)
from yandex.cloud.compute.v1 import image_service_pb2
from yandex.cloud.compute.v1.image_pb2 import Image, Os
from yandex.cloud.compute.v1.image_service_pb2 import (
    CreateImageMetadata,
    CreateImageRequest,
    DeleteImageMetadata,
    DeleteImageRequest,
    GetImageLatestByFamilyRequest,
    GetImageRequest,
    ListImageOperationsRequest,
    ListImagesRequest,
    UpdateImageMetadata,
    UpdateImageRequest,
)
from yandex.cloud.compute.v1.image_service_pb2_grpc import ImageServiceStub
from yandex.cloud.endpoint import api_endpoint_service_pb2
from yandex.cloud.endpoint.api_endpoint_service_pb2 import GetApiEndpointRequest, ListApiEndpointsRequest
from yandex.cloud.endpoint.api_endpoint_service_pb2_grpc import ApiEndpointServiceStub
from yandex.cloud.iam.v1.iam_token_service_pb2 import CreateIamTokenRequest
from yandex.cloud.iam.v1.iam_token_service_pb2_grpc import IamTokenServiceStub
from yandex.cloud.operation import operation_service_pb2
from yandex.cloud.operation.operation_service_pb2 import CancelOperationRequest, GetOperationRequest
from yandex.cloud.operation.operation_service_pb2_grpc import OperationServiceStub
from yandexcloud import SDK, RetryInterceptor  # type: ignore[attr-defined]

GIB = 1 << 30


class Watch(grpc.UnaryUnaryClientInterceptor):
    """Notes which methods are called; then the calls are the SDK's own, or go on with a token where it sends none."""

    def __init__(self, retries: RetryInterceptor | None, header: tuple[str, str] | None) -> None:
        self.called: set[str] = set()
        self._retries = retries
        self._header = header

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make the call."""
        self.called.add(str(client_call_details.method).lstrip("/"))
        if self._header is not None:
            metadata = (*(client_call_details.metadata or ()), self._header)
            client_call_details = client_call_details._replace(metadata=metadata)
        if self._retries is None:
            return continuation(client_call_details, request)
        return self._retries.intercept_unary_unary(continuation, client_call_details, request)


class Conformance:
    """One caller and its folder, over TLS or in plaintext."""

    def __init__(self, endpoint: str, ca: str, uri: str, virtual_size: int) -> None:
        self.uri = uri
        self.virtual_size = virtual_size
        self.plaintext = ca == "-"
        root = None if self.plaintext else Path(ca).read_bytes()
        self.sdk = SDK(endpoint=endpoint, iam_token="any", root_certificates=root)
        self.where: dict[str, Any] = {"endpoint": endpoint, "insecure": True} if self.plaintext else {}
        header = ("authorization", "Bearer any") if self.plaintext else None
        self.watch = Watch(RetryInterceptor(max_retry_count=3), header)
        self.keyless = Watch(None, header)  # the SDK's interceptor adds a key of its own to each call
        self.images = self.client(ImageServiceStub)
        self.operations = self.client(OperationServiceStub)
        self.folder = f"sdk{uuid.uuid4().hex[:8]}"

    def client(self, stub: Any, *, keyed: bool = True) -> Any:
        """Return a client of one service, as the SDK makes it."""
        return self.sdk.client(stub, interceptor=self.watch if keyed else self.keyless, **self.where)

    def wait(self, operation: Any, response: Any, metadata: Any) -> Any:
        """Wait as the SDK does; return the response. Its waiter dials with TLS whatever it is told: poll without it."""
        assert operation.metadata.Is(metadata.DESCRIPTOR)
        if not self.plaintext:
            result: Any = self.sdk.wait_operation_and_get_result(
                operation, response_type=response, meta_type=metadata, timeout=240
            )
            return result.response
        deadline_s = time.monotonic() + 240
        while not operation.done:
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
            operation = self.operations.Get(GetOperationRequest(operation_id=operation.id))
            assert operation.metadata.Is(metadata.DESCRIPTOR)
        answer = response()
        assert operation.response.Unpack(answer), operation.error
        return answer

    def create(self, **fields: Any) -> Any:
        """Import an image and return it."""
        request = CreateImageRequest(**{"folder_id": self.folder, "uri": self.uri} | fields)
        return self.wait(self.images.Create(request), Image, CreateImageMetadata)

    def refused(self, call: Callable[[], Any], code: grpc.StatusCode) -> list[str]:
        """Make a call that must fail so; return the wrong fields it names."""
        failure: Any = None
        try:
            call()
        except grpc.RpcError as error:
            failure = error
        assert failure is not None, f"a call did not fail with {code}"
        assert failure.code() is code, failure
        fields = []
        for key, value in failure.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    bad = error_details_pb2.BadRequest()
                    if detail.Unpack(bad):
                        fields += [violation.field for violation in bad.field_violations]
        return fields

    def check_create_and_get(self) -> None:
        """All fields of a request come back; the smallest disk is the virtual size, rounded up."""
        image = self.create(
            name="full", description="d", labels={"a": "b"}, family="fam", product_ids=["p"], os=Os(type=Os.WINDOWS)
        )
        assert image == self.images.Get(GetImageRequest(image_id=image.id))
        assert (image.name, image.description, dict(image.labels), image.family) == ("full", "d", {"a": "b"}, "fam")
        assert (image.status, image.os.type, list(image.product_ids)) == (Image.READY, Os.WINDOWS, ["p"])
        rounded = -(-self.virtual_size // (4 << 20)) * (4 << 20)
        assert image.min_disk_size == image.size == rounded
        assert image.storage_size > 0
        assert len(image.id) == 20
        self.image = image

    def check_refusals(self) -> None:
        """Constraints and missing things are refused at once, with every wrong field named."""
        create, code = self.images.Create, grpc.StatusCode
        bad = CreateImageRequest(name="Bad\n", family="x", description="d" * 257)
        assert self.refused(lambda: create(bad), code.INVALID_ARGUMENT) == [
            "folder_id", "name", "description", "family", "source",
        ]  # fmt: skip
        taken = CreateImageRequest(folder_id=self.folder, name="full", uri=self.uri)
        self.refused(lambda: create(taken), code.ALREADY_EXISTS)
        for source in ("disk_id", "snapshot_id", "image_id"):
            missing = CreateImageRequest(folder_id=self.folder)
            setattr(missing, source, "nothing")
            self.refused(partial(create, missing), code.NOT_FOUND)
        self.refused(lambda: self.images.Get(GetImageRequest(image_id="nothing")), code.NOT_FOUND)
        self.refused(lambda: self.operations.Get(GetOperationRequest(operation_id="nothing")), code.NOT_FOUND)
        small = CreateImageRequest(folder_id=self.folder, image_id=self.image.id, min_disk_size=4 << 20)
        assert self.refused(lambda: create(small), code.INVALID_ARGUMENT) == ["min_disk_size"]

    def check_copy_and_family(self) -> None:
        """A copy in the folder inherits; the newest of a family is found."""
        request = CreateImageRequest(folder_id=self.folder, image_id=self.image.id, family="fam")
        copy = self.wait(self.images.Create(request), Image, CreateImageMetadata)
        assert (copy.os, copy.product_ids, copy.storage_size) == (
            self.image.os, self.image.product_ids, self.image.storage_size,
        )  # fmt: skip
        latest = GetImageLatestByFamilyRequest(folder_id=self.folder, family="fam")
        assert self.images.GetLatestByFamily(latest) == copy
        other = CreateImageRequest(folder_id=f"{self.folder}x", image_id=self.image.id)
        assert self.wait(self.images.Create(other), Image, CreateImageMetadata).storage_size == copy.storage_size
        self.delete(copy.id)
        assert self.images.GetLatestByFamily(latest) == self.image

    def check_list(self) -> None:
        """Pages, filters and orders."""
        made = {name: self.create(name=name).id for name in ("l1", "l2", "l3")}
        request = ListImagesRequest(folder_id=self.folder, page_size=2, order_by="createdAt desc")
        names = []
        while True:
            page = self.images.List(request)
            names += [image.name for image in page.images]
            assert len(page.next_page_token) <= 100
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert names == ["l3", "l2", "l1", "full"]
        wanted = ListImagesRequest(folder_id=self.folder, filter="name IN ('l1', 'l3') AND status = 'READY'")
        assert {image.id for image in self.images.List(wanted).images} == {made["l1"], made["l3"]}
        wrong = ListImagesRequest(folder_id=self.folder, page_size=1001)
        assert self.refused(lambda: self.images.List(wrong), grpc.StatusCode.INVALID_ARGUMENT) == ["page_size"]

    def check_update(self) -> None:
        """One call for each changed field, each with a mask of one path, as Terraform does; then all at once."""
        image_id = self.image.id
        changes = {"name": "renamed", "description": "new", "labels": {"x": "y"}, "min_disk_size": GIB}
        for path, value in changes.items():
            request = UpdateImageRequest(image_id=image_id, update_mask=FieldMask(paths=[path]), **{path: value})  # type: ignore[arg-type]
            image = self.wait(self.images.Update(request), Image, UpdateImageMetadata)
        assert (image.name, image.description, dict(image.labels), image.min_disk_size) == (*changes.values(),)
        assert image.min_disk_size // GIB == 1  # Terraform keeps whole GiB
        image = self.wait(self.images.Update(UpdateImageRequest(image_id=image_id)), Image, UpdateImageMetadata)
        assert (image.name, image.description, dict(image.labels)) == ("", "", {})
        assert image == self.images.Get(GetImageRequest(image_id=image_id))
        wrong = UpdateImageRequest(image_id=image_id, update_mask=FieldMask(paths=["family"]))
        assert self.refused(lambda: self.images.Update(wrong), grpc.StatusCode.INVALID_ARGUMENT) == ["update_mask"]

    def check_bindings(self) -> None:
        """Make an image public, look, and take it back."""
        public = AccessBinding(
            role_id="compute.images.user", subject=Subject(id="allAuthenticatedUsers", type="system")
        )
        request = SetAccessBindingsRequest(resource_id=self.image.id, access_bindings=[public])
        result = self.wait(
            self.images.SetAccessBindings(request), AccessBindingsOperationResult, SetAccessBindingsMetadata
        )
        assert [delta.action for delta in result.effective_deltas] == [AccessBindingAction.ADD]
        listed = self.images.ListAccessBindings(ListAccessBindingsRequest(resource_id=self.image.id))
        assert list(listed.access_bindings) == [public]
        delta = AccessBindingDelta(action=AccessBindingAction.REMOVE, access_binding=public)
        update = UpdateAccessBindingsRequest(resource_id=self.image.id, access_binding_deltas=[delta])
        self.wait(self.images.UpdateAccessBindings(update), AccessBindingsOperationResult, UpdateAccessBindingsMetadata)
        listed = self.images.ListAccessBindings(ListAccessBindingsRequest(resource_id=self.image.id))
        assert list(listed.access_bindings) == []

    def check_operations(self) -> None:
        """Cancel, repeat under one key, poll at one second, list."""
        key = (("idempotency-key", str(uuid.uuid4())),)
        client = self.client(ImageServiceStub, keyed=False)
        request = CreateImageRequest(folder_id=self.folder, name="once", uri=self.uri)
        first, again = client.Create(request, metadata=key), client.Create(request, metadata=key)
        assert first.id == again.id
        cancelled = self.operations.Cancel(CancelOperationRequest(operation_id=first.id))
        while not cancelled.done:
            time.sleep(1)
            cancelled = self.operations.Get(GetOperationRequest(operation_id=first.id))
        assert cancelled.error.code in (0, grpc.StatusCode.CANCELLED.value[0])
        assert self.operations.Cancel(CancelOperationRequest(operation_id=first.id)) == cancelled
        other = CreateImageRequest(folder_id=self.folder, name="twice", uri=self.uri)
        wrong = self.refused(lambda: client.Create(other, metadata=key), grpc.StatusCode.INVALID_ARGUMENT)
        assert wrong == ["idempotency-key"]
        found = self.images.ListOperations(ListImageOperationsRequest(image_id=self.image.id, page_size=1000))
        assert [operation.done for operation in found.operations] == [True] * len(found.operations)
        assert found.operations[-1].metadata.Is(CreateImageMetadata.DESCRIPTOR)

    def check_habits(self) -> None:
        """Terraform sends a min_disk_size of 0 and an Os without type; Packer imports and deletes what is old."""
        terraform = self.create(name="tf", min_disk_size=0, os=Os(type=Os.TYPE_UNSPECIFIED), family="packer")
        assert terraform.os.type == Os.LINUX
        assert terraform.min_disk_size > 0
        old = self.images.GetLatestByFamily(GetImageLatestByFamilyRequest(folder_id=self.folder, family="packer"))
        new = self.create(name="packer-2", family="packer", labels={"build": "2"})
        assert self.images.Get(GetImageRequest(image_id=new.id)).status == Image.READY
        self.delete(old.id)
        latest = self.images.GetLatestByFamily(GetImageLatestByFamilyRequest(folder_id=self.folder, family="packer"))
        assert latest.id == new.id

    def check_delete(self) -> None:
        """What is deleted is gone, and its operations are not."""
        self.delete(self.image.id)
        gone = GetImageRequest(image_id=self.image.id)
        self.refused(lambda: self.images.Get(gone), grpc.StatusCode.NOT_FOUND)
        assert self.images.ListOperations(ListImageOperationsRequest(image_id=self.image.id)).operations

    def delete(self, image_id: str) -> None:
        """Delete an image as the SDK does."""
        operation = self.images.Delete(DeleteImageRequest(image_id=image_id))
        self.wait(operation, Empty, DeleteImageMetadata)

    def check_discovery(self) -> None:
        """Addresses of the services, and a token for a credential; neither call has a token."""
        endpoints = self.client(ApiEndpointServiceStub)
        listed = endpoints.List(ListApiEndpointsRequest()).endpoints
        assert {one.id for one in listed} == {"compute", "endpoint", "iam", "operation"}
        for one in listed:
            assert endpoints.Get(GetApiEndpointRequest(api_endpoint_id=one.id)) == one
        unknown = GetApiEndpointRequest(api_endpoint_id="storage")
        self.refused(lambda: endpoints.Get(unknown), grpc.StatusCode.NOT_FOUND)
        answer = self.client(IamTokenServiceStub).Create(CreateIamTokenRequest(yandex_passport_oauth_token="mine"))
        assert answer.iam_token
        assert answer.expires_at.seconds > time.time()

    def check_completeness(self) -> None:
        """No call of these services was left out."""
        for file in (image_service_pb2, operation_service_pb2, api_endpoint_service_pb2):
            for service in file.DESCRIPTOR.services_by_name.values():
                missing = {f"{service.full_name}/{method.name}" for method in service.methods} - self.watch.called
                assert not missing, missing


def main(endpoint: str, ca: str, uri: str, virtual_size: str) -> None:
    """Check everything, in this order."""
    run = Conformance(endpoint, ca, uri, int(virtual_size))
    for check in (
        run.check_create_and_get, run.check_refusals, run.check_copy_and_family, run.check_list, run.check_update,
        run.check_bindings, run.check_operations, run.check_habits, run.check_delete, run.check_discovery,
        run.check_completeness,
    ):  # fmt: skip
        check()
        sys.stdout.write(f"{check.__name__}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
