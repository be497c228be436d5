"""Who may call and do what: policies, tokens of a file, tokens given for others, JSON web tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplane.errors import NotFound, UsageError
from service.auth import Action, Caller, bearer_token
from service.faults import NotOffered, PermissionDenied, Unauthenticated
from service.identity import account_jwt, policy, token_file
from service.identity.issued import Issuer
from service.identity.modes import JwtAuthenticator, TokenAuthenticator, parse_jwks
from service.watched_file import WatchedFile

POLICY = """
[roles]
importer = ["images.create", "operations.get"]
[[grant]]
subjects = ["ci", "robot"]
folders = ["f1"]
actions = ["importer", "images.delete"]
[[grant]]
subjects = ["*"]
folders = ["shared"]
actions = ["viewer"]
[[grant]]
subjects = ["root"]
folders = ["*"]
actions = ["admin"]
"""
AUDIENCE = "https://iam.127.0.0.1:9443/iam/v1/tokens"


def caller(subject: str, text: str = POLICY) -> Caller:
    return Caller(subject, policy.parse(text.encode()).grants_of(subject))


def test_policy_permits_what_it_names_and_nothing_else() -> None:
    ci = caller("ci")
    assert ci.may("f1", Action.IMAGES_CREATE)
    assert ci.may("f1", Action.IMAGES_DELETE)
    assert not ci.may("f1", Action.IMAGES_GET)
    assert not ci.may("f2", Action.IMAGES_CREATE)
    assert ci.may("shared", Action.IMAGES_GET)
    assert not ci.may("shared", Action.IMAGES_DELETE)
    stranger = caller("stranger")
    assert stranger.may("shared", Action.IMAGES_LIST)
    assert not stranger.may("f1", Action.IMAGES_CREATE)
    assert all(caller("root").may("anything", action) for action in Action)


def test_caller_without_grants_may_nothing() -> None:
    assert not any(Caller("x").may(folder, action) for folder in ("f1", "*", "") for action in Action)


def test_foreign_folder_is_not_there_and_visible_one_is_refused() -> None:
    ci = caller("ci")
    ci.require("f1", Action.IMAGES_CREATE, what="folder 'f1'")
    with pytest.raises(NotFound, match="image 'i' is not there"):
        ci.require("f2", Action.IMAGES_GET, what="image 'i'")
    with pytest.raises(PermissionDenied, match=r"images\.get"):
        ci.require("f1", Action.IMAGES_GET, what="image 'i'")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x", "TOML"),
        ("grants = 1", "grants"),
        ("grant = 1", r"\[\[grant\]\]"),
        ("[[grant]]\nsubjects=['a']\nfolders=['f']\nactions=['images.burn']", r"images\.burn"),
        ("[[grant]]\nsubjects=['a']\nfolders=[]\nactions=['viewer']", "folders"),
        ("[[grant]]\nsubject=['a']", "subject"),
        ("[roles]\nviewer=['images.get']", "built in"),
        ("[roles]\nmine=['viewers']", "viewers"),
        ("roles = 3", "roles"),
    ],
)
def test_policy_that_is_wrong_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        policy.parse(text.encode())


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Basic abc")],
        [("authorization", "Bearer ")],
        [("authorization", b"Bearer x")],
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        [("authorization", "Bearer " + "x" * 8193)],
    ],
)
def test_call_without_one_bearer_token_is_refused(metadata: Any) -> None:
    with pytest.raises(Unauthenticated):
        bearer_token(metadata)


def entry_of(token: str, subject: str = "ci", more: str = "") -> str:
    name, digest = token.split(".")[1], token_file.digest_of(token)
    return f'[[token]]\nid = "{name}"\nsubject = "{subject}"\nsha256 = "{digest}"\n{more}\n'


def account_entry(key: rsa.RSAPrivateKey, name: str = "aje1", key_id: str = "ajk1") -> str:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return f"[[service_account]]\nid = \"{name}\"\nkey_id = \"{key_id}\"\npublic_key = '''{pem}'''\n"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class Files:
    """The files of one server in tokens mode, and what checks callers by them."""

    def __init__(self, folder: Path, tokens: str) -> None:
        self.tokens = folder / "tokens.toml"
        self.tokens.write_text(tokens)
        (folder / "policy.toml").write_text(POLICY)
        self.checks = TokenAuthenticator(
            WatchedFile(self.tokens, token_file.parse, look_s=0),
            WatchedFile(folder / "policy.toml", policy.parse, look_s=0),
            Issuer(b"k" * 44),
            lambda: [AUDIENCE],
        )

    def who(self, token: str) -> Caller:
        return self.checks.authenticate([("authorization", f"Bearer {token}")])


def test_token_of_the_file_is_its_subject(tmp_path: Path) -> None:
    token, _ = token_file.new_token()
    files = Files(tmp_path, entry_of(token))
    assert files.who(token).subject_id == "ci"
    assert files.who(token).may("f1", Action.IMAGES_CREATE)
    assert token not in files.tokens.read_text()
    for wrong in (token[:-1] + ("A" if token[-1] != "A" else "B"), token_file.new_token()[0], "x", token.split(".")[1]):
        with pytest.raises(Unauthenticated) as refused:
            files.who(wrong)
        assert wrong not in str(refused.value) or wrong == "x"


def test_token_that_ran_out_is_refused(tmp_path: Path) -> None:
    token, _ = token_file.new_token()
    with pytest.raises(Unauthenticated):
        Files(tmp_path, entry_of(token, more="expires = 2020-01-01T00:00:00Z")).who(token)


def test_removed_token_ends_at_once_with_what_was_given_for_it(tmp_path: Path) -> None:
    token, _ = token_file.new_token()
    other, _ = token_file.new_token()
    files = Files(tmp_path, entry_of(token) + entry_of(other, "robot"))
    given = files.checks.exchange(oauth_token=token, signed_jwt="")
    assert files.who(given.token).subject_id == "ci"
    files.tokens.write_text(entry_of(other, "robot"))
    for gone in (token, given.token):
        with pytest.raises(Unauthenticated):
            files.who(gone)
    assert files.who(other).subject_id == "robot"


def test_file_that_breaks_leaves_its_last_good_version(tmp_path: Path) -> None:
    token, _ = token_file.new_token()
    files = Files(tmp_path, entry_of(token))
    files.tokens.write_text("broken")
    assert files.who(token).subject_id == "ci"


def test_given_token_does_not_outlive_its_credential(tmp_path: Path) -> None:
    token, _ = token_file.new_token()
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
    given = Files(tmp_path, entry_of(token, more=f"expires = {soon}")).checks.exchange(oauth_token=token, signed_jwt="")
    assert given.expires_s <= time.time() + 300


def test_token_of_another_server_is_none(tmp_path: Path) -> None:
    token, name = token_file.new_token()
    files = Files(tmp_path, entry_of(token))
    forged, _ = Issuer(b"x" * 44).issue(subject_id="ci", credential=f"token:{name}", now_s=time.time())
    unsigned = "t1." + jwt.encode({"iss": "dataplane", "sub": "ci", "cred": f"token:{name}"}, "", algorithm="none")
    for wrong in (forged, unsigned, "t1.x"):
        with pytest.raises(Unauthenticated):
            files.who(wrong)


def signed(key: Any, *, kid: str | None = "ajk1", algorithm: str = "PS256", **claims: Any) -> str:
    now = int(time.time())
    full = {"aud": AUDIENCE, "iss": "aje1", "iat": now, "exp": now + 3600} | claims
    headers = {} if kid is None else {"kid": kid}
    kept = {name: value for name, value in full.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def test_service_account_gets_a_token_for_its_jwt(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    files = Files(tmp_path, account_entry(key))
    given = files.checks.exchange(oauth_token="", signed_jwt=signed(key))
    assert files.who(given.token).subject_id == "aje1"
    assert 0 < given.expires_s - time.time() <= 3600
    files.tokens.write_text("")
    with pytest.raises(Unauthenticated):
        files.who(given.token)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"aud": "https://iam.elsewhere:443/iam/v1/tokens"}, "audience"),
        ({"aud": None}, "aud"),
        ({"iss": "aje2"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"kid": "ajk2"}, "kid"),
        ({"kid": None}, "kid"),
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": int(time.time()) + 86400}, "3600"),
        ({"iat": int(time.time()) + 7200, "exp": int(time.time()) + 9000}, "iat"),
        ({"algorithm": "RS256"}, "alg"),
    ],
)
def test_service_account_jwt_with_a_wrong_claim_is_refused(
    key: rsa.RSAPrivateKey, change: dict[str, Any], named: str
) -> None:
    credentials = token_file.parse(account_entry(key).encode())
    with pytest.raises(Unauthenticated, match=named):
        account_jwt.check(signed(key, **change), credentials, audiences=[AUDIENCE])


def test_service_account_jwt_of_another_key_is_refused(key: rsa.RSAPrivateKey) -> None:
    credentials = token_file.parse(account_entry(key).encode())
    for wrong in (signed(rsa.generate_private_key(65537, 2048)), "x", "a.b.c"):
        with pytest.raises(Unauthenticated):
            account_jwt.check(wrong, credentials, audiences=[AUDIENCE])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[token]]\nid='a'\nsubject='b'\nsha256='zz'", "sha256"),
        ("[[token]]\nid='a'\nsha256='" + "0" * 64 + "'", "subject"),
        ("[[token]]\nid='a'\nsubject='b'\nsecret='s3cr3t'", "secret"),
        ("[[token]]\nid='a'\nsubject='b'\nsha256='" + "0" * 64 + "'\nexpires='soon'", "expires"),
        (("[[token]]\nid='a'\nsubject='b'\nsha256='" + "0" * 64 + "'\n") * 2, "twice"),
        ("[[service_account]]\nid='a'\nkey_id='b'\npublic_key='PEM'", "public_key"),
    ],
)
def test_token_file_that_is_wrong_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named) as refused:
        token_file.parse(text.encode())
    assert "s3cr3t" not in str(refused.value)


def test_elliptic_key_of_a_service_account_is_refused() -> None:
    with pytest.raises(UsageError, match="RSA"):
        token_file.parse(account_entry(ec.generate_private_key(ec.SECP256R1())).encode())  # type: ignore[arg-type]


def jwks(*keys: tuple[str, Any, str]) -> bytes:
    made = []
    for kid, public, algorithm in keys:
        kind = jwt.get_algorithm_by_name(algorithm)
        made.append(json.loads(kind.to_jwk(public)) | {"kid": kid, "alg": algorithm, "use": "sig"})
    return json.dumps({"keys": made}).encode()


@pytest.fixture
def by_jwt(tmp_path: Path, key: rsa.RSAPrivateKey) -> Callable[[str], Caller]:
    (tmp_path / "jwks.json").write_bytes(jwks(("k1", key.public_key(), "RS256")))
    (tmp_path / "policy.toml").write_text(POLICY)
    checks = JwtAuthenticator(
        WatchedFile(tmp_path / "jwks.json", parse_jwks),
        WatchedFile(tmp_path / "policy.toml", policy.parse),
        issuer="https://issuer",
        audience="dataplane",
    )
    with pytest.raises(NotOffered):
        checks.exchange(oauth_token="x", signed_jwt="")
    return lambda token: checks.authenticate([("authorization", f"Bearer {token}")])


GOOD = {"kid": "k1", "algorithm": "RS256", "iss": "https://issuer", "aud": "dataplane", "sub": "ci"}


def test_web_token_of_the_issuer_is_its_subject(by_jwt: Callable[[str], Caller], key: rsa.RSAPrivateKey) -> None:
    found = by_jwt(signed(key, **GOOD))
    assert found.subject_id == "ci"
    assert found.may("f1", Action.IMAGES_CREATE)


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "others"},
        {"iss": "https://other"},
        {"exp": 1},
        {"exp": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 101},
        {"kid": "k2"},
        {"kid": None},
        {"algorithm": "PS256"},
    ],
)
def test_web_token_that_is_wrong_is_refused(
    by_jwt: Callable[[str], Caller], key: rsa.RSAPrivateKey, change: dict[str, Any]
) -> None:
    with pytest.raises(Unauthenticated):
        by_jwt(signed(key, **(GOOD | change)))


def test_web_token_signed_with_the_public_key_as_a_secret_is_refused(
    by_jwt: Callable[[str], Caller], key: rsa.RSAPrivateKey
) -> None:
    secret = json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(key.public_key()))["n"]
    with pytest.raises(Unauthenticated):
        by_jwt(signed(secret, **(GOOD | {"algorithm": "HS256"})))


def test_key_set_with_secrets_in_it_is_refused(key: rsa.RSAPrivateKey) -> None:
    shared = json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0", "kid": "a", "alg": "HS256"}]})
    for content in (shared.encode(), jwks(("k", key, "RS256")), b"{}", b"[]", b"x", b'{"keys": []}'):
        with pytest.raises(UsageError) as refused:
            parse_jwks(content)
        assert "c2VjcmV0" not in str(refused.value)


def test_file_that_everybody_may_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "policy.toml").chmod(0o666)
    with pytest.raises(UsageError, match="o-w"):
        WatchedFile(tmp_path / "policy.toml", policy.parse)
