"""Puts the service together: store, catalogue, workers, servicers and the gRPC server; runs it until a signal."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.engine import Connection

from dataplane import Store
from dataplane.errors import IoFailed, StoreMissing
from service import dev_tls
from service import log as logs
from service.catalog import schema
from service.catalog.database import Database
from service.config import Address, ServeConfig, WorkerConfig
from service.images import Images
from service.operations import ending
from service.operations.use_cases import Operations
from service.registration import new_grpc_server, register
from service.sealing import KEY_FILE, Sealer
from service.supervisor import Supervisor

CALL_GRACE_S = 3.0
WORKER_GRACE_S = 10.0
READY_TIMEOUT_S = 10.0

log = logs.get_logger(__name__)


def serve(config: ServeConfig) -> int:
    """Run a server until SIGTERM or SIGINT; return the exit code, 0 or 130.

    Raises StoreError, UsageError or IoFailed when it cannot start.
    """
    stopping = threading.Event()
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    logs.configure()
    with _open_store(config) as store, contextlib.closing(Database.at_path(store.ledger_path)) as database:
        database.write(schema.create_tables)
        with Server(config, store, database) as server:
            server.wait_until_ready()
            _say_how_to_connect(config, server.announced)
            sys.stdout.write(f"listening on {server.bound}\n")
            sys.stdout.flush()
            stopping.wait()
            log.info("draining", signal=signal.Signals(received[0]).name)
    log.info("stopped")
    return 130 if received[0] == signal.SIGINT else 0


class Server:
    """The gRPC server and its workers; leaving the block drains both."""

    def __init__(self, config: ServeConfig, store: Store, database: Database) -> None:
        self._draining = threading.Event()
        hosts = [config.listen.host, *([config.announce.host] if config.announce else [])]
        self._identity = dev_tls.ensure(config.tls_dir, hosts)
        self._ca = (config.tls_dir / dev_tls.CA_FILE).read_bytes()
        self._grpc = new_grpc_server()
        self.bound = self._bind(config.listen)
        self.announced = config.announce or self.bound
        self._health = register(
            self._grpc,
            images=Images(database, Sealer.at_path(config.data_dir / KEY_FILE), partial(_unpin, store)),
            operations=Operations(database, partial(ending.forget, store)),
            announced=str(self.announced),
            draining=self._draining,
        )
        self._supervisor = Supervisor(database, partial(_worker_config, config), workers=config.workers)

    def __enter__(self) -> Server:
        self._grpc.start()
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._draining.set()
        self._health.enter_graceful_shutdown()
        stopped = self._grpc.stop(CALL_GRACE_S)
        self._supervisor.drain(WORKER_GRACE_S)
        stopped.wait()

    def wait_until_ready(self) -> None:
        """Return once a request over TLS succeeds. Raises IoFailed when none does within 10 s."""
        credentials = grpc.ssl_channel_credentials(self._ca)
        with grpc.secure_channel(str(self.bound), credentials) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                stub.Check(health_pb2.HealthCheckRequest(), timeout=READY_TIMEOUT_S, wait_for_ready=True)
            except grpc.RpcError as error:
                raise IoFailed(f"the server does not answer on {self.bound}: {error.details()}") from error

    def _bind(self, listen: Address) -> Address:
        pair = (self._identity.key, self._identity.chain)
        try:
            port = self._grpc.add_secure_port(str(listen), grpc.ssl_server_credentials([pair]))
        except RuntimeError:
            port = 0
        if port == 0:
            raise IoFailed(f"cannot listen on {listen}: choose another address with --listen, or port 0")
        return Address(listen.host, port)


def _unpin(store: Store, tx: Connection, image_id: str) -> None:
    store.unpin(image_id, connection=tx.connection.driver_connection)


@contextlib.contextmanager
def _open_store(config: ServeConfig) -> Iterator[Store]:
    """Open the store of the data folder, making both when they are missing."""
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise IoFailed(f"cannot make the folder {config.data_dir}: {error.strerror}") from error
    try:
        store = Store.open(config.store_path)
    except StoreMissing:
        store = Store.create(config.store_path)
    with store:
        yield store


def _worker_config(config: ServeConfig, owner: str) -> WorkerConfig:
    """Return what the worker that is to run as `owner` is told."""
    loopback = ("localhost", "127.0.0.1", "[::1]") if config.dev else ()
    return WorkerConfig(
        data_dir=str(config.data_dir),
        store_path=str(config.store_path),
        owner=owner,
        allow_source=(*config.allow_source, *loopback),
        allow_http=config.dev,
    )


def _say_how_to_connect(config: ServeConfig, announced: Address) -> None:
    ca = config.tls_dir / dev_tls.CA_FILE
    sys.stderr.write(
        f"development server: any bearer token is accepted; its authority is {ca}\n"
        f"  dataplane image list --endpoint {announced} --ca {ca} --token any --folder FOLDER\n"
        f'  yandexcloud.SDK(endpoint="{announced}", iam_token="any", root_certificates=open("{ca}", "rb").read())\n'
    )
    sys.stderr.flush()
