"""Downloads from a real web server, and from one that wishes its clients ill."""

import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.distribution import remote
from attestd.distribution.remote import open_remote
from attestd.errors import MalformedError, StoreError, UsageError
from tests.distribution import web
from tests.distribution.web import Behaviour, Web, serving

FILES = {"metadata/timestamp.json": b"{}" * 100, "targets/platform/ab.local.json": b"x" * 100_000}
NAME = "metadata/timestamp.json"


@pytest.fixture
def server() -> Iterator[Web]:
    with serving(FILES, prefix="/governance/v1") as found:
        yield found


def test_files_of_a_server(server: Web) -> None:
    found = open_remote(f"{server.url}/")
    assert {name: found.get(name, 100_000) for name in FILES} == FILES
    assert found.get("metadata/2.root.json", 10) is None
    assert found.get(NAME, 200) == FILES[NAME]
    found.close()


def test_one_connection_is_used_again(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(
        server, "process_request", lambda *a: (opened.append(1), Web.process_request(server, *a))
    )
    found = open_remote(server.url)
    for _ in range(10):
        assert found.get(NAME, 1000)
    assert len(opened) == 1
    found.close()


@pytest.mark.parametrize("length", [0, 1, 199])
def test_a_file_that_is_larger_than_it_may_be(server: Web, length: int) -> None:
    with pytest.raises(MalformedError, match=f"larger than the {length} bytes"):
        open_remote(server.url).get(NAME, length)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (web.truncated, "IncompleteRead"),
        (web.redirecting, r"found 302 to 'http://127.0.0.1:1/elsewhere'"),
        (web.failing, "expected status 200, found 503"),
        (web.endless, "larger than"),
        (web.compressed, "larger than"),
    ],
)
def test_a_server_that_misbehaves(server: Web, behaviour: Behaviour, words: str) -> None:
    server.behaviours[NAME] = behaviour
    found = open_remote(server.url)
    with pytest.raises((StoreError, MalformedError), match=words) as raised:
        found.get(NAME, 4000)
    assert NAME in str(raised.value)
    del server.behaviours[NAME]
    assert found.get(NAME, 4000) == FILES[NAME], "the next download is not spoilt"
    found.close()


@pytest.mark.parametrize("behaviour", [web.dripping, web.dripping_headers])
def test_a_server_that_drips(server: Web, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FILE_S", 0.5)
    server.behaviours[NAME] = behaviour
    found = open_remote(server.url)
    with pytest.raises(StoreError, match="no whole answer came within"):
        found.get(NAME, 4000)
    found.close()


def test_a_server_that_is_silent(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_S", 0.2)
    server.behaviours[NAME] = web.silent
    with pytest.raises(StoreError, match="timed out"):
        open_remote(server.url).get(NAME, 4000)


def test_another_thread_ends_it(server: Web) -> None:
    server.behaviours[NAME] = web.silent
    found = open_remote(server.url)
    timer = threading.Timer(0.2, found.close)
    timer.start()
    start = time.monotonic()
    with pytest.raises(StoreError):
        found.get(NAME, 4000)
    assert time.monotonic() - start < 3
    timer.join()


def test_no_server(server: Web) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(StoreError, match="refused"):
        open_remote(url.replace("127.0.0.1", "127.0.0.2")).get(NAME, 4000)


def test_no_such_name() -> None:
    with pytest.raises(StoreError, match=r"resolve|Name"):
        open_remote("http://nowhere.invalid/x").get(NAME, 4000)


@pytest.mark.parametrize(
    "url",
    ["ftp://x/y", "https://", "governance", "http://x/y?z=1", "http://x/#a", "http://[::1", "file:///x", ""],
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="expected https://HOST/PATH"):
        open_remote(url)


def test_authorities_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(UsageError, match="governance_ca"):
            open_remote("https://127.0.0.1/x", ca=str(tmp_path / name))


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 by itself, and its key."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from tests.world import p256

    key = p256("web server")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    (tmp_path / "c.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (tmp_path / "k.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return tmp_path / "c.pem", tmp_path / "k.pem"


def test_tls(server: Web, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    found = open_remote(url, ca=str(certificate[0]))
    assert found.get(NAME, 4000) == FILES[NAME]
    found.close()
    with pytest.raises(StoreError, match="certificate verify failed"):
        open_remote(url).get(NAME, 4000)
    with pytest.raises(StoreError, match=r"mismatch|doesn't match|not valid"):
        open_remote(url.replace("127.0.0.1", "localhost"), ca=str(certificate[0])).get(NAME, 4000)


# directories


def test_files_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / NAME).write_bytes(b"{}")
    found = open_remote(str(tmp_path))
    assert found.get(NAME, 2) == b"{}"
    assert found.get("metadata/2.root.json", 10) is None
    with pytest.raises(MalformedError, match="larger than the 1 bytes"):
        found.get(NAME, 1)
    found.close()


def test_what_is_no_file_of_a_directory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    (tmp_path / "y").mkdir()
    found = open_remote(str(tmp_path))
    with pytest.raises(StoreError, match="regular file"):
        found.get("x", 10)
    with pytest.raises(StoreError, match="directory"):
        found.get("y", 10)
    with pytest.raises(StoreError, match="no such directory"):
        open_remote(str(tmp_path / "z")).get("x", 10)
