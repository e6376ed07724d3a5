"""A mesh for tests: a fleet's authorities, two controllers with every role, and whole hosts that they enrolled.

Between hosts and controllers stands a network that a test can break (`tests.between`).
"""

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from attestd.paths import Configuration
from attestd.tcg.public import host_id
from attestd.tpm.embedded import EmbeddedTpm
from tests.between import Between
from tests.controller.running import Controller
from tests.fleet import INTERVAL_S, Fleet, Member

NAMES: Final = ("one", "two")
_ENROLLERS: Final = ("enroller", "enroller two")


class Mesh(Fleet):
    """Two controllers, `one` and `two`, that must both sign; a context manager.

    Attributes:
        controllers: By name.
        between: What stands before each of them: `mesh.json` names its address.
    """

    def __init__(self, *, databases: Mapping[str, str] | None = None) -> None:
        """Takes a database's URL by controller; SQLite where there is none."""
        super().__init__(enrollers=_ENROLLERS)
        self._databases = dict(databases or {})
        self.controllers: dict[str, Controller] = {}
        self.between: dict[str, Between] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            for name, enroller in zip(NAMES, _ENROLLERS, strict=True):
                self._make(name, enroller)
            for name in NAMES:
                self._name(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(super().__exit__)
            for between in self.between.values():
                stack.callback(between.end)
            for controller in self.controllers.values():
                stack.callback(controller.kill)

    def _make(self, name: str, enroller: str) -> None:
        first = name == NAMES[0]
        controller = self.controllers[name] = Controller(
            self.top / name,
            roles=["enroller", "verifier", "witness", *(["governance"] if first else [])],
            governance=str(self.office / "web"),
            database=self._databases.get(name, ""),
            enroller_key=str(self.office / f"{enroller}.pem"),
            epoch_key=str(self.office / "tpm epoch.pem") if first else "",
            verifier_name=name,
            witness_name=f"{name}.example/1",
            witness_mldsa=False,
        )
        controller.init("--root", str(self.anchor)).start()
        self.between[name] = Between(controller.port)

    def _name(self, name: str) -> None:
        """Stages its address and keys; published with whatever comes next."""
        kept = self.controllers[name].state / "controller"
        enroller = dict(zip(NAMES, _ENROLLERS, strict=True))[name]
        self.governance(
            *("mesh", name, "--url", self.between[name].url, "--enroller", f"{enroller}.pem"),
            *("--verifier", kept / "verifier.pub", "--witness", kept / "witness.vkeys"),
        )

    def start(self, name: str) -> None:
        """Starts a controller again; hosts find it where it was."""
        self.between[name].target = self.controllers[name].start().port

    def publish(self) -> int:
        """Publishes, and waits until the controllers go by it."""
        version = super().publish()
        for controller in self.controllers.values():
            if controller.process is not None:
                controller.wait_said(rf"governance.read version={version} ")
        return version

    def enrol(self, count: int, **configuration: Any) -> list[Member]:
        """Hosts that both controllers enrolled, serving; members of `attestd.toml` by name."""
        made = [self._new() for _ in range(count)]
        ids = [_ek_host(host) for host in made]
        self.governance("allow", *ids, "--tier", "software")
        self.publish()
        for host in made:
            named = [word for between in self.between.values() for word in ("--controller", between.url)]
            done = host.attestd("init", "--tpm", "embedded", *named, "--root", self.anchor, "--json")
            assert done.status == 0, done
            self.governance("enroll", done.json["record"], "--yes")
        version = self.publish()
        for host in made:
            self._configure(host, **configuration)
            host.start()
        for host in made:
            host.wait_version(version)
        return made

    def _new(self) -> Member:
        host = Member(Path(tempfile.mkdtemp(prefix="h-", dir="/tmp")))
        host.office = self.office
        self.hosts.append(host)
        host.work.mkdir()
        host.configuration = Configuration(governance_url=f"{self.between[NAMES[0]].url}/governance")
        return host

    def _configure(self, host: Member, **members: Any) -> None:
        values = {"governance_interval_s": INTERVAL_S, **members}
        with host.layout.configuration.open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in values.items())

    def move(self, host: Member, version: int) -> None:
        """Has a host take up a version now."""
        host.attestd("governance", "update")
        host.wait_version(version)


def _ek_host(host: Member) -> str:
    """The host-id that a TPM has, before anything is initialised on it."""
    embedded = EmbeddedTpm(host.layout.tpm)
    embedded.start()
    with embedded.open() as tpm:
        return host_id(tpm.endorsement_key().public)
