"""Operations over HTTP: errors, limits, the document, TLS, operators, the orderly end."""

import contextlib
import http.client
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attestd.controller.http import limits, server
from attestd.controller.http.limits import Connections, RateLimit, peer_of
from attestd.controller.http.operation import Operation
from attestd.controller.http.protocol import Bounds
from attestd.controller.http.server import bind
from attestd.controller.http.tls import Certificate
from attestd.errors import StoreError, UsageError
from tests.controller.certificates import Authority
from tests.controller.running import ask_on, read_all
from tests.controller.serving import BEGUN, Served, echo, served

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def app() -> Iterator[Served]:
    with served(answer_s=1.0) as running:
        yield running


def test_json(app: Served) -> None:
    answered = app.post("/add", b'{"a":1,"b":2}', JSON)
    assert (answered.status, answered.json) == (200, {"total": 3})
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["cache-control"] == "no-store"
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert len(answered.headers["x-correlation-id"]) == 16
    assert "date" in answered.headers
    assert "server" not in answered.headers
    assert (
        app.post("/add", b'{"a":1,"b":2}', {"content-type": "Application/JSON; charset=utf-8"}).status == 200
    )


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b'{"a":1,"b":2}', {}, 415, "expected application/json"),
        (b'{"a":1,"b":2}', {"content-type": "text/json"}, 415, "expected application/json"),
        (b'{"a":1', JSON, 400, "not acceptable JSON"),
        (b"\xff", JSON, 400, "not acceptable JSON"),
        (b'{"a":1,"a":1,"b":2}', JSON, 400, "duplicate member"),
        (b'{"a":1}', JSON, 422, "missing required field `b`"),
        (b'{"a":1,"b":2,"c":3}', JSON, 422, "unknown field `c`"),
        (b'{"a":1,"b":"2"}', JSON, 422, "Expected `int`"),
        (b"[" * 4000, JSON, 400, "nested"),
        (b" " * 4097, JSON, 413, "larger than 4096 bytes"),
    ],
)  # fmt: skip
def test_a_body_that_is_refused(
    app: Served, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    assert words in app.post("/add", body, headers).problem(status)


def test_paths_and_methods(app: Served) -> None:
    assert "see /openapi.json" in app.get("/nothing").problem(404)
    assert "see /openapi.json" in app.get("/add/").problem(404)
    refused = app.ask("DELETE", "/show/x")
    refused.problem(405)
    assert sorted(refused.headers["allow"].split(", ")) == ["GET", "HEAD"]
    app.get("/add").problem(405)
    app.post("/show/x", b"").problem(405)
    assert app.get("/show/a%2Fb").status == 404, "an encoded slash is none in a name"
    assert app.get("/show/%C3%A9").body == "é".encode()
    assert app.ask("GET", "/show/x", b"body").problem(413) == "a body, where none is expected"
    head = app.ask("HEAD", "/show/xyz")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "3")


def until(found: Callable[[], bool]) -> None:
    """What is written after an answer was sent is there soon."""
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_bug_is_an_answer_and_a_line_in_the_journal(app: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "attestd"):
        refused = app.get("/bug")
        assert "a bug" in refused.problem(500)
        assert "secret" not in refused.body.decode()
        found = refused.json["correlation_id"]
        until(lambda: f"request.bug id={found} operation=bug" in caplog.messages)
        until(
            lambda: any(line.startswith("request operation=bug status=500 ms=") for line in caplog.messages)
        )
    assert all(found in line for line in caplog.messages)


def test_what_fails_says_so_without_details(app: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "attestd"):
        refused = app.get("/broken")
        assert "disk" not in refused.problem(503)
        until(lambda: any("disk is full" in line for line in caplog.messages))
    assert all(refused.json["correlation_id"] in line for line in caplog.messages)


def test_what_takes_too_long_is_ended(app: Served) -> None:
    refused = app.get("/hang")
    assert "took too long" in refused.problem(503)
    assert refused.headers["retry-after"] == "1"


def test_several_requests_on_a_connection(app: Served) -> None:
    with contextlib.closing(app.connect()) as connection:
        for number in range(5):
            answered = ask_on(connection, "POST", "/add", json.dumps({"a": number, "b": 1}).encode(), JSON)
            assert answered.json == {"total": number + 1}
            ask_on(connection, "GET", "/nothing").problem(404)
            ask_on(connection, "POST", "/add", b"{", JSON).problem(400)


def test_metrics(app: Served) -> None:
    app.get("/show/x")
    app.get("/nothing")
    for line in (
        'attestd_controller_requests_total{operation="show",status="200"} ',
        'attestd_controller_requests_total{operation="unknown",status="404"} ',
        'attestd_controller_request_seconds_count{operation="show"} ',
    ):
        until(lambda line=line: f"\n{line}" in app.metrics.format())  # type: ignore[misc]


def test_the_document(app: Served) -> None:
    document = app.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) >= {"/add", "/show/{name}", "/openapi.json"}
    adding = document["paths"]["/add"]["post"]
    content = adding["requestBody"]["content"]["application/json"]
    assert content == {"schema": {"$ref": "#/components/schemas/Sum"}, "example": {"a": 1, "b": 2}}
    assert {"200", "400", "408", "413", "415", "422", "429", "500", "503"} == set(adding["responses"])
    problem = {"$ref": "#/components/schemas/Problem"}
    assert adding["responses"]["422"]["content"]["application/problem+json"]["schema"] == problem
    assert document["paths"]["/operator"]["get"]["security"] == [{"operator": []}]
    assert "403" in document["paths"]["/operator"]["get"]["responses"]
    named = set(document["components"]["schemas"])
    for reference in [
        part.partition('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]
    ]:
        assert reference in named
    # Its examples are accepted: what it says is what is done.
    assert app.post("/add", json.dumps(content["example"]).encode(), JSON).status == 200


def test_an_operation_without_meaning() -> None:
    with pytest.raises(UsageError, match="GET takes no body"):
        Operation("x", "POST", "/x", "x", echo, {})
    with pytest.raises(UsageError, match="there is no other"):
        Operation("x", "PUT", "/x", "x", echo, {})


# -- limits


def test_the_rate_of_a_peer() -> None:
    with served(rate=RateLimit(0.2, 3)) as app:
        assert [app.get("/show/x").status for _ in range(3)] == [200] * 3
        refused = app.get("/show/x")
        assert "too many requests" in refused.problem(429)
        assert refused.headers["retry-after"] in ("5", "4", "3")
        # What does not exist costs as much; what watches the service costs nothing.
        assert app.get("/nothing").status == 429
        assert app.get("/exempt/x").status == 200
        until(lambda: app.get("/show/x").status == 200)


def test_no_header_makes_another_peer(caplog: pytest.LogCaptureFixture) -> None:
    """Or a peer would be somebody else each time, and not limited at all."""
    names = ("x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "client-ip")
    with served(rate=RateLimit(0.01, len(names))) as app, caplog.at_level(logging.DEBUG, "attestd"):
        for name in names:
            value = "for=192.0.2.7" if name == "forwarded" else "192.0.2.7"
            assert app.get("/show/x", {name: value}).status == 200
        assert app.get("/show/x", {"x-forwarded-for": "192.0.2.8"}).status == 429
        until(lambda: sum(" peer=127.0.0.1 " in line for line in caplog.messages) == len(names) + 1)


def test_refusals_do_not_push_out_what_matters(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """journald drops what is over its limit, whichever line that is: metrics count the rest."""
    monkeypatch.setattr(limits, "LINES_PER_S", 0.001)
    monkeypatch.setattr(limits, "LINES_AT_ONCE", 3)
    with served(rate=RateLimit(0.01, 1)) as app, caplog.at_level(logging.INFO, "attestd"):
        for _ in range(6):
            app.get("/nothing")
            app.say(b"rubbish\r\n\r\n")
        until(lambda: app.counted('attestd_controller_requests_total{operation="unknown",status="429"} 5'))
    said = [line.split()[0] for line in caplog.messages]
    assert (said.count("request"), said.count("request.refused")) == (3, 3)


def test_buckets() -> None:
    limit = RateLimit(10, 2, max_peers=2)
    assert [limit.take("a", now=0) for _ in range(3)] == [0, 0, 0.1]
    assert limit.take("b", now=0) == 0
    assert limit.take("a", now=0.05) == pytest.approx(0.05)
    assert limit.take("a", now=0.1) == 0
    assert (
        limit.take("c", now=0.1) == 0
    )  # The bucket of b, who asked longest ago, is forgotten: it is full again.
    assert [limit.take("b", now=0.1) for _ in range(3)] == [0, 0, pytest.approx(0.1)]
    assert limit.take("b", now=1000) == 0


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("unix", "unix"),
    ],
)
def test_who_an_address_counts_as(address: str, peer: str) -> None:
    assert peer_of(address) == peer


def test_connections() -> None:
    connections = Connections(most=3, most_of_a_peer=2)
    assert [connections.enter("a") for _ in range(3)] == [True, True, False]
    assert [connections.enter("b") for _ in range(2)] == [True, False]
    connections.leave("a")
    assert connections.enter("b")
    assert connections.count == 3


# -- the end


def test_what_was_begun_is_answered_at_the_end() -> None:
    results: list[int] = []
    BEGUN.clear()
    with served() as app:
        idle = app.connect()
        assert ask_on(idle, "GET", "/show/x").status == 200
        thread = threading.Thread(target=lambda: results.append(app.get("/slow").status))
        thread.start()
        assert BEGUN.wait(60)
    thread.join()
    assert results == [200]
    with contextlib.closing(idle), pytest.raises((ConnectionError, http.client.HTTPException)):
        ask_on(idle, "GET", "/show/x")


def test_what_hangs_is_cut_off_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_S", 0.3)
    BEGUN.clear()
    with served() as app, app.open() as sock:
        sock.sendall(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
        assert BEGUN.wait(60)
        began = time.monotonic()
    assert time.monotonic() - began < 15, "of the 20 s for what ends"


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", ":80", "127.0.0.1:-1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        bind(address)


def test_addresses() -> None:
    with contextlib.closing(bind("[::1]:0")) as listener:
        assert listener.getsockname()[0] == "::1"
        port = listener.getsockname()[1]
        with pytest.raises(StoreError, match="in use"):
            bind(f"[::1]:{port}")
    with pytest.raises(StoreError, match=r"listen nowhere\.invalid"):
        bind("nowhere.invalid:80")


# -- TLS


def test_tls_and_operators(tmp_path: Path) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    ours.issue(tmp_path, "server", host="localhost")
    (tmp_path / "operators.pem").write_bytes(ours.pem)
    certificate = Certificate(
        tmp_path / "server.pem", tmp_path / "server.key", operator_ca=tmp_path / "operators.pem"
    )
    digest = ours.issue(tmp_path, "alice")
    theirs.issue(tmp_path, "mallory")
    nobody, alice, mallory = (ssl.create_default_context(cadata=ours.pem.decode()) for _ in range(3))
    alice.load_cert_chain(tmp_path / "alice.pem", tmp_path / "alice.key")
    mallory.load_cert_chain(tmp_path / "mallory.pem", tmp_path / "mallory.key")
    with served(certificate=certificate, tls=nobody) as app:
        assert app.get("/show/x").body == b"x"
        assert "only for operators" in app.get("/operator").problem(403)
        app.tls = alice
        assert app.get("/operator").body.decode() == digest
        app.tls = mallory
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            app.get("/show/x")
        old = ssl.create_default_context(cadata=ours.pem.decode())
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        app.tls = old
        with pytest.raises((ssl.SSLError, ConnectionError)):
            app.get("/show/x")
        # Not TLS at all: nothing of HTTP is said on it.
        assert b"HTTP/1.1" not in app.say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")


def test_handshakes_that_never_end(tmp_path: Path) -> None:
    """They count as connections, and are cut off."""
    authority = Authority("ours")
    authority.issue(tmp_path, "server", host="localhost")
    certificate = Certificate(tmp_path / "server.pem", tmp_path / "server.key", operator_ca=None)
    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    bounds = Bounds(handshake_s=2.0)
    with served(certificate=certificate, tls=trusting, connections=3, bounds=bounds) as app:
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(app.open()) for _ in range(3)]
            held[0].sendall(b"\x16\x03\x01")
            assert app.say(b"") == b""
            refused = 'attestd_controller_refused_total{why="connections"} 1'
            assert app.counted(refused), "the fourth is ended at once"
            assert [read_all(sock) for sock in held] == [b""] * 3
        assert app.get("/show/x").body == b"x"
        until(lambda: app.counted("attestd_controller_connections 0"))


def test_without_tls_a_header_makes_no_operator() -> None:
    with served() as app:
        for name in ("x-client-cert", "x-forwarded-client-cert", "x-ssl-client-verify", "operator"):
            app.get("/operator", {name: "0" * 64}).problem(403)


def test_a_new_certificate_is_taken_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RELOAD_S", 0.1)
    first, second = Authority("first"), Authority("second")
    first.issue(tmp_path, "server", host="localhost")
    certificate = Certificate(tmp_path / "server.pem", tmp_path / "server.key", operator_ca=None)
    with (
        served(certificate=certificate, tls=ssl.create_default_context(cadata=first.pem.decode())) as app,
        contextlib.closing(app.connect()) as old,
    ):
        assert ask_on(old, "GET", "/show/x").status == 200
        # Half of a pair: the old one goes on.
        (tmp_path / "server.key").write_text("no key")
        time.sleep(0.3)
        assert app.get("/show/x").status == 200
        second.issue(tmp_path, "server", host="localhost")
        app.tls = ssl.create_default_context(cadata=second.pem.decode())
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(ssl.SSLError):
                assert app.get("/show/x").status == 200
                break
            assert time.monotonic() < deadline
        assert ask_on(old, "GET", "/show/x").status == 200, "a connection keeps what it began with"


def test_what_is_no_certificate(tmp_path: Path) -> None:
    Authority("a").issue(tmp_path, "one")
    Authority("b").issue(tmp_path, "two")
    with pytest.raises(StoreError, match="No such file"):
        Certificate(tmp_path / "none.pem", tmp_path / "one.key", operator_ca=None)
    with pytest.raises(UsageError, match="no certificate with its unencrypted key"):
        Certificate(tmp_path / "one.pem", tmp_path / "two.key", operator_ca=None)
    with pytest.raises(UsageError, match="no certificates in PEM"):
        Certificate(tmp_path / "one.pem", tmp_path / "one.key", operator_ca=tmp_path / "one.key")
    with pytest.raises(StoreError, match="No such file"):
        Certificate(tmp_path / "one.pem", tmp_path / "one.key", operator_ca=tmp_path / "none")
