"""A gRPC server that does nothing but answer Get with one and the same image: what the library alone costs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from service._pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images

THREADS = 2
"""The number with which it was quickest."""


class Constant(image_service_pb2_grpc.ImageServiceServicer):
    """Knows one image."""

    def __init__(self, image: image_pb2.Image) -> None:
        self._image = image

    def Get(self, request: images.GetImageRequest, context: grpc.ServicerContext) -> image_pb2.Image:  # noqa: N802
        """Return it."""
        return self._image


@contextmanager
def bare_server(image: image_pb2.Image, tls: Path) -> Iterator[tuple[int, str]]:
    """Run one in a process of its own, with the certificate in a server's folder; give its process id and address."""
    command = [sys.executable, "-m", "benchmarks.bare_server", str(tls)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(image.SerializeToString())
        process.stdin.close()
        try:
            yield process.pid, process.stdout.readline().decode().strip()
        finally:
            process.terminate()


def main() -> None:
    """Serve the image that standard input has, until killed."""
    tls = Path(sys.argv[1])
    server = grpc.server(ThreadPoolExecutor(THREADS))
    constant = Constant(image_pb2.Image.FromString(sys.stdin.buffer.read()))
    image_service_pb2_grpc.add_ImageServiceServicer_to_server(constant, server)
    pair = ((tls / "server.key").read_bytes(), (tls / "server.pem").read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
