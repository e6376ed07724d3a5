"""A fleet for tests: authorities with a repository of their own, published as static files, and whole hosts that join it.

Everything is done at the command line, as people do it; two persons, Alice and Bob, sign what hosts believe and authorize
commands, both of them each time.
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from attestd.cli import run
from attestd.distribution.repository import Repository
from attestd.governance.trust import Trust
from attestd.paths import Configuration
from attestd.strict import parse_json
from tests.cli.conftest import Result
from tests.distribution.repositories import write_key
from tests.host import Host, wait_for
from tests.world import ed25519_key, key_id

PERSONS = ("alice", "bob")
KEYS = (*PERSONS, "root", "online", "enroller", "enroller two", "tpm root", "tpm platform", "tpm epoch")
# How often hosts look by themselves, in seconds.
INTERVAL_S = 1


def attestd(directory: Path, *arguments: Any, state: Path | None = None) -> Result:
    """A command, in a directory."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    before = os.environ.get("ATTESTD_STATE_DIR")
    os.environ["ATTESTD_STATE_DIR"] = str(state or directory / "none")
    try:
        with contextlib.chdir(directory), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run([str(argument) for argument in arguments])
    finally:
        del os.environ["ATTESTD_STATE_DIR"]
        if before is not None:
            os.environ["ATTESTD_STATE_DIR"] = before
    return Result(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))


class Member(Host):
    """A host of the fleet."""

    office: Path

    @cached_property
    def id(self) -> str:
        pinned = parse_json((self.layout.runner / "host.json").read_bytes(), max_bytes=4096, what="host")
        return str(pinned["host"])

    def attestd(self, *arguments: Any) -> Result:
        """A command on this host, in the directory where commands run."""
        return attestd(self.work, *arguments, state=self.state)

    def authorize(
        self, *command: str, persons: Sequence[str] = PERSONS, options: Sequence[str] = ()
    ) -> bytes:
        """What persons of the office authorize: the first issues, the others approve."""
        path = self.top / f"{os.urandom(8).hex()}.auth.json"
        first, *others = (self.office / f"{name}.pem" for name in persons)
        issued = self.attestd(
            *("authorization", "issue", "--max-uses", "unlimited", "--key", first, "-o", path),
            *("--host", self.id, *options, "--", *command),
        )
        assert issued.status == 0, issued
        for key in others:
            approved = self.attestd("authorization", "approve", "--yes", "--key", key, path)
            assert approved.status == 0, approved
        return path.read_bytes()

    def wait_version(self, version: int) -> None:
        """Waits until agent and runner go by a version."""

        def sees() -> bool:
            agent, runner = self.status()["governance"], self.runner_info()["governance"]
            return bool(agent.get("version") == version and runner.get("version") == version)

        wait_for(f"version {version} is in force", sees)


class Fleet:
    """The office, and its hosts. A context manager."""

    def __init__(self, *, enrollers: Sequence[str] = ("enroller",)) -> None:
        self.enrollers = enrollers
        self.top = Path(tempfile.mkdtemp(prefix="f-", dir="/tmp"))
        self.office = self.top / "o"
        self.office.mkdir()
        self.hosts: list[Member] = []
        for name in KEYS:
            write_key(self.office, name)

    def __enter__(self) -> Self:
        try:
            self._found()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.top)
            for host in self.hosts:
                stack.callback(host.close)

    @property
    def repository(self) -> Repository:
        return Repository(self.office / "governance")

    @property
    def trust(self) -> Trust:
        """What hosts believe once all that is staged is published."""
        return self.repository.validate().trust

    def key_id(self, name: str) -> str:
        return key_id(ed25519_key(name))

    def governance(self, command: str, *arguments: Any) -> Result:
        """A command in the office that must succeed."""
        done = attestd(self.office, "governance", command, "--repository", "governance", *arguments)
        assert done.status == 0, done
        return done

    def publish(self) -> int:
        """Both sign, and it is published; its version."""
        for name in PERSONS:
            self.governance("sign", "--key", f"{name}.pem", "--yes")
        return int(self.governance("publish", "--json").json["version"])

    def add(self, name: str, data: bytes) -> int:
        """Stages a file and publishes it."""
        (self.office / "file").write_bytes(data)
        self.governance("add", name, "file")
        return self.publish()

    def revoke(self, *options: Any) -> int:
        """Revokes and publishes."""
        self.governance("revoke", *options)
        return self.publish()

    def join(
        self, *, labels: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None
    ) -> Member:
        """A host that joins, is enrolled, and serves."""
        host = Member(Path(tempfile.mkdtemp(prefix="h-", dir="/tmp")))
        host.office = self.office
        self.hosts.append(host)
        host.work.mkdir()
        host.configuration = Configuration(governance_url=str(self.office / "web"))
        joined = host.attestd(
            *("init", "--tpm", "embedded", "--governance", self.office / "web", "--root", self.anchor),
            *("--epoch-key", self.office / "tpm epoch.pem", "--json"),
            *(word for name, value in (labels or {}).items() for word in ("--label", f"{name}={value}")),
        )
        assert joined.status == 0, joined
        self.governance("enroll", joined.json["request"], "--key", "enroller.pem", "--yes")
        version = self.publish()
        with host.layout.configuration.open("a") as file:
            file.write(f"governance_interval_s = {INTERVAL_S}\n")
        host.start(env=env)
        host.wait_version(version)
        return host

    @property
    def anchor(self) -> Path:
        return self.office / "web" / "metadata" / "1.root.json"

    def _found(self) -> None:
        """The first published version: keys, and the state that all embedded TPMs are in."""
        done = attestd(
            self.office,
            *("governance", "init", "governance", "--root", "root.pem", "--online", "online.pem"),
            *(word for name in PERSONS for word in ("--targets", f"{name}.pem")),
            *(word for name in PERSONS for word in ("--authorization", f"{name}.pem")),
            *(word for name in self.enrollers for word in ("--enroller", f"{name}.pem")),
            *("--tpm-root", "tpm root.pem", "--publish-to", "web"),
            *("--tpm-platform", "tpm platform.pem", "--tpm-epoch", "tpm epoch.pem"),
        )
        assert done.status == 0, done
        with Host.create() as reference:
            values = reference.trust.platforms["local"].values
        lines = [f"  {index}: 0x{value.hex()}" for index, (value,) in values.items()]
        (self.office / "pcrs").write_text("\n".join(["sha256:", *lines, ""]))
        self.governance(
            *("platform", "fleet", "--values", "pcrs", "--root-key", "tpm root.pem"),
            *("--key", "tpm platform.pem", "--min-tier", "software", "--yes"),
        )
        self.governance("sign", "--key", "root.pem", "--yes")
        self.publish()
