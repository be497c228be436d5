"""What keeps secrets in and strangers out: redaction, sealing, certificates, configuration, errors."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from google.rpc import code_pb2, error_details_pb2

from dataplane import errors
from service import dev_tls, status
from service.config import Address, Auth, AuthMode, ServeConfig, WorkerConfig
from service.exits import exit_code_of
from service.faults import Unauthenticated
from service.identity.modes import DevAuthenticator, dev_subject
from service.redact import one_line, redact
from service.sealing import Sealer


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET https://h/a?X-Signature=hush failed", "GET https://h/a?… failed"),
        ("HTTPS://H/a#hush", "HTTPS://H/a?…"),
        ("http://user:hush@h/a", "http://…@h/a"),
        ("'https://h?hush' and \"http://g/?hush\"", "'https://h?…' and \"http://g/?…\""),
        ("no url? none at all", "no url? none at all"),
    ],
)
def test_redact_masks_what_may_be_secret(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_one_line_is_one_printable_line() -> None:
    assert one_line("a\n b\x1b[31m\tc") == "a b [31m c"
    assert len(one_line("x" * 5000)) == 1000


def test_sealer_keeps_its_key_to_its_owner(tmp_path: Path) -> None:
    sealed = Sealer.at_path(tmp_path / "key").seal("https://h/?hush")
    assert b"hush" not in sealed
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert Sealer.at_path(tmp_path / "key").unseal(sealed) == "https://h/?hush"
    with pytest.raises(errors.StoreIncompatible):
        Sealer.at_path(tmp_path / "other").unseal(sealed)


def test_sealer_refuses_a_damaged_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("not a key")
    with pytest.raises(errors.StoreIncompatible, match="not a key"):
        Sealer.at_path(tmp_path / "key")


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_dev_certificate_is_signed_and_keys_are_private(tmp_path: Path) -> None:
    dev_tls.ensure(tmp_path)
    server, authority = certificate(tmp_path / "server.pem"), certificate(tmp_path / "ca.pem")
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_dev_certificate_is_kept_while_it_is_good(tmp_path: Path) -> None:
    assert dev_tls.ensure(tmp_path) == dev_tls.ensure(tmp_path, ["127.0.0.1"])


def test_dev_certificate_is_renewed_under_the_same_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_tls, "SERVER_DAYS", 3)
    first = dev_tls.ensure(tmp_path)
    authority = (tmp_path / "ca.pem").read_bytes()
    monkeypatch.undo()
    second = dev_tls.ensure(tmp_path)
    assert first.chain != second.chain
    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert certificate(tmp_path / "server.pem").not_valid_after_utc > datetime.now(UTC) + timedelta(days=60)


def test_dev_certificate_covers_a_new_name(tmp_path: Path) -> None:
    dev_tls.ensure(tmp_path)
    dev_tls.ensure(tmp_path, ["images.test"])
    names = certificate(tmp_path / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "images.test" in names.value.get_values_for_type(x509.DNSName)


def test_dev_authority_that_is_damaged_is_replaced_with_its_certificate(tmp_path: Path) -> None:
    dev_tls.ensure(tmp_path)
    (tmp_path / "ca.key").write_text("damaged")
    dev_tls.ensure(tmp_path)
    certificate(tmp_path / "server.pem").verify_directly_issued_by(certificate(tmp_path / "ca.pem"))


def test_subject_is_stable_and_hides_the_token() -> None:
    caller = DevAuthenticator().authenticate([("user-agent", "x"), ("authorization", "bearer hush")])
    assert caller.subject_id == dev_subject("hush")
    assert len(caller.subject_id) == 20
    assert "hush" not in caller.subject_id
    with pytest.raises(Unauthenticated):
        DevAuthenticator().authenticate([])


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:0", Address("127.0.0.1", 0)), ("[::1]:9443", Address("::1", 9443)), ("h:1", Address("h", 1))],
)
def test_address_round_trips(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "h", "h:", ":1", "h:65536", "::1:1", "h:1\n", "a b:1"])
def test_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        Address.parse(text)


def config(*, host: str = "127.0.0.1", workers: int = 1) -> ServeConfig:
    auth = Auth(mode=AuthMode.DEV)
    return ServeConfig(data_dir=Path("d"), listen=Address(host, 0), announce=None, dev=True, auth=auth, workers=workers)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_dev_binds_to_loopback_only(host: str) -> None:
    with pytest.raises(errors.UsageError, match="loopback"):
        config(host=host)


def test_worker_config_round_trips() -> None:
    made = WorkerConfig(
        data_dir="d", disks_path="/d", store_path="s", owner="o", allow_source=("h:1",), allow_http=True
    )
    assert WorkerConfig.from_line(made.to_line()) == made
    for line in ("", "[]", "{}", '{"x": 1}'):
        with pytest.raises(errors.UsageError):
            WorkerConfig.from_line(line)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), code_pb2.NOT_FOUND),
        (errors.AlreadyExists("x"), code_pb2.ALREADY_EXISTS),
        (errors.SourceUnavailable("x"), code_pb2.INVALID_ARGUMENT),
        (errors.InvalidImage("x"), code_pb2.INVALID_ARGUMENT),
        (errors.Unsupported("x"), code_pb2.INVALID_ARGUMENT),
        (errors.Corrupt("x"), code_pb2.DATA_LOSS),
        (errors.NoSpace("x"), code_pb2.RESOURCE_EXHAUSTED),
        (errors.Cancelled("x"), code_pb2.CANCELLED),
        (errors.StoreLocked("x"), code_pb2.UNAVAILABLE),
        (errors.DataplaneError("x"), code_pb2.INTERNAL),
        (NotImplementedError(), code_pb2.UNIMPLEMENTED),
        (MemoryError(), code_pb2.RESOURCE_EXHAUSTED),
        (KeyError("x"), code_pb2.INTERNAL),
    ],
)
def test_status_has_the_code_of_the_table(error: Exception, code: int) -> None:
    assert status.code_of(error) == code


def test_status_of_an_unforeseen_error_says_nothing_of_it() -> None:
    answer = status.status_of(KeyError("https://h/?hush"), trace_id="request 7")
    assert answer.message == "internal error: the server's log has the particulars under request 7"


def test_status_of_a_bad_source_blames_the_uri_and_hides_its_query() -> None:
    answer = status.status_of(errors.SourceUnavailable("GET https://h/a?hush: 404"), trace_id="")
    request = error_details_pb2.BadRequest()
    assert answer.message == "GET https://h/a?… 404"
    assert answer.details[0].Unpack(request)
    assert request.field_violations[0].field == "uri"
    assert "hush" not in str(answer)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2),
        (errors.Corrupt("x"), 3),
        (errors.InvalidImage("x"), 4),
        (errors.StoreMissing("x"), 5),
        (errors.NotFound("x"), 1),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_code_is_that_of_the_table(error: Exception, code: int) -> None:
    assert exit_code_of(error)[0] == code
