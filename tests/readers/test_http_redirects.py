"""HttpReader over redirects: each target goes through the whole policy, and an expired one is looked up again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from dataplane.errors import SourceUnavailable
from dataplane.readers.http import HttpReader
from tests.readers.http_client import CONTENT, open_and_read, open_reader, refused
from tests.readers.http_server import Behaviour, Handler, Server, always, each, serving
from tests.readers.test_http_tls import certificate


def redirect(location: str | Callable[[], str], status: int = 302) -> Behaviour:
    """Return a behaviour that always redirects."""
    return always(
        lambda handler: handler.status(status, Location=location if isinstance(location, str) else location())
    )


@contextmanager
def chain(*behaviours: Behaviour | None) -> Iterator[list[Server]]:
    """Serve at several ports; a behaviour of None redirects to the next server, the last serves the content."""
    with ExitStack() as stack:
        servers: list[Server] = []
        for number, behaviour in enumerate(behaviours):
            step = behaviour
            if step is None and number < len(behaviours) - 1:
                step = redirect(lambda number=number: servers[number + 1].url)  # type: ignore[misc]
            servers.append(stack.enter_context(serving(CONTENT, step)))
        yield servers


def open_chain(servers: list[Server], timeout_s: float = 2.0) -> HttpReader:
    return HttpReader(servers[0].url, allow_source=["127.0.0.1"], timeout_s=timeout_s)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed_and_later_ranges_go_to_the_target(status: int) -> None:
    with serving(CONTENT) as target, serving(CONTENT, redirect(lambda: target.url, status)) as server:
        reader = HttpReader(server.url, allow_source=["127.0.0.1"], timeout_s=2)
        assert reader.name == f"http://{server.host_port}/images/disk.img"
        for at in (100_000, 200_000):
            assert reader.read_at(at, 1000) == CONTENT[at : at + 1000]
        assert (len(server.seen), len(target.seen)) == (1, 3)
        assert target.seen[0][2]["Host"] == target.host_port
        assert target.seen[1][2]["If-Match"] == '"version-1"'
        reader.close()


def test_three_redirects_are_followed_and_four_are_not() -> None:
    with chain(None, None, None, None) as servers:
        assert open_chain(servers).read_at(0, 1000) == CONTENT[:1000]
    with chain(None, None, None, None, None) as servers:
        with pytest.raises(SourceUnavailable, match="redirects more than 3 times") as error:
            open_chain(servers)
        assert "s3cret" not in str(error.value)
        assert servers[4].seen == []


def test_redirect_loop_is_refused() -> None:
    with serving(CONTENT) as server:
        server.behaviour = redirect(lambda: server.url)
        refused(server, "redirects more than 3 times")
        assert len(server.seen) == 4


@pytest.mark.parametrize("location", ["/images/other.img?s3cret", "other.img", "//{host}/x", "?other=s3cret"])
def test_relative_redirect(location: str) -> None:
    def behave(handler: Handler) -> bool:
        if len(handler.server.seen) > 1:
            return False
        handler.status(302, Location=location.format(host=handler.server.host_port))
        return True

    with serving(CONTENT, behave) as server:
        assert open_and_read(server) == CONTENT


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("file:///etc/passwd?s3cret", "scheme 'file' is refused"),
        ("gopher://127.0.0.1/_s3cret", "scheme 'gopher' is refused"),
        ("data:text/plain,s3cret", "scheme 'data' is refused"),
        ("ftp://127.0.0.1/s3cret", "scheme 'ftp' is refused"),
        ("http://user:s3cret@127.0.0.1/", "user name"),
        ("http://127.0.0.1@127.0.0.1/s3cret", "user name"),
        ("http://127.0.0.1 /s3cret", "space"),
        ("http://127.0.0.1/\ts3cret", "space"),
        ("http://127.0.0.1/\r\n X: s3cret", "space"),
        ("http://127.0.0.1\\@8.8.8.8/s3cret", "backslash"),
        ("http://hôst/s3cret", "not ASCII"),
        ("http://[::1/s3cret", "malformed"),
        ("http://[fe80::1%25eth0]/s3cret", "no valid host"),
        ("http://127.0.0.1:99999/s3cret", "malformed"),
        ("http://127.0.0.1:0/s3cret", "no valid host"),
        ("http://" + "a" * 17_000 + "/s3cret", "at most"),
        ("", "without saying where"),
    ],
)
def test_redirect_to_a_malformed_or_forbidden_url(location: str, words: str) -> None:
    with serving(CONTENT, redirect(location)) as server:
        refused(server, words)
        assert len(server.seen) == 1


def test_redirect_without_location() -> None:
    with serving(CONTENT, always(lambda handler: handler.status(302))) as server:
        refused(server, "without saying where")


def test_redirect_with_two_locations() -> None:
    def behave(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "http://127.0.0.1/a?s3cret")
        handler.send_header("Location", "http://127.0.0.1/b?s3cret")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with serving(CONTENT, always(behave)) as server:
        refused(server, "space")


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("localhost", "loopback"),
        ("127.0.0.2", "loopback"),
        ("127.1", "loopback"),
        ("2130706434", "loopback"),
        ("017700000002", "loopback"),
        ("0x7f000002", "loopback"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("[::ffff:7f00:1]", "loopback"),
        ("[64:ff9b::a9fe:a9fe]", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("[::]", "unspecified"),
        ("10.0.0.1", "private"),
        ("192.168.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("[fd00:ec2::254]", "private"),
        ("100.100.100.200", "carrier-grade NAT"),
    ],
)
def test_redirect_into_the_network_names_the_host_only(host: str, kind: str) -> None:
    with serving(CONTENT, redirect(f"http://{host}:1/latest/secret-path?s3cret")) as server:
        with pytest.raises(SourceUnavailable) as error:
            open_reader(server)  # allows the server's own host and port only
        text = str(error.value)
        assert text.startswith(f"http://{server.host_port}/images/disk.img: the server redirects to host ")
        assert f"has a {kind} address, which is refused" in text
        assert "s3cret" not in text
        assert "latest" not in text
        assert len(server.seen) == 1


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1", "8.8.8.8"], ["169.254.169.254"]])
def test_redirect_to_a_name_with_any_private_address(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    resolving(monkeypatch, {"cdn.test": addresses})
    with serving(CONTENT, redirect("http://cdn.test/x?s3cret")) as server:
        refused(server, "redirects to host cdn.test: the host cdn.test has a .* address, which is refused")


def resolving(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> list[str]:
    """Answer for `names`; return the list of names asked for, which grows."""
    real, asked = socket.getaddrinfo, []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[object]:
        asked.append(host)
        if host in names:
            return [(0, 0, 0, "", (address, port)) for address in names[host]]
        return real(host, port, *_, **__)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_each_host_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(CONTENT) as target, serving(CONTENT) as server:
        asked = resolving(monkeypatch, {"origin.test": ["127.0.0.1"], "cdn.test": ["127.0.0.1"]})
        server.behaviour = redirect(f"http://cdn.test:{target.port}/x?{'a' * 10}")
        target.behaviour = expiring(every=2)
        reader = HttpReader(
            f"http://origin.test:{server.port}/x", allow_source=["origin.test", "cdn.test"], timeout_s=2
        )
        for at in range(100_000, 900_000, 100_000):
            assert reader.read_at(at, 1000) == CONTENT[at : at + 1000]
        assert len(server.seen) > 1
        assert asked == ["origin.test", "cdn.test"]
        reader.close()


def expiring(every: int, status: int = 403) -> Behaviour:
    """Return a behaviour that refuses each request number `every`, counted from 1."""
    count = [0]
    lock = threading.Lock()

    def behave(handler: Handler) -> bool:
        with lock:
            count[0] += 1
            if count[0] % every:
                return False
        handler.status(status)
        return True

    return behave


@pytest.mark.parametrize("status", [403, 404, 410])
def test_expired_target_is_looked_up_again(status: int) -> None:
    origin, old, new = "/images/disk.img?X-Signature=s3cret", "/old?s3cret", "/new?s3cret"

    def behave(handler: Handler) -> bool:
        fresh = len(handler.server.seen) > 2
        if handler.path == origin:
            handler.status(302, Location=new if fresh else old)
        elif handler.path == old and fresh:
            handler.status(status)
        else:
            return False
        return True

    with serving(CONTENT, behave) as server:
        reader = open_reader(server)
        for at in (100_000, 200_000, 300_000):
            assert reader.read_at(at, 1000) == CONTENT[at : at + 1000]
        assert [path for _, path, _ in server.seen] == [origin, old, old, origin, new, new, new]
        reader.close()


def test_expired_target_is_looked_up_once_by_many_threads() -> None:
    expired = threading.Event()

    def behave(handler: Handler) -> bool:
        if handler.path == "/old" and expired.is_set():
            handler.status(403)
            return True
        if handler.path in ("/old", "/new"):
            return False
        handler.status(302, Location="/new" if expired.is_set() else "/old")
        return True

    with serving(CONTENT, behave) as server:
        reader = open_reader(server, timeout_s=5)
        expired.set()
        wrong: list[int] = []

        def read(at: int) -> None:
            if reader.read_at(at, 5000) != CONTENT[at : at + 5000]:
                wrong.append(at)

        threads = [threading.Thread(target=read, args=(at,)) for at in range(100_000, 900_000, 100_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert sum(path.startswith("/images") for _, path, _ in server.seen) == 2
        reader.close()


def test_target_that_stays_expired_fails() -> None:
    def behave(handler: Handler) -> bool:
        if handler.path == "/target":
            if len(handler.server.seen) <= 2:
                return False
            handler.status(403)
            return True
        handler.status(302, Location="/target")
        return True

    with serving(CONTENT, behave) as server:
        refused(server, "redirected to host 127.0.0.1: access is refused .403.")
        assert len(server.seen) == 5  # the chain once more, and no more


@pytest.mark.parametrize("change", ["etag", "content"])
def test_new_target_with_another_version_is_refused(change: str) -> None:
    def behave(handler: Handler) -> bool:
        seen = len(handler.server.seen)
        if handler.path.startswith("/images"):
            handler.status(302, Location="/old" if seen < 3 else "/new")
            return True
        if seen == 3:
            if change == "etag":
                handler.server.etag = '"version-2"'
            else:
                handler.server.content += b"more"
            handler.status(403)
            return True
        return False

    with serving(CONTENT, behave) as server:
        refused(server, "has changed since it was opened")


def test_first_answer_of_a_target_is_final() -> None:
    with chain(None, always(lambda handler: handler.status(404))) as servers:
        with pytest.raises(SourceUnavailable, match=r"redirected to host 127.0.0.1: nothing is there"):
            open_chain(servers)
        assert [len(server.seen) for server in servers] == [1, 1]


def test_origin_that_begins_to_redirect_is_followed() -> None:
    with serving(CONTENT) as target:

        def behave(handler: Handler) -> bool:
            if len(handler.server.seen) == 1:
                return False
            handler.status(307, Location=target.url)
            return True

        with serving(CONTENT, behave) as server:
            reader = HttpReader(server.url, allow_source=["127.0.0.1"], timeout_s=2)
            assert reader.read_at(100_000, 1000) == CONTENT[100_000:101_000]
            reader.close()


def unavailable(handler: Handler) -> bool:
    handler.status(503)
    return True


def test_busy_target_is_tried_again_from_the_start() -> None:
    with chain(None, None) as servers:
        servers[1].behaviour = each(unavailable, unavailable)
        assert open_chain(servers).read_at(0, 10) == CONTENT[:10]
        assert [len(server.seen) for server in servers] == [3, 3]


def test_dead_target_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(CONTENT, redirect(f"http://127.0.0.1:{port}/x?s3cret")) as server:
        with pytest.raises(
            SourceUnavailable, match=r"redirected to host 127.0.0.1: the connection is refused"
        ) as error:
            HttpReader(server.url, allow_source=["127.0.0.1"], timeout_s=0.4)
        assert "s3cret" not in str(error.value)


def test_https_is_never_left(tmp_path: Path) -> None:
    made = certificate(tmp_path, x509.DNSName("localhost"))
    with serving(CONTENT) as plain, serving(CONTENT, redirect(lambda: plain.url), tls=made.context) as server:
        with pytest.raises(SourceUnavailable, match="redirects to plain http at host 127") as error:
            HttpReader(
                f"https://localhost:{server.port}/x?s3cret",
                allow_source=["localhost", "127.0.0.1"],
                timeout_s=2,
                ca_file=made.path,
            )
        assert "s3cret" not in str(error.value)
        assert plain.seen == []


def test_http_may_become_https(tmp_path: Path) -> None:
    made = certificate(tmp_path, x509.DNSName("localhost"))
    with serving(CONTENT, tls=made.context) as secure:
        with serving(CONTENT, redirect(f"https://localhost:{secure.port}/x?s3cret")) as server:
            reader = HttpReader(server.url, allow_source=["localhost", "127.0.0.1"], timeout_s=2, ca_file=made.path)
            assert reader.read_at(0, len(CONTENT)) == CONTENT
            reader.close()
        # and never back
        with serving(CONTENT, redirect(lambda: secure.url.replace("127.0.0.1", "localhost"))) as server:
            secure.behaviour = redirect(lambda: server.url)
            with pytest.raises(SourceUnavailable, match="redirects to plain http"):
                HttpReader(server.url, allow_source=["localhost", "127.0.0.1"], timeout_s=2, ca_file=made.path)


def test_target_with_a_certificate_of_nobody_is_refused(tmp_path: Path) -> None:
    made = certificate(tmp_path, x509.DNSName("localhost"))
    with (
        serving(CONTENT, tls=made.context) as secure,
        serving(CONTENT, redirect(f"https://localhost:{secure.port}/x?s3cret")) as server,
        pytest.raises(SourceUnavailable, match="redirected to host localhost: the certificate is not accepted"),
    ):
        HttpReader(server.url, allow_source=["localhost", "127.0.0.1"], timeout_s=2)


def test_allow_list_compares_the_host_of_the_target_as_it_is_spelled() -> None:
    with serving(CONTENT) as target, serving(CONTENT, redirect(f"http://localhost:{target.port}/x?s3cret")) as server:
        with pytest.raises(SourceUnavailable, match="redirects to host localhost"):
            HttpReader(server.url, allow_source=["127.0.0.1"], timeout_s=2)
        HttpReader(server.url, allow_source=["127.0.0.1", "localhost"], timeout_s=2).close()
