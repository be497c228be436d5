"""The main job, seen: a real qcow2 behind a URL becomes an image through gRPC, once, and comes back byte for byte."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from benchmarks import inputs
from benchmarks.range_server import RangeServer
from service._pb.dataplane.v1 import image_details_pb2, image_details_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2, image_service_pb2_grpc
from service._pb.yandex.cloud.operation import operation_service_pb2, operation_service_pb2_grpc

WORKSHOP = Path(__file__).resolve().parents[1] / ".demo"
DATAPLANE = Path(sys.executable).with_name("dataplane")
DISK_SIZE = 1 << 30
FOLDER = "demo"
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
IMPORT_TIMEOUT_S = 300
CALL_TIMEOUT_S = 10
LINE_INTERVAL_S = 1.5


class DemoError(Exception):
    """Something that has to hold does not; the text says what."""


def main() -> int:
    """Run the demo; return the exit code."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        WORKSHOP.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="run-", dir=WORKSHOP) as work:
            run(Path(work))
        say(f"\nDone in {time.monotonic() - started:.0f} s; the temporary files are gone.")
        return 0
    except grpc.RpcError as error:
        say(f"\ndemo failed: the service answered {error.code().name}: {error.details()}")
    except (DemoError, RuntimeError, OSError) as error:
        say(f"\ndemo failed: {error}")
    except KeyboardInterrupt:
        say("\ndemo stopped")
        return 130
    finally:
        with contextlib.suppress(OSError):
            WORKSHOP.rmdir()
    return 1


def run(work: Path) -> None:
    """Do every step in the folder `work`; raise DemoError at the first thing that does not hold."""
    with step(1, f"A disk of {human(DISK_SIZE)}: an ext4 partition filled with files from /usr"):
        disk = inputs.corpus_disk(DISK_SIZE)
        say(f"   raw    {human(DISK_SIZE):>10} virtual, {human(disk.stat().st_blocks * 512)} on disk; kept in .corpus/")
    with step(2, "The same disk as qcow2, by qemu-img"):
        qcow2 = inputs.corpus_converted(disk, "qcow2")
        say(f"   qcow2  {human(qcow2.stat().st_size):>10}")
    with contextlib.ExitStack() as stack:
        with step(3, "A web server for both, and the service: dataplane serve --dev"):
            web = stack.enter_context(RangeServer({"disk.qcow2": qcow2, "disk.raw": disk}))
            service = stack.enter_context(Service(work))
            say(f"   {web.url('disk.qcow2')}\n   grpc over TLS at {service.address}")
        with step(4, "ImageService.Create from the qcow2's URL"):
            first, image = service.create("first", web.url("disk.qcow2"))
            say(f"   the web server sent {human(web.sent_bytes)} in {web.requests} requests")
        sizes = service.sizes(image.id)
        show_sizes(sizes, qcow2.stat().st_size)
        check(image.storage_size == sizes.storage_size, "Image.storage_size is not the storage_size of GetSizes")
        check(sizes.virtual_size == DISK_SIZE, f"virtual_size is {sizes.virtual_size}, not {DISK_SIZE}")
        check(first.written_bytes > 0 and sizes.storage_size > 0, "the first image wrote nothing")
        with step(5, "The same disk again, from the raw file's URL"):
            before = service.packs()
            second, copy = service.create("second", web.url("disk.raw"))
            show_that_nothing_is_new(service, sizes, service.sizes(copy.id), before)
            check(second.written_bytes == 0, f"the second image wrote {second.written_bytes} bytes")
        with step(6, "dataplane export, compared with the disk that was there at first"):
            export_and_compare(service, image.id, disk, work / "exported.raw")
        with step(7, "The service drains and stops"):
            service.stop()


def show_sizes(sizes: image_details_pb2.ImageSizes, container_size: int) -> None:
    """Print the sizes of an image as a table."""
    rows = [
        ("virtual_size", sizes.virtual_size, "what the guest sees"),
        ("allocated_size", sizes.allocated_size, "windows of 4 MiB that hold anything"),
        ("data_size", sizes.data_size, f"{sizes.chunks:,} chunks of {human(sizes.chunk_size)} that are not all zero"),
        ("qcow2 file", container_size, "what came over the wire"),
        (
            "storage_size",
            sizes.storage_size,
            f"{sizes.distinct_chunks:,} distinct chunks, {sizes.codec}: Image.storage_size",
        ),
    ]
    say(f"\n   {'':15}{'bytes':>15}{'':>13}")
    for name, count, meaning in rows:
        say(f"   {name:15}{count:>15,}{human(count):>12}   {meaning}")
    ratio = sizes.data_size / max(1, sizes.storage_size)
    say(f"   {ratio:.2f} bytes of data for each byte stored\n")


def show_that_nothing_is_new(
    service: Service,
    first: image_details_pb2.ImageSizes,
    second: image_details_pb2.ImageSizes,
    before: tuple[int, int],
) -> None:
    """Check that the second image has the first one's content, and that the store's packs are what they were."""
    after = service.packs()
    check(after == before, f"packs changed from {before} to {after} (files, bytes)")
    check(first.root == second.root, f"roots differ: {first.root.hex()} and {second.root.hex()}")
    check(first.storage_size == second.storage_size, "the two images differ in storage_size")
    say(f"   nothing new stored: {before[0]} packs of {human(before[1])} before and after, 0 B written")
    say(f"   same root: {second.root.hex()}")


def export_and_compare(service: Service, image_id: str, disk: Path, target: Path) -> None:
    """Export an image with the command line and compare it with `disk`, by cmp and by qemu-img."""
    inputs.run(DATAPLANE, "export", service.store, image_id, target)
    for judge in (["cmp"], ["qemu-img", "compare", "-q", "-f", "raw", "-F", "raw"]):
        try:
            inputs.run(*judge, disk, target)
        except RuntimeError as error:
            raise DemoError(f"the exported disk is not the original: {error}") from None
    say(f"   identical, byte for byte, says cmp; qemu-img agrees; {human(target.stat().st_blocks * 512)} on disk")


class Service:
    """The service as a process of its own, with everything in one folder, and a client for it."""

    def __init__(self, work: Path) -> None:
        self._data = work / "service"
        self._log = work / "service.log"
        command: list[str | Path] = [DATAPLANE, "serve", "--data", self._data, "--dev", "--listen", "127.0.0.1:0"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.address = ""

    @property
    def store(self) -> Path:
        """The folder of the store that the service keeps its images in."""
        return self._data / "store"

    def __enter__(self) -> Service:
        try:
            self.address = self._wait_until_ready()
        except BaseException:
            self._kill()
            raise
        authority = (self._data / "tls" / "ca.pem").read_bytes()
        self._channel = grpc.secure_channel(self.address, grpc.ssl_channel_credentials(authority))
        self._images = image_service_pb2_grpc.ImageServiceStub(self._channel)
        self._operations = operation_service_pb2_grpc.OperationServiceStub(self._channel)
        self._details = image_details_pb2_grpc.ImageDetailsServiceStub(self._channel)
        self._token = (("authorization", "Bearer demo"),)
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._kill()

    def create(self, name: str, uri: str) -> tuple[image_details_pb2.Progress, image_pb2.Image]:
        """Create an image and follow the operation to its end; return the last progress and the image."""
        request = image_service_pb2.CreateImageRequest(folder_id=FOLDER, name=name, uri=uri)
        operation = self._images.Create(request, metadata=self._token, timeout=CALL_TIMEOUT_S)
        say(f"   operation {operation.id}")
        watched = image_details_pb2.WatchProgressRequest(operation_id=operation.id)
        progress = image_details_pb2.Progress()
        line = ProgressLine()
        for progress in self._details.WatchProgress(watched, metadata=self._token, timeout=IMPORT_TIMEOUT_S):
            line.show(progress)
        asked = operation_service_pb2.GetOperationRequest(operation_id=operation.id)
        operation = self._operations.Get(asked, metadata=self._token, timeout=CALL_TIMEOUT_S)
        image = image_pb2.Image()
        check(operation.done, "the operation is not done when its progress ends")
        check(not operation.error.code, f"the operation failed: {operation.error.message}")
        check(operation.response.Unpack(image), "the operation has no Image as its response")
        check(image.status == image_pb2.Image.READY, "the image is not READY")
        return progress, image

    def sizes(self, image_id: str) -> image_details_pb2.ImageSizes:
        """Return all sizes of an image."""
        request = image_details_pb2.GetSizesRequest(image_id=image_id)
        return self._details.GetSizes(request, metadata=self._token, timeout=CALL_TIMEOUT_S)

    def packs(self) -> tuple[int, int]:
        """Return how many pack files the store has and how many bytes they hold."""
        files = [path for path in (self.store / "packs").rglob("*") if path.is_file()]
        return len(files), sum(path.stat().st_size for path in files)

    def stop(self) -> None:
        """Ask the service to end its work and stop; raise DemoError when it does not."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise DemoError(f"the service has not stopped {STOP_TIMEOUT_S} s after SIGTERM") from None
        check(code in (0, 128 + signal.SIGTERM), f"the service stopped with code {code}: {self._last_words()}")

    def _wait_until_ready(self) -> str:
        """Return the HOST:PORT that the service says it listens on."""
        assert self._process.stdout is not None
        alarm = signal.signal(signal.SIGALRM, too_slow)
        signal.alarm(START_TIMEOUT_S)
        try:
            for line in self._process.stdout:
                if found := re.search(r"listening on (\S+:\d+)", line):
                    return found[1]
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, alarm)
        raise DemoError(f"the service did not start: {self._last_words()}")

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text().splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def too_slow(*_: object) -> None:
    """Interrupt the wait for a service that does not start."""
    raise DemoError(f"the service does not say that it listens within {START_TIMEOUT_S} s")


class ProgressLine:
    """Where an operation is: one living line on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, progress: image_details_pb2.Progress) -> None:
        """Print `progress` if it is time to."""
        if sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns
            end = "\n" if progress.done else ""
            print(f"\r\x1b[2K{self._text(progress)[: columns - 1]}", end=end, flush=True)
        elif progress.done or time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_INTERVAL_S
            say(self._text(progress))

    def _text(self, progress: image_details_pb2.Progress) -> str:
        share = progress.position_bytes / progress.total_bytes if progress.total_bytes else 0.0
        bar = ("█" * int(20 * share)).ljust(20, "·")
        left = f", {progress.eta_seconds:.0f} s left" if progress.HasField("eta_seconds") and not progress.done else ""
        return (
            f"   {image_details_pb2.Progress.Stage.Name(progress.stage).lower():8} {bar} {share:4.0%}, "
            f"{human(progress.bytes_per_second)}/s{left}; zero {human(progress.zero_bytes)}, "
            f"duplicate {human(progress.duplicate_bytes)}, new {human(progress.new_bytes)}"
        )


@contextlib.contextmanager
def step(number: int, title: str) -> Iterator[None]:
    """Print a numbered title, run the step, and print the time it took."""
    say(f"{number}. {title}")
    started = time.monotonic()
    yield
    say(f"   took {time.monotonic() - started:.1f} s")


def check(holds: bool, otherwise: str) -> None:
    """Raise DemoError with `otherwise` unless `holds`."""
    if not holds:
        raise DemoError(otherwise)


def human(count: float) -> str:
    """Return a number of bytes the way people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or count == int(count) else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
