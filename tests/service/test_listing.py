"""Filters, orders and page tokens of lists."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service.faults import InvalidRequest
from service.filtering import Condition, parse
from service.listing import IMAGE_FIELDS, Listing
from tests.service.control import TOKEN, ControlPlane
from tests.service.test_image_calls import delete, image_id_of, list_ids, refused

RIGHT = {
    'name="a"': [Condition(field="name", values=("a",), negated=False)],
    "name != 'a'": [Condition(field="name", values=("a",), negated=True)],
    "name In (\"a\",'b')": [Condition(field="name", values=("a", "b"), negated=False)],
    'name not  IN("a")and id="x"': [
        Condition(field="name", values=("a",), negated=True),
        Condition(field="id", values=("x",), negated=False),
    ],
    r'name="\"\\\'" AND name=' + r"'\'\"'": [
        Condition(field="name", values=("\"\\'",), negated=False),
        Condition(field="name", values=("'\"",), negated=False),
    ],
    "min_disk_size = 4194304": [Condition(field="min_disk_size", values=("4194304",), negated=False)],
    'labels.a-b/c = "AND"': [Condition(field="labels.a-b/c", values=("AND",), negated=False)],
    " \t\n": [],
}


@pytest.mark.parametrize("text", RIGHT)
def test_filter_is_read(text: str) -> None:
    assert parse(text) == RIGHT[text]


@pytest.mark.parametrize(
    "text",
    [
        "name", "name=", "=", "name='a", 'name="a\\n"', "name=a", "name IN ()", "name IN ('a'", "name IN 'a'",
        "name IN ('a',)",
        "name NOT 'a'", "name ~ 'a'", "name='a' name='b'", "name='a' AND", "AND", "name='a' OR id='b'", "'name'='a'",
        "name='a';", "name IN ('a' 'b')", "name=='a'", "name='a')", "\0",
    ],
)  # fmt: skip
def test_filter_that_is_none_says_where(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert caught.value.violations[0].field == "filter"


@given(st.text(max_size=60))
def test_any_filter_is_read_or_refused(text: str) -> None:
    with suppress(InvalidRequest):  # and no other error
        Listing(IMAGE_FIELDS, "f", filter_text=text, order_by="")


@given(st.text(alphabet="abc\"'\\ ", max_size=20))
def test_quoted_value_comes_back(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse(f'name="{escaped}"') == [Condition(field="name", values=(value,), negated=False)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('name="a"', "a"),
        ('name != "a"', "bcd"),
        ('name IN ("a", "d", "x")', "ad"),
        ('name NOT IN ("a", "d")', "bc"),
        ('status="READY"', "ab"),
        ('status = "creating" AND name != "d"', "c"),
        ('family="fam"', "bd"),
        ('labels.env = "prod"', "a"),
        ('labels.env != "prod"', "bcd"),
        ('labels."x" = "y"', None),
        ('min_disk_size = "1073741824"', "d"),
        ("minDiskSize NOT IN (1073741824)", "abc"),
        ('id = "nothing"', ""),
        ('name="b" AND family="fam" AND status="READY"', "b"),
    ],
)
def test_list_filters(control: ControlPlane, text: str, found: str | None) -> None:
    control.ready(name="a", labels={"env": "prod"})
    control.ready(name="b", family="fam", labels={"env": "test"})
    control.create(name="c")
    control.create(name="d", family="fam", min_disk_size=1 << 30)
    request = images.ListImagesRequest(folder_id="f1", filter=text, order_by="name")
    if found is None:
        assert refused(lambda: control.images.List(request, metadata=TOKEN))[0] is grpc.StatusCode.INVALID_ARGUMENT
        return
    assert "".join(image.name for image in control.images.List(request, metadata=TOKEN).images) == found


def walk(control: ControlPlane, page_size: int, **fields: Any) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        ids, token = list_ids(control, page_size=page_size, page_token=token, **fields)
        assert len(ids) <= page_size
        assert len(token) <= 100
        found += ids
        if not token:
            return found


ORDERS = ["id", "name", "createdAt", "created_at", "family", "status", "min_disk_size", "storageSize"]


@pytest.mark.parametrize("field", ORDERS)
def test_every_order_goes_through_all_images_in_pages(control: ControlPlane, field: str) -> None:
    for name in ("b", "a" * 63, "", "", "z", "c"):
        image_id = control.ready(name=name, family="fam" if name > "b" else "")
        if name == "z":
            delete(control, image_id)
    control.create(min_disk_size=1 << 30)
    everything = walk(control, 1000, order_by=field)
    assert len(everything) == len(set(everything)) == 6
    for page_size in (1, 2, 4):
        assert walk(control, page_size, order_by=f"{field} ASC") == everything
        assert walk(control, page_size, order_by=f" {field}  desc") == everything[::-1]


def test_pages_in_order_of_name_are_stable_under_inserts_and_deletes(control: ControlPlane) -> None:
    ids = {name: image_id_of(control.create(name=name)) for name in ("b", "d", "f", "h")}
    ready = control.ready(name="c1")  # the oldest operation is claimed first: this makes another image ready
    del ready
    first, token = list_ids(control, order_by="name", page_size=2)
    assert first[0] == ids["b"]
    control.create(name="a")
    added = image_id_of(control.create(name="e"))
    rest, _ = list_ids(control, order_by="name", page_token=token)
    assert [image_id for image_id in rest if image_id in (*ids.values(), added)][-3:] == [added, ids["f"], ids["h"]]
    assert not set(first) & set(rest)


@pytest.mark.parametrize("order", ["name", "createdAt desc", ""])
def test_token_of_another_order_or_filter_is_refused(control: ControlPlane, order: str) -> None:
    for name in ("a", "b"):
        control.create(name=name)
    _, token = list_ids(control, order_by=order, page_size=1)
    assert refused(lambda: list_ids(control, order_by="family", page_token=token))[2] == ["page_token"]
    assert refused(lambda: list_ids(control, order_by=order, filter='id="x"', page_token=token))[2] == ["page_token"]
    for wrong in (token[:-9], token + "ü", token[:20], f"{token[:28]}-1", f"{token[:28]}{1 << 64}"):
        if not (order in ("name",) and wrong.isascii() and len(wrong) >= 28):  # any text is a place in order of names
            code, _, fields = refused(lambda wrong=wrong: list_ids(control, order_by="createdAt", page_token=wrong))
            assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])
