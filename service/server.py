"""Puts the service together: store, catalogue, workers, servicers and the gRPC server; runs it until a signal."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dataplane import Store
from dataplane.errors import IoFailed, StoreMissing, UsageError
from service import dev_tls
from service import log as logs
from service.catalog import schema
from service.catalog.database import Database
from service.config import Address, ServeConfig
from service.contents import StoreContents
from service.disk_folders import DiskFolders
from service.exporting import DiskExports
from service.holding import DiskHolder, NoHolder
from service.identity import building
from service.operations.pruning import Pruner
from service.registration import new_grpc_server, register
from service.running import Crew, StopSignals
from service.sealing import KEY_FILE, Sealer
from service.settings import Settings
from service.sweeping import sweep
from service.transport import READY_TIMEOUT_S, Transport, wait_until_reachable
from service.use_cases import UseCases

if TYPE_CHECKING:
    from service.nbd.listener import NbdListener
    from service.rest.listener import RestListener
    from service.telemetry.metrics import Metrics

CALL_GRACE_S = 3.0

log = logs.get_logger(__name__)


def serve(config: ServeConfig, settings: Settings) -> int:
    """Run a server until SIGTERM or SIGINT; return the exit code, 0 or 130.

    Raises StoreError, UsageError or IoFailed when it cannot start.
    """
    signals = StopSignals()
    logs.configure_from(settings)
    with _open_store(config) as store, contextlib.closing(Database.beside(store)) as database:
        database.write(schema.create_tables)
        with Server(config, store, database) as server:
            server.wait_until_ready()
            if config.dev:
                _say_how_to_connect(config, server.announced)
            signals.wait(f"listening on {server.bound}")
    log.info("stopped")
    return signals.exit_code()


class Server:
    """The gRPC server and its workers; leaving the block drains both."""

    def __init__(self, config: ServeConfig, store: Store, database: Database) -> None:
        self._draining = threading.Event()
        self._config = config
        self._transport = Transport(config)
        authenticator = building.authenticator(config, self._audiences)
        self._crew = Crew(database, store, config)
        before = [self._crew.tracing.interceptor()] if self._crew.tracing is not None else []
        self._grpc = new_grpc_server(authenticator, ended=self._crew.metrics.call_ended, before=before)
        self.bound = self._transport.bind(self._grpc, config.listen)
        self.announced = config.announce or self.bound
        sealer, contents = Sealer.at_path(config.data_dir / KEY_FILE), StoreContents(store)
        folders = DiskFolders(config.disks_path, store)
        folders.prepare()
        sweep(database, folders)
        self._nbd, exports, holder = _nbd(config, database, store, folders, self._transport, self._crew.metrics)
        self._health = register(
            self._grpc,
            authenticator=authenticator,
            use_cases=UseCases(database, sealer, contents, folders, config.quotas, exports, holder),
            announced=str(self.announced),
            draining=self._draining,
        )
        self._rest = _rest(config, self._grpc, self._transport)
        self._pruner = Pruner(database)

    def __enter__(self) -> Server:
        self._grpc.start()
        self._crew.start()
        if self._rest is not None:
            self._rest.start()
        self._pruner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._draining.set()
        self._health.enter_graceful_shutdown()
        if self._rest is not None:
            self._rest.stop()
        stopped = self._grpc.stop(CALL_GRACE_S)
        self._crew.drain()
        self._pruner.stop()
        if self._nbd is not None:  # after the workers, which ask it to freeze disks
            self._nbd.stop()
        stopped.wait()
        self._crew.close()

    def wait_until_ready(self) -> None:
        """Return once requests succeed. Raises IoFailed when none does within 10 s."""
        if not self._config.dev or self._transport.plaintext or self._transport.needs_client_certificate:
            wait_until_reachable(self.bound)  # a health check needs a certificate that this process does not have
            return
        credentials = grpc.ssl_channel_credentials((self._config.tls_dir / dev_tls.CA_FILE).read_bytes())
        with grpc.secure_channel(str(self.bound), credentials) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                stub.Check(health_pb2.HealthCheckRequest(), timeout=READY_TIMEOUT_S, wait_for_ready=True)
            except grpc.RpcError as error:
                raise IoFailed(f"the server does not answer on {self.bound}: {error.details()}") from error

    def _audiences(self) -> set[str]:
        """Return what JWTs of service accounts may be for: this server under each name it is known by."""
        names = {str(self.announced), str(self.bound)}
        if self.bound.is_loopback():
            names |= {str(Address(host, self.bound.port)) for host in dev_tls.HOSTS}
        return {building.audience_of(name) for name in names}


def _rest(config: ServeConfig, server: grpc.Server, transport: Transport) -> RestListener | None:
    """Return the REST listener that is asked for. Raises UsageError when its libraries are not installed."""
    if config.rest_listen is None:
        return None
    try:
        from service.rest.listener import RestListener
    except ImportError as error:
        raise UsageError("--rest-listen needs more: pip install 'dataplane[rest]'") from error
    return RestListener(config.rest_listen, server, transport)


def _nbd(
    config: ServeConfig,
    database: Database,
    store: Store,
    folders: DiskFolders,
    transport: Transport,
    metrics: Metrics,
) -> tuple[NbdListener | None, DiskExports, DiskHolder]:
    """Return the NBD listener that is asked for, the use case that lets callers in, and who keeps disks open."""
    if config.nbd_listen is None:
        return None, DiskExports(database), NoHolder()
    from service.nbd.holder import Holder
    from service.nbd.listener import NbdListener
    from service.nbd.open_disks import OpenDisks
    from service.nbd.pool_files import PoolFiles
    from service.nbd.pool_keeper import PoolKeeper
    from service.nbd.tokens import SECRET_FILE, ExportTokens

    tokens = ExportTokens.at_path(config.data_dir / SECRET_FILE)
    pools = PoolFiles(config.pool_path, store, size_max=config.pool_size, total_max=config.pool_total)
    pools.prepare()
    disks = OpenDisks(database, store, folders, pools, cache_size=config.nbd_cache)
    holder = Holder(database, disks)
    keeper = PoolKeeper(database, pools, enabled=config.pool_size > 0)
    metrics.pools_are(pools.usage)
    listener = NbdListener(config.nbd_listen, tokens, disks, holder, keeper, transport, metrics.of_nbd())
    host = config.announce.host if config.announce is not None else listener.bound.host
    exports = DiskExports(database, tokens, Address(host, listener.bound.port), tls=listener.tls)
    return listener, exports, holder


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
        store = Store.create(config.store_path, ledger_url=config.database)
    with store:
        if config.database is not None and store.ledger_url != config.database:
            raise UsageError(
                f"--database is not where store {config.store_path} keeps its ledger: start without it, or with another"
                " --data"
            )
        yield store


def _say_how_to_connect(config: ServeConfig, announced: Address) -> None:
    ca = config.tls_dir / dev_tls.CA_FILE
    sys.stderr.write(
        f"development server: any bearer token is accepted; its authority is {ca}\n"
        f"  dataplane image list --endpoint {announced} --ca {ca} --token any --folder FOLDER\n"
        f'  yandexcloud.SDK(endpoint="{announced}", iam_token="any", root_certificates=open("{ca}", "rb").read())\n'
    )
    sys.stderr.flush()
