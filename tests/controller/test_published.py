"""The governance role: published files, what caches are told, and nothing outside the directory."""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from attestd.controller.published import governance_operations
from attestd.distribution.fetch import everything, update_mirror
from attestd.distribution.remote import open_remote
from tests.controller.serving import Served, served
from tests.world import World


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("top")
    world = World("published", now=datetime.now(UTC).replace(microsecond=0))
    world.write_trust(top / "web")
    (top / "secret").write_text("a secret")
    (top / "web" / "secret").write_text("a secret")
    (top / "web" / "targets" / "link.json").symlink_to(top / "secret")
    (top / "web" / "targets" / "dir").symlink_to(top)
    (top / "web" / "metadata" / "link.json").symlink_to("/etc/passwd")
    (top / "web" / "metadata" / ".hidden.json").write_text("a secret")
    os.mkfifo(top / "web" / "metadata" / "fifo.json")
    return top / "web"


@pytest.fixture(scope="module")
def app(web: Path) -> Iterator[Served]:
    with served(operations=governance_operations(web)) as running:
        yield running


def published(web: Path) -> list[str]:
    found = [
        path.relative_to(web).as_posix()
        for top in ("metadata", "targets")
        for path in (web / top).rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    ]
    return sorted(found)


def test_every_published_file_is_served_as_it_is(app: Served, web: Path) -> None:
    names = published(web)
    assert len(names) > 8
    for name in names:
        answered = app.get(f"/governance/{quote(name)}")
        assert (answered.status, answered.body) == (200, (web / name).read_bytes()), name
        head = app.ask("HEAD", f"/governance/{quote(name)}")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(answered.body))


def test_what_caches_are_told(app: Served, web: Path) -> None:
    """A name that says what is in the file is kept for ever; the timestamp is asked for each time."""
    for name in published(web):
        control = app.get(f"/governance/{name}").headers["cache-control"]
        if name == "metadata/timestamp.json":
            assert control == "no-cache"
        else:
            assert re.match(r"metadata/\d+\.|targets/(.*/)?[0-9a-f]{64}\.", name), name
            assert control == "public, max-age=31536000, immutable"
    # The next root is not there yet: nobody may remember that it is not.
    missing = app.get("/governance/metadata/2.root.json")
    missing.problem(404)
    assert missing.headers["cache-control"] == "no-store"


def test_what_is_known_already_is_not_sent_again(app: Served, web: Path) -> None:
    path = "/governance/metadata/timestamp.json"
    etag = app.get(path).headers["etag"]
    again = app.get(path, {"if-none-match": f'"other", {etag}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
    assert app.get(path, {"if-none-match": '"other"'}).status == 200
    before = (web / "metadata/timestamp.json").read_bytes()
    replacement = web / "metadata" / "new"
    replacement.write_bytes(before + b" ")
    replacement.rename(web / "metadata/timestamp.json")
    changed = app.get(path, {"if-none-match": etag})
    assert (changed.status, changed.body) == (200, before + b" ")
    replacement.write_bytes(before)
    replacement.rename(web / "metadata/timestamp.json")


@pytest.mark.parametrize(
    "path",
    [
        "", "metadata", "metadata/", "targets/", "secret", "root.json", ".", "..",
        "../secret", "metadata/../../secret", "metadata/../secret", "targets/../secret", "targets/../../secret",
        "%2e%2e/secret", "metadata/%2e%2e/%2e%2e/secret", "metadata%2f..%2f..%2fsecret", "..%2fsecret",
        "..%252fsecret", "metadata/..%5c..%5csecret", "..\\secret", "metadata//../../secret", "//etc/passwd", "/etc/passwd",
        "metadata//etc/passwd", "metadata/%00", "metadata/timestamp.json%00", "metadata/timestamp.json/",
        "metadata/./timestamp.json", "metadata/link.json", "metadata/fifo.json", "metadata/.hidden.json",
        "targets/link.json", "targets/dir/secret", "targets/dir", "targets/platform", "metadata/" + "x" * 300 + ".json",
        "targets/a/b/c/d/e/f", "metadata/%ff", "metadata/%F0%9F%94%91", "metadata/%0d%0ax: y",
        "metadata/timestamp.json;a=b", "metadata/*", "proc/self/environ", "METADATA/timestamp.json",
    ],
)  # fmt: skip
def test_nothing_else(app: Served, path: str) -> None:
    answered = app.get(f"/governance/{path}".replace(" ", "%20"))
    assert answered.status in (400, 404), answered
    assert b"secret" not in answered.body
    assert b"root:" not in answered.body


def test_a_query_changes_nothing(app: Served, web: Path) -> None:
    assert (
        app.get("/governance/metadata/timestamp.json?x=../../secret").body
        == (web / "metadata/timestamp.json").read_bytes()
    )


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    with served(operations=governance_operations(tmp_path / "none")) as app:
        refused = app.get("/governance/metadata/timestamp.json")
        assert str(tmp_path) not in refused.problem(503)


def test_a_host_takes_its_governance_from_it(app: Served, web: Path, tmp_path: Path) -> None:
    """By the code that agents have."""
    root = (web / "root.json").read_bytes()
    remote = open_remote(f"http://127.0.0.1:{app.port}/governance")
    update_mirror(remote, tmp_path / "mirror", root=root, floor=None, wanted=everything)
    for name in published(web):
        if not name.startswith("metadata/1.root"):
            assert (tmp_path / "mirror" / name).read_bytes() == (web / name).read_bytes(), name
