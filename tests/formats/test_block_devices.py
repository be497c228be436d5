"""Block devices as sources, from the probe to the store: loop devices, which need root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.analysis.measuring import measure
from dataplane.errors import InvalidImage
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store
from tests.formats.direct import MIB, sample_disk
from tests.formats.helpers import content_of, convert, create, qemu_content, qemu_io, run
from tests.formats.qcow2_writer import Image

DEVICE_SIZE = 40 * MIB
SIZE = 20 * MIB

MakeDevice = Callable[[bytes], Path]


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[MakeDevice]:
    """Return what makes a read-only loop device with the content given; each is as long as that content."""
    devices: list[str] = []

    def make(content: bytes) -> Path:
        file = tmp_path / f"device-{len(devices)}"
        file.write_bytes(content)
        try:
            done = subprocess.run(
                ["losetup", "--find", "--show", "--read-only", file], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            pytest.skip("losetup is not installed")
        if done.returncode != 0:
            pytest.skip(f"no loop device here: {done.stderr.strip()}")
        devices.append(done.stdout.strip())
        return Path(devices[-1])

    try:
        yield make
    finally:
        for device in devices:
            subprocess.run(["losetup", "--detach", device], check=True)


def roots(folder: Path, *sources: tuple[Path, dict[str, object]]) -> list[str]:
    """Return the roots that imports of sources give."""
    found = []
    with Store.create(folder) as store:
        for number, (path, options) in enumerate(sources):
            with open_source(path, **options) as source:  # type: ignore[arg-type]
                found.append(str(import_image(store, source, name=str(number)).root))
    return found


def test_raw_device_is_a_disk_of_its_size(tmp_path: Path, make_device: MakeDevice) -> None:
    disk = sample_disk(SIZE + 512)
    device = make_device(disk)
    assert os.stat(device).st_size == 0  # the size of a device is not that of its node
    with open_source(device) as source:
        assert (source.format, source.virtual_size) == ("raw", len(disk))
        assert measure([source], codec="none").total.virtual_size == len(disk)
    assert content_of(device)[0] == disk
    first, second = roots(tmp_path / "store", (device, {}), (tmp_path / "device-0", {}))
    assert first == second


@pytest.mark.parametrize("compressed", [False, True])
def test_qcow2_on_a_device_longer_than_the_image(tmp_path: Path, make_device: MakeDevice, compressed: bool) -> None:
    """As a volume manager gives it: the image begins the device, and what lies behind it is of another age."""
    (tmp_path / "plain").write_bytes(sample_disk(SIZE))
    path = convert(tmp_path / "plain", tmp_path / "disk", *(["-c"] if compressed else []), form="raw")
    device = make_device(path.read_bytes().ljust(DEVICE_SIZE, b"\xe5"))
    with open_source(device) as source:
        assert (source.format, source.virtual_size) == ("qcow2", SIZE)
    assert content_of(device)[0] == (tmp_path / "plain").read_bytes()
    first, second = roots(tmp_path / "store", (device, {}), (tmp_path / "plain", {}))
    assert first == second


@pytest.mark.parametrize(("form", "options"), [("vmdk", "subformat=streamOptimized"), ("vdi", ""), ("vhdx", "")])
def test_image_of_another_hypervisor_on_a_device(
    tmp_path: Path, make_device: MakeDevice, form: str, options: str
) -> None:
    (tmp_path / "plain").write_bytes(sample_disk(SIZE))
    path = convert(tmp_path / "plain", tmp_path / "disk", *(["-o", options] if options else []), form="raw", to=form)
    device = make_device(path.read_bytes() + bytes(-path.stat().st_size % 512))
    assert content_of(device)[0] == (tmp_path / "plain").read_bytes()


def test_overlay_over_a_device(tmp_path: Path, make_device: MakeDevice) -> None:
    """A chain whose lowest image is a raw device shorter than the overlay, which names it as a device."""
    device = make_device(sample_disk(SIZE))
    top = tmp_path / "top"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", device, "-F", "host_device", top, str(SIZE + 3 * MIB))
    qemu_io(top, "write -P 7 1M 200k", f"write -P 8 {SIZE - 512} 64k")
    content, _ = content_of(top, backing=[device])
    assert content == qemu_content(top)


def test_data_file_that_is_a_device(tmp_path: Path, make_device: MakeDevice) -> None:
    path = create(tmp_path / "disk", SIZE, data_file=tmp_path / "data", data_file_raw="on")
    qemu_io(path, "write -P 5 3M 1M", "write -P 6 19M 1M")
    device = make_device((tmp_path / "data").read_bytes())
    assert content_of(path, data_file=device)[0] == qemu_content(path)


def test_device_shorter_than_its_image_is_cut_short(make_device: MakeDevice) -> None:
    image = Image(2 * MIB, clusters={31: ("data", b"x" * 65536)}).write()
    device = make_device(image[:-512])
    with pytest.raises(InvalidImage, match=r"cut short|not in the file"):
        content_of(device)
