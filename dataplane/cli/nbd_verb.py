"""dataplane nbd: serve an image, or a disk made of it, to NBD clients."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING

from dataplane.cli.sizes import parse_size
from dataplane.cli.verb_parser import VerbParser

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from dataplane.disks.boot_trace import BootTrace
    from dataplane.disks.chunk_cache import ChunkCache
    from dataplane.disks.pool import Pool
    from dataplane.nbd.exports import BlockDevice
    from dataplane.store.store import Store

LISTEN_DEFAULT = "127.0.0.1:10809"


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("name", metavar="NAME", help="the image")
    parser.add_argument(
        "--overlay",
        metavar="PATH",
        help="a folder that takes what clients write, made when there is none; see dataplane snapshot",
    )
    parser.add_argument(
        "--size", type=parse_size, metavar="SIZE", help="with --overlay: how large the disk is to be at least"
    )
    listen = {"metavar": "HOST:PORT", "default": LISTEN_DEFAULT, "help": f"a TCP address (default: {LISTEN_DEFAULT})"}
    socket = {"metavar": "PATH", "help": "a Unix socket instead"}
    parser.add_exclusive((("--listen",), listen), (("--socket",), socket))
    parser.add_argument("--read-only", action="store_true", help="let nobody write")
    parser.add_argument("--tls-cert", metavar="FILE", help="a certificate (PEM): clients then have to encrypt")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    parser.add_argument(
        "--cache", type=parse_size, default=128 << 20, metavar="SIZE", help="memory for decoded chunks (default: 128M)"
    )
    parser.add_argument(
        "--record-trace", metavar="FILE", help="write down what is read first, in a new FILE, at the end"
    )
    parser.add_argument("--prefetch", metavar="FILE", help="bring what such a FILE lists into memory, while serving")
    parser.add_argument(
        "--pool",
        metavar="FILE",
        help="keep what --prefetch lists, else the first chunks, decoded in FILE, made when there is none",
    )
    parser.add_argument(
        "--pool-size", type=parse_size, default=64 << 20, metavar="SIZE", help="size of a new FILE (default: 64M)"
    )


def run(args: SimpleNamespace) -> int:
    """Serve until a signal comes."""
    import asyncio
    import signal

    from dataplane.cli.main import Terminated
    from dataplane.disks.boot_trace import BootTrace, load_trace
    from dataplane.disks.chunk_cache import ChunkCache
    from dataplane.store.store import Store

    check(args)
    trace = BootTrace() if args.record_trace else None
    ranges = load_trace(args.prefetch) if args.prefetch else []
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(args.store))
        device = open_device(stack, store, args, ChunkCache(args.cache), ranges)
        received = asyncio.run(serve(args, device, trace, ranges))
    if trace is not None:
        trace.save(args.record_trace)
    if received == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated


def check(args: SimpleNamespace) -> None:
    """Raise UsageError for options that do not go together."""
    import os

    from dataplane.errors import UsageError

    if not args.overlay and not args.read_only:
        raise UsageError("an image never changes: add --overlay PATH for what clients write, or --read-only")
    if not args.overlay and args.size is not None:
        raise UsageError("--size is for a disk: add --overlay PATH")
    if bool(args.tls_cert) != bool(args.tls_key):
        raise UsageError("--tls-cert and --tls-key go together")
    if args.record_trace and os.path.lexists(args.record_trace):
        raise UsageError(f"{args.record_trace} exists already: a boot trace needs a new file")


def open_device(
    stack: ExitStack, store: Store, args: SimpleNamespace, cache: ChunkCache, ranges: list[tuple[int, int]]
) -> BlockDevice:
    """Open what is to be served, and leave closing to `stack`; raises what is wrong with it."""
    import os

    from dataplane.disks.control import ControlListener
    from dataplane.disks.disk import open_disk
    from dataplane.disks.image_device import ImageDevice
    from dataplane.disks.pinning import check_origin, create_disk

    find_pool = pool_finder(args.pool) if args.pool else None
    if args.pool and not os.path.lexists(args.pool):
        from dataplane.disks.pool import build_pool

        build_pool(store, args.name, args.pool, size_max=args.pool_size, ranges=ranges)
    if not args.overlay:
        return stack.enter_context(ImageDevice(store, args.name, cache, find_pool=find_pool))
    if not os.path.lexists(args.overlay):
        create_disk(store, args.overlay, image=args.name, size=args.size)
    disk = stack.enter_context(
        open_disk(store, args.overlay, read_only=args.read_only, cache=cache, find_pool=find_pool)
    )
    check_origin(store, disk.state, args.name, args.overlay)
    if not args.read_only:
        if args.size is not None and args.size > disk.size:
            disk.resize(args.size)
        stack.enter_context(ControlListener(disk))
    return disk


def pool_finder(path: str) -> Callable[[bytes], Pool | None]:
    """Return what finds the pool of a root in file `path`, and says why it cannot be used."""
    from dataplane.cli.output import say
    from dataplane.disks.pool import open_pool

    return lambda root: open_pool(path, root, say)


async def serve(
    args: SimpleNamespace, device: BlockDevice, trace: BootTrace | None, ranges: list[tuple[int, int]]
) -> int:
    """Serve a device until SIGINT or SIGTERM comes, and return which."""
    import asyncio
    import signal
    import threading

    from dataplane.cli.output import say
    from dataplane.disks.boot_trace import follow_trace
    from dataplane.nbd.exports import OneExport
    from dataplane.nbd.server import NbdServer
    from dataplane.nbd.watching import WatchedDevice

    loop = asyncio.get_running_loop()
    received: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not received.done():
            received.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    watched = WatchedDevice(device, trace)
    server = NbdServer(OneExport(watched, args.name), tls=tls_context(args), report=say)
    stopped = threading.Event()
    try:
        if args.socket:
            await server.listen_unix(args.socket)
            print(f"listening on {args.socket}", flush=True)
        else:
            (host, port), *_ = await server.listen_tcp(*host_and_port(args.listen))
            print(f"listening on {f'[{host}]' if ':' in host else host}:{port}", flush=True)
        prefetch = loop.run_in_executor(None, follow_trace, ranges, device.warm, args.cache, stopped)
        signal_number = await received
        stopped.set()
        await prefetch
        return signal_number
    finally:
        stopped.set()
        await server.close()
        watched.close()


def host_and_port(text: str) -> tuple[str, int]:
    """Return what HOST:PORT names; raises UsageError."""
    from dataplane.errors import UsageError

    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{text!r} is no address: write HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def tls_context(args: SimpleNamespace) -> SSLContext | None:
    """Return how connections are encrypted, None when they are not. Raises UsageError."""
    if not args.tls_cert:
        return None
    import ssl

    from dataplane.errors import UsageError

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(args.tls_cert, args.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{args.tls_cert} and {args.tls_key} are no certificate and its key: {error}") from error
    return context
