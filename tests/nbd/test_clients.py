"""The clients that people use, Debian's own: qemu-img, qemu-io, nbdinfo and nbdcopy."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataplane.disks.disk import Disk, open_disk
from dataplane.disks.pinning import create_disk
from dataplane.disks.snapshot import snapshot_disk
from dataplane.store.store import Store
from tests.disk.helpers import exported
from tests.disks import KIB, MIB
from tests.nbd.conftest import SIZE
from tests.nbd.serving import Served, serving
from tests.nbd.tls import server_context

CLIENT_S = 300


def run(*command: object, check: bool = True) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=CLIENT_S, check=False
    )
    if check:
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_clients_are_installed() -> None:
    assert [name for name in ("nbdinfo", "nbdcopy", "qemu-io", "qemu-img") if shutil.which(name) is None] == []


def test_nbdcopy_copies_the_image(served: Served, tmp_path: Path, content: bytes) -> None:
    run("nbdcopy", served.url("disk"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_nbdcopy_fills_a_disk(store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "source").write_bytes(content)
    create_disk(store, tmp_path / "empty", size=SIZE)
    with open_disk(store, tmp_path / "empty") as disk:
        with serving(tmp_path, disk) as served:
            run("nbdcopy", "--flush", tmp_path / "source", served.url("disk"))
        assert disk.read(0, SIZE) == content
        snapshot_disk(store, disk, name="filled")
    assert exported(store, "filled", tmp_path) == content
    assert store.pin("filled").root == store.pin("image").root


def test_nbdinfo_maps_what_there_is(served: Served, disk: Disk) -> None:
    disk.write(68 * KIB, b"x")
    disk.trim(8 * KIB, 4 * KIB)
    told = json.loads(run("nbdinfo", "--json", "--map", served.url("disk")))
    found = [(row["offset"], row["length"], row["type"]) for row in told][:6]
    assert found == [
        (0, 8 * KIB, 0),
        (8 * KIB, 4 * KIB, 3),
        (12 * KIB, 52 * KIB, 0),
        (64 * KIB, 4 * KIB, 3),
        (68 * KIB, 4 * KIB, 0),
        (72 * KIB, 56 * KIB, 3),
    ]
    mapped = list(disk.extents(0, SIZE))
    assert [(row["length"], row["type"] == 3) for row in told] == [(span.length, span.zero) for span in mapped]


def test_nbdinfo_knows_what_the_server_can_do(served: Served) -> None:
    (export,) = json.loads(run("nbdinfo", "--json", "--list", served.url()))["exports"]
    assert export["export-name"] == "disk"
    assert export["export-size"] == SIZE
    (export,) = json.loads(run("nbdinfo", "--json", served.url("disk")))["exports"]
    for ability in ("multi_conn", "trim", "zero", "fast_zero", "flush", "fua", "df", "cache"):
        assert export[f"can_{ability}"], ability
    assert (export["block_size_minimum"], export["block_size_maximum"]) == (1, 32 * MIB)
    assert export["contexts"] == ["base:allocation"]


def test_qemu_img_compares_and_converts(served: Served, store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "same").write_bytes(content)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", served.url("disk"), tmp_path / "same")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.url("disk"), tmp_path / "copy.qcow2")
    run("qemu-img", "compare", "-F", "raw", tmp_path / "copy.qcow2", tmp_path / "same")


def test_qemu_io_verifies_what_it_wrote(served: Served, disk: Disk) -> None:
    run(
        *("qemu-io", "-f", "raw", served.url("disk")),
        *("-c", "write -P 0x11 100k 77777"),
        *("-c", "write -z 120k 10k", "-c", "discard 8k 8k", "-c", "flush"),
        *("-c", "read -P 0x11 100k 20k", "-c", "read -P 0 120k 10k", "-c", "read -P 0x11 130k 10k"),
        *("-c", "read -P 0 8k 8k", "-c", "write -f -P 0x22 0 512", "-c", "read -P 0x22 0 512"),
    )
    assert disk.read(0, 512) == b"\x22" * 512


def test_qemu_io_verifies_beside_other_writers(store: Store, tmp_path: Path) -> None:
    """Four processes write and verify each in its own stripes of 64 KiB, interleaved, while snapshots are taken."""
    create_disk(store, tmp_path / "shared", size=16 * MIB)
    with open_disk(store, tmp_path / "shared") as disk, serving(tmp_path, disk) as served:

        def client(number: int) -> None:
            rnd = random.Random(number)
            commands = []
            last: dict[int, int] = {}
            for _ in range(150):
                stripe = rnd.randrange(64) * 4 + number
                pattern = rnd.randrange(1, 256)
                commands += ["-c", f"write -P {pattern} {stripe * 64}k 64k"]
                last[stripe] = pattern
                if rnd.randrange(3) == 0:
                    checked = rnd.choice(list(last))
                    commands += ["-c", f"read -P {last[checked]} {checked * 64 + 3}k 50k"]
            for stripe, pattern in last.items():
                commands += ["-c", f"read -P {pattern} {stripe * 64}k 64k"]
            told = run("qemu-io", "-f", "raw", served.url("disk"), *commands)
            assert "verification failed" not in told
            assert "error" not in told.lower()

        with ThreadPoolExecutor(5) as pool:
            clients = [pool.submit(client, number) for number in range(4)]
            for number in range(3):
                snapshot_disk(store, disk, name=f"beside-{number}", threads=1)
            for done in clients:
                done.result()
        snapshot_disk(store, disk, name="after", threads=1)
        assert exported(store, "after", tmp_path) == disk.read(0, disk.size)


def test_clients_encrypt(disk: Disk, tmp_path: Path, content: bytes) -> None:
    with serving(tmp_path, disk, tls=server_context(tmp_path)) as served:
        certificates = tmp_path / "tls"
        certificates.mkdir()
        shutil.copy(tmp_path / "cert.pem", certificates / "ca-cert.pem")
        url = f"nbds://localhost:{served.port}/disk?tls-certificates={certificates}"
        run("nbdcopy", url, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content
        told = run("nbdinfo", f"nbd://localhost:{served.port}/disk", check=False)
        assert "TLS" in told
