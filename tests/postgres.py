"""A PostgreSQL server of the tests' own: a throw-away cluster on loopback, a fresh database for whoever asks."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

START_TIMEOUT_S = 60.0

CHOICE = "TEST_POSTGRESQL"
"""The variable that makes tests of stores and of the service use PostgreSQL: the URL of any database there."""


def programs() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs, which Debian keeps off the path; None without one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


class PostgresServer:
    """A running server."""

    def __init__(self, port: int, password: str) -> None:
        self._port = port
        self._password = password

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://tester:{self._password}@127.0.0.1:{self._port}/{database}"

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        return new_database(self.url("postgres"))


def new_database(url: str) -> str:
    """Create an empty database on the server of the database at `url`, and return its URL."""
    name = f"t{secrets.token_hex(8)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    return f"{url.rpartition('/')[0]}/{name}"


def chosen_database() -> str | None:
    """Return the URL of a new database when the tests are told to use PostgreSQL, by a URL in the environment."""
    url = os.environ.get(CHOICE)
    return None if url is None else new_database(url)


@contextmanager
def running() -> Iterator[PostgresServer]:
    """Run a server until the block ends."""
    found = programs()
    if found is None:
        raise FileNotFoundError("PostgreSQL is not installed: make setup installs it")
    # The server refuses to run as root, so its files belong to somebody who is not.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="dataplane-postgres-"))
    password = secrets.token_hex(12)
    secret = folder / "password"
    secret.write_text(password)
    if os.geteuid() == 0:
        shutil.chown(folder, user)
        shutil.chown(secret, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    as_user = {"user": user, "cwd": folder} if os.geteuid() == 0 else {"cwd": folder}
    try:
        subprocess.run(
            [found / "initdb", "-D", folder / "data", "-U", "tester", "--pwfile", secret, "-A", "scram-sha-256",
             "-E", "UTF8", "--no-locale", "--no-sync"],
            check=True, capture_output=True, env={"PATH": os.environ["PATH"]}, **as_user,
        )  # fmt: skip
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "max_connections": "200"}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [found / "postgres", "-D", folder / "data", "-p", str(port), "-F",
                 *(f"-c{name}={value}" for name, value in options.items())],
                stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}, **as_user,
            )  # fmt: skip
        try:
            server = PostgresServer(port, password)
            wait_until_ready(server, process, folder / "log")
            yield server
        finally:
            process.terminate()
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(server: PostgresServer, process: subprocess.Popen[str], log: Path) -> None:
    """Return once the server takes connections."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log.read_text()) from None
            time.sleep(0.05)
        else:
            return
