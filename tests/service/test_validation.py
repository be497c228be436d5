"""Every constraint on a request, at its bounds and just outside them."""

from __future__ import annotations

import string
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from service import rules, validation
from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.compute.v1 import hardware_generation_pb2 as pci
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2 as iam
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations

Hardware = pci.HardwareGeneration
Legacy = pci.LegacyHardwareFeatures
Second = pci.Generation2HardwareFeatures


def create(**fields: Any) -> images.CreateImageRequest:
    source = {} if {"image_id", "disk_id", "snapshot_id", "uri"} & fields.keys() else {"uri": "https://h/disk"}
    return images.CreateImageRequest(**{"folder_id": "f1"} | source | fields)


def fields_of(request: Message) -> list[str]:
    return [violation.field for violation in validation.violations(request)]


RIGHT = {
    "least": create(),
    "folder_50": create(folder_id="f" * 50),
    "folder_50_wide": create(folder_id="ф" * 50),
    "name_1": create(name="a"),
    "name_63": create(name="a" * 63),
    "name_underscore": create(name="a_-0"),
    "description_256_wide": create(description="ы" * 256),
    "description_lines": create(description="two\nlines"),
    "labels_64": create(labels={f"k{i}": "v" for i in range(64)}),
    "label_key_63": create(labels={"k" * 63: "v" * 63}),
    "label_all_characters": create(labels={"k-_./@0": "-_./@0z"}),
    "label_value_empty": create(labels={"k": ""}),
    "family_3": create(family="a-1"),
    "family_63": create(family="a" * 63),
    "min_disk_size_unset": create(min_disk_size=0),
    "min_disk_size_least": create(min_disk_size=4194304),
    "min_disk_size_most": create(min_disk_size=4398046511104),
    "min_disk_size_odd": create(min_disk_size=4194305),
    "product_ids": create(product_ids=["p" * 50, "", "p"]),
    "image_id_50": create(image_id="i" * 50),
    "disk_id": create(disk_id="d"),
    "snapshot_id": create(snapshot_id="s"),
    "uri_http": create(uri="http://h:80/a?q=1#f"),
    "uri_upper_case": create(uri="HTTPS://H/a"),
    "uri_ipv6": create(uri="https://[::1]:9000/a"),
    "uri_8192": create(uri="https://h/" + "a" * 8182),
    "os_unset": create(os=image_pb2.Os()),
    "os_windows": create(os=image_pb2.Os(type=image_pb2.Os.WINDOWS)),
    "hardware_legacy": create(hardware_generation=Hardware(legacy_features=Legacy(pci_topology=pci.PCI_TOPOLOGY_V2))),
    "hardware_second": create(hardware_generation=Hardware(generation2_features=Second(vtpm_enabled=True))),
    "hardware_empty": create(hardware_generation=Hardware()),
    "get": images.GetImageRequest(image_id="i" * 50),
    "delete": images.DeleteImageRequest(image_id="i"),
    "list": images.ListImagesRequest(folder_id="f", page_size=1000, page_token="t" * 100, filter="f" * 1000),
    "list_order": images.ListImagesRequest(folder_id="f", order_by="o" * 100),
    "operation_get": operations.GetOperationRequest(operation_id="o"),
    "operation_cancel": operations.CancelOperationRequest(operation_id="o" * 200),
    "token_oauth": iam.CreateIamTokenRequest(yandex_passport_oauth_token="t" * 4000),
    "token_jwt": iam.CreateIamTokenRequest(jwt="t" * 8000),
    "sizes": details.GetSizesRequest(image_id="i"),
    "progress": details.GetProgressRequest(operation_id="o"),
    "watch": details.WatchProgressRequest(operation_id="o"),
}

WRONG = {
    "folder_missing": (create(folder_id=""), ["folder_id"]),
    "folder_51": (create(folder_id="f" * 51), ["folder_id"]),
    "folder_nul": (create(folder_id="f\0"), ["folder_id"]),
    "name_64": (create(name="a" * 64), ["name"]),
    "name_upper_case": (create(name="A"), ["name"]),
    "name_digit_first": (create(name="1a"), ["name"]),
    "name_dash_last": (create(name="a-"), ["name"]),
    "name_trailing_newline": (create(name="a\n"), ["name"]),
    "name_second_line": (create(name="a\nb"), ["name"]),
    "name_other_alphabet": (create(name="имя"), ["name"]),
    "name_other_digit": (create(name="a٣a"), ["name"]),
    "description_257": (create(description="d" * 257), ["description"]),
    "description_nul": (create(description="a\0b"), ["description"]),
    "labels_65": (create(labels={f"k{i}": "" for i in range(65)}), ["labels"]),
    "label_key_empty": (create(labels={"": "v"}), ["labels", "labels"]),
    "label_key_64": (create(labels={"k" * 64: "v"}), ["labels"]),
    "label_key_upper_case": (create(labels={"K": "v"}), ["labels"]),
    "label_key_newline": (create(labels={"k\n": "v"}), ["labels"]),
    "label_key_backslash": (create(labels={"k\\": "v"}), ["labels"]),
    "label_value_64": (create(labels={"k": "v" * 64}), ["labels"]),
    "label_value_space": (create(labels={"k": "a b"}), ["labels"]),
    "label_value_newline": (create(labels={"k": "v\n"}), ["labels"]),
    "family_2": (create(family="ab"), ["family"]),
    "family_64": (create(family="a" * 64), ["family"]),
    "family_underscore": (create(family="a_b"), ["family"]),
    "family_newline": (create(family="abc\n"), ["family"]),
    "min_disk_size_small": (create(min_disk_size=4194303), ["min_disk_size"]),
    "min_disk_size_large": (create(min_disk_size=4398046511105), ["min_disk_size"]),
    "min_disk_size_negative": (create(min_disk_size=-1), ["min_disk_size"]),
    "product_id_51": (create(product_ids=["ok", "p" * 51]), ["product_ids[1]"]),
    "source_missing": (images.CreateImageRequest(folder_id="f"), ["source"]),
    "image_id_empty": (create(image_id=""), ["image_id"]),
    "image_id_51": (create(image_id="i" * 51), ["image_id"]),
    "disk_id_51": (create(disk_id="i" * 51), ["disk_id"]),
    "snapshot_id_empty": (create(snapshot_id=""), ["snapshot_id"]),
    "uri_empty": (create(uri=""), ["uri"]),
    "uri_path": (create(uri="/etc/passwd"), ["uri"]),
    "uri_file": (create(uri="file:///etc/passwd"), ["uri"]),
    "uri_ftp": (create(uri="ftp://h/a"), ["uri"]),
    "uri_no_host": (create(uri="https:///a"), ["uri"]),
    "uri_bad_port": (create(uri="https://h:99999/a"), ["uri"]),
    "uri_space": (create(uri="https://h/a b"), ["uri"]),
    "uri_newline": (create(uri="https://h/a\n"), ["uri"]),
    "uri_leading_space": (create(uri=" https://h/a"), ["uri"]),
    "uri_backslash": (create(uri="https://h\\@evil/"), ["uri"]),
    "uri_bad_ipv6": (create(uri="https://[::1/a"), ["uri"]),
    "uri_8193": (create(uri="https://h/" + "a" * 8183), ["uri"]),
    "os_unknown": (create(os=image_pb2.Os(type=image_pb2.Os.Type.ValueType(7))), ["os.type"]),
    "driver_257": (create(os=image_pb2.Os(nvidia=image_pb2.Nvidia(driver="d" * 257))), ["os.nvidia.driver"]),
    "topology_unknown": (
        create(hardware_generation=Hardware(legacy_features=Legacy(pci_topology=pci.PCITopology.ValueType(9)))),
        ["hardware_generation.legacy_features.pci_topology"],
    ),
    "everything_at_once": (
        images.CreateImageRequest(name="-", description="d" * 257, family="f", min_disk_size=1, labels={"K": "v"}),
        ["folder_id", "name", "description", "labels", "family", "min_disk_size", "source"],
    ),
    "get_missing": (images.GetImageRequest(), ["image_id"]),
    "get_51": (images.GetImageRequest(image_id="i" * 51), ["image_id"]),
    "delete_missing": (images.DeleteImageRequest(), ["image_id"]),
    "list_missing": (images.ListImagesRequest(), ["folder_id"]),
    "list_page_size": (images.ListImagesRequest(folder_id="f", page_size=1001), ["page_size"]),
    "list_page_size_negative": (images.ListImagesRequest(folder_id="f", page_size=-1), ["page_size"]),
    "list_long": (
        images.ListImagesRequest(folder_id="f", page_token="t" * 101, filter="f" * 1001, order_by="o" * 101),
        ["page_token", "filter", "order_by"],
    ),
    "operation_missing": (operations.GetOperationRequest(), ["operation_id"]),
    "cancel_missing": (operations.CancelOperationRequest(), ["operation_id"]),
    "token_missing": (iam.CreateIamTokenRequest(), ["identity"]),
    "token_4001": (iam.CreateIamTokenRequest(yandex_passport_oauth_token="t" * 4001), ["yandex_passport_oauth_token"]),
    "token_8001": (iam.CreateIamTokenRequest(jwt="t" * 8001), ["jwt"]),
    "sizes_missing": (details.GetSizesRequest(), ["resource"]),
    "sizes_empty": (details.GetSizesRequest(image_id=""), ["image_id"]),
    "sizes_snapshot_51": (details.GetSizesRequest(snapshot_id="s" * 51), ["snapshot_id"]),
}


@pytest.mark.parametrize("request_", RIGHT.values(), ids=RIGHT)
def test_right_request_has_no_violation(request_: Message) -> None:
    assert fields_of(request_) == []


@pytest.mark.parametrize(("request_", "fields"), WRONG.values(), ids=WRONG)
def test_wrong_request_names_every_field(request_: Message, fields: list[str]) -> None:
    assert fields_of(request_) == fields


NAME_CHARACTERS = string.ascii_lowercase + string.digits + "-_"


def is_name(text: str) -> bool:
    """The rule of names, said without a regular expression."""
    if text == "":
        return True
    inner = all(character in NAME_CHARACTERS for character in text)
    return inner and len(text) <= 63 and text[0] in string.ascii_lowercase and text[-1] not in "-_"


@given(st.text(alphabet=NAME_CHARACTERS + "A\n é", max_size=66))
def test_name_pattern_matches_oracle(name: str) -> None:
    assert (fields_of(create(name=name)) == []) == is_name(name)


@given(st.text(max_size=40))
def test_accepted_uri_is_a_web_url_of_one_word(uri: str) -> None:
    if rules.is_web_url(uri):
        assert uri.lower().startswith(("http://", "https://"))
        assert not set(uri) & set(" \t\r\n\0\\")
