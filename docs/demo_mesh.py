"""`make demo-mesh`: two controllers and three hosts, each with a software TPM of its own. Exit 0 only if all happened as told.

Everything is the command line of people who use it; the villain of the last chapters has a host, with all of its disk and
its TPM, and that is in this file.
"""

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from telling import Result, Story, end, end_runner, paint, until

CONTROLLERS = ("one", "two")
HOSTS = ("web1", "web2", "ci1")
KEYS = ("root", "alice", "online", *(f"enroller-{name}" for name in CONTROLLERS))
TPM_KEYS = ("tpm-root", "tpm-platform", "tpm-epoch")
PCRS = r"sha256:\n  0: 0x%064d\n  4: 0x%064d\n  7: 0x%064d\n"
COMMAND = "./deploy"
# Controllers look at what is published every second.
LOOK_S = 1.5


class Mesh(Story):
    def __init__(self, home: Path) -> None:
        super().__init__(home, {"ATTESTD_REPOSITORY": str(home / "governance")})
        self.ports = dict(zip(CONTROLLERS, free_ports(len(CONTROLLERS)), strict=True))
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ids: dict[str, str] = {}

    def url(self, controller: str) -> str:
        return f"http://127.0.0.1:{self.ports[controller]}"

    def start_controller(self, name: str) -> bool:
        self._start(name, "controller", "serve", "--state-dir", name)
        return until(lambda: self._is_healthy(name))

    def start_hosts(self, *names: str) -> bool:
        """Starts them, then waits for each; whether all serve."""
        for name in names:
            (self.home / f"{name}.log").unlink(missing_ok=True)
            self._start(name, "serve", "--state-dir", name)
        for name in names:
            until(lambda: self.running[name].poll() is not None or self._is_ready(name))  # noqa: B023 - at once
        return all(self.running[name].poll() is None and self._is_ready(name) for name in names)

    def stop_host(self, name: str) -> None:
        """Agent, runner and TPM: the machine is off."""
        end(self.running[name])
        end_runner(self.home / name)

    def clean_up(self) -> None:
        for process in self.running.values():
            end(process)
        for name in HOSTS:
            end_runner(self.home / name)

    def execute(self, host: str, *options: str, lines: int = 6) -> Result:
        return self.run(*self.execution(host, *options), lines=lines)

    def execution(self, host: str, *options: str) -> list[str]:
        return ["exec", "--state-dir", host, *options, "-a", f"{host}.auth.json", "--", COMMAND, "prod"]

    def publish(self) -> Result:
        """Signed and published; controllers see it within a second, hosts when they look."""
        self.run("governance", "sign", "--key", "alice.pem", "--yes", lines=1)
        return self.run("governance", "publish")

    def update(self, *hosts: str) -> None:
        for host in hosts:
            self.run("governance", "update", "--state-dir", host)

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        self.show_command(f"attestd {' '.join(arguments)} 2>{name}.log &")
        process = self.running[name] = self.start(f"{name}.log", *arguments)
        return process

    def _is_healthy(self, name: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[name], timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        return False

    def _is_ready(self, name: str) -> bool:
        return "agent.ready" in (self.home / f"{name}.log").read_text()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def chapter_governance(mesh: Mesh) -> None:
    mesh.chapter("1. Governance: what hosts believe is signed and published; two enrollers admit hosts")
    keygen = ("authority", "keygen", "--no-passphrase")
    mesh.show_command(f"for name in {' '.join(KEYS)}; do attestd {' '.join(keygen)} $name; done")
    p256 = ("--kind", "p256")
    mesh.show_command(
        f"for name in {' '.join(TPM_KEYS)}; do attestd {' '.join((*keygen, *p256))} $name; done"
    )
    with ThreadPoolExecutor() as threads:
        commands = [[*keygen, name] for name in KEYS] + [[*keygen, *p256, name] for name in TPM_KEYS]
        made = list(threads.map(lambda command: mesh.run(*command, quiet=True), commands))
    mesh.run(
        *("governance", "init", "governance", "--root", "root.pub", "--online", "online.pem"),
        *("--publish-to", "web", "--targets", "alice.pub", "--authorization", "alice.pub"),
        *(word for name in CONTROLLERS for word in ("--enroller", f"enroller-{name}.pub")),
        *("--tpm-root", "tpm-root.pub", "--tpm-platform", "tpm-platform.pub", "--tpm-epoch", "tpm-epoch.pub"),
    )
    mesh.show_command(f"printf '{PCRS}' 0 0 0 > pcrs.txt")
    (mesh.home / "pcrs.txt").write_text(PCRS.replace(r"\n", "\n") % (0, 0, 0))
    mesh.run(
        *("governance", "platform", "fleet", "--values", "pcrs.txt", "--min-tier", "software", "--yes"),
        *("--root-key", "tpm-root.pem", "--key", "tpm-platform.pem"),
    )
    mesh.run("governance", "sign", "--key", "root.pem", "--yes", lines=1)
    published = mesh.publish()
    mesh.expect(
        "a first version, signed and published",
        "version 1",
        {result.status for result in made} == {0} and "published: version 1," in published.out,
    )


def chapter_controllers(mesh: Mesh) -> None:
    mesh.chapter("2. Two controllers, of two operators: each enrols, verifies and witnesses")
    for name in CONTROLLERS:
        mesh.run(
            *("controller", "init", "--state-dir", name, "--listen", f"127.0.0.1:{mesh.ports[name]}"),
            *("--role", "enroller", "--role", "verifier", "--role", "witness"),
            *(("--role", "governance", "--epoch-key", "tpm-epoch.pem") if name == CONTROLLERS[0] else ()),
            *("--governance", "web", "--root", "web/metadata/1.root.json"),
            *("--enroller-key", f"enroller-{name}.pem", "--verifier-name", name),
            *("--witness-name", f"{name}.example/1"),
            lines=12,
        )
        mesh.run(
            *("governance", "mesh", name, "--url", mesh.url(name), "--enroller", f"enroller-{name}.pub"),
            *("--verifier", f"{name}/controller/verifier.pub"),
            *("--witness", f"{name}/controller/witness.vkeys"),
            lines=1,
        )
    mesh.run("governance", "diff", lines=20)
    mesh.publish()
    for name in CONTROLLERS:
        mesh.expect(f"controller {name} is up", "healthy", mesh.start_controller(name))


def chapter_enrolment(mesh: Mesh) -> None:
    mesh.chapter("3. Three hosts enrol: each controller runs its own activation with each TPM")
    refused = mesh.run_together(*(init(mesh, host) for host in HOSTS))
    for host, result in zip(HOSTS, refused, strict=True):
        found = re.search(r"EK of host ([0-9a-f]{64}) ", result.err)
        mesh.ids[host] = found[1] if found else ""
    unknown = all(result.status == 1 for result in refused) and all(mesh.ids.values())
    mesh.expect("TPMs that nobody knows are refused, by name", "refused", unknown)
    mesh.run("governance", "allow", *mesh.ids.values(), "--tier", "software", lines=1)
    mesh.publish()
    time.sleep(LOOK_S)
    enrolled = mesh.run_together(*(init(mesh, host) for host in HOSTS), lines=14)
    mesh.expect("believed, both controllers sign all three", "2 of 2", {r.status for r in enrolled} == {0})
    for host in HOSTS:
        mesh.run("governance", "enroll", f"{host}/host-record.json", "--yes", lines=2)
    mesh.publish()
    mesh.expect("three agents and runners are up", "serving", mesh.start_hosts(*HOSTS))


def init(mesh: Mesh, host: str) -> list[str]:
    urls = [word for name in CONTROLLERS for word in ("--controller", mesh.url(name))]
    return ["init", "--state-dir", host, "--tpm", "embedded", *urls, "--root", "web/metadata/1.root.json"]


def chapter_attest(mesh: Mesh) -> None:
    mesh.chapter("4. The hosts attest: each verifier appraises for itself, and signs what it found")
    with ThreadPoolExecutor() as threads:
        vouched = list(threads.map(lambda host: until(lambda: affirmed(mesh, host)), HOSTS))
    mesh.run("status", "--state-dir", HOSTS[0], lines=12, sections=("Verifiers", "Witnesses"))
    mesh.expect("three hosts, affirmed by both verifiers", "2 of 2", all(vouched))


def affirmed(mesh: Mesh, host: str) -> bool:
    return said_by_verifiers(mesh, host) == ["affirming"] * len(CONTROLLERS)


def said_by_verifiers(mesh: Mesh, host: str) -> list[str]:
    """What each verifier said last of a host, under the fleet's platform policy."""
    status = mesh.run("status", "--state-dir", host, "--json", quiet=True)
    verifiers = json.loads(status.out)["verifiers"] if status.status == 0 else []
    return [str(item["results"].get("fleet", {}).get("status")) for item in verifiers]


def chapter_run(mesh: Mesh) -> None:
    mesh.chapter("5. A command that two verifiers and two witnesses must vouch for")
    mesh.run_together(*(issue(host, "--verifiers", "2", "--witnesses", "2") for host in HOSTS[:2]))
    done = mesh.execute(HOSTS[0], "--receipt", "deploy.tlog-proof")
    mesh.expect("attested, sealed, witnessed, released, run", "ran", ran(done))
    given = ("--trust", "web", "--root", "web/metadata/1.root.json")
    done = mesh.run("verify", "receipt", "deploy.tlog-proof", *given, lines=40)
    cosigned = all(f"by {name}.example/1" in done.out for name in CONTROLLERS)
    counted = all(f"{name}: affirming, tier software" in done.out for name in CONTROLLERS)
    mesh.expect(
        "the receipt verifies offline, with both cosignatures, and says which verifiers counted",
        "verified",
        done.status == 0 and cosigned and counted,
    )


def issue(host: str, *quorums: str) -> list[str]:
    return [
        *("authorization", "issue", "--state-dir", host, "--key", "alice.pem", "--max-uses", "unlimited"),
        *(*quorums, "-o", f"{host}.auth.json", "--", COMMAND, "prod"),
    ]


def ran(result: Result) -> bool:
    return result.status == 0 and "deploying prod" in result.out


def chapter_outage(mesh: Mesh) -> None:
    mesh.chapter("6. One controller stops: nothing that needs both runs until it is back")
    end(mesh.running["two"])
    mesh.denied("one of two witnesses", "mesh_unavailable", *mesh.execution(HOSTS[0]))
    mesh.expect("controller two is started again", "healthy", mesh.start_controller("two"))
    mesh.expect("the same command runs again", "ran", ran(mesh.execute(HOSTS[0])))


def chapter_unapproved(mesh: Mesh) -> None:
    mesh.chapter("7. A host in a state that nobody approved")
    (mesh.home / "implant.ko").write_bytes(b"not a kernel module, but measured all the same\n")
    mesh.run("platform", "extend", "--state-dir", HOSTS[1], "--pcr", "7", "implant.ko")
    turned = until(lambda: said_by_verifiers(mesh, HOSTS[1]) == ["contraindicated"] * len(CONTROLLERS))
    mesh.run("status", "--state-dir", HOSTS[1], lines=12, sections=("Verifiers",))
    mesh.expect("both verifiers' results turn", "contraindicated", turned)
    mesh.denied("denied, with what was found", "environment_untrusted", *mesh.execution(HOSTS[1]))
    mesh.expect("the other hosts go on", "ran", ran(mesh.execute(HOSTS[0])))


def chapter_rollback(mesh: Mesh) -> None:
    mesh.chapter("8. A host restores an old log, together with its TPM: only witnesses can know")
    host = HOSTS[2]
    # Its verifiers would notice that its TPM's clock went back; here nobody but witnesses is asked.
    mesh.run(*issue(host, "--witnesses", "2"), lines=2)
    mesh.expect("it runs before", "ran", ran(mesh.execute(host)))
    mesh.stop_host(host)
    copy(mesh.home / host, mesh.home / "snapshot")
    mesh.start_hosts(host)
    mesh.expect("and goes on: a decision that somebody will regret", "ran", ran(mesh.execute(host)))
    mesh.stop_host(host)
    shutil.rmtree(mesh.home / host)
    copy(mesh.home / "snapshot", mesh.home / host)
    mesh.villain("puts back disk and TPM as they were a minute ago: the host itself cannot tell")
    mesh.expect("the agent serves: everything fits", "serving", mesh.start_hosts(host))
    mesh.denied(
        "the witnesses have seen more than that",
        "mesh_unavailable",
        *mesh.execution(host),
        words="this log was restored",
    )
    found = mesh.run("doctor", "--state-dir", host, lines=12)
    mesh.expect(
        "and the host's doctor says so",
        "refuses this log",
        found.status == 1 and "refuses this log" in found.text,
    )


def copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))


def chapter_revoked(mesh: Mesh) -> None:
    mesh.chapter(
        "9. A host is revoked: nobody vouches for it any more, and with its next update it knows itself"
    )
    host = HOSTS[0]
    mesh.run("governance", "revoke", "--host", mesh.ids[host], lines=1)
    mesh.publish()
    time.sleep(LOOK_S)
    early = mesh.execute(host)
    # Its own minute may just have come, so that it looked by itself.
    refused = early.status in (69, 77) and ("is revoked" in early.err)
    mesh.expect("it has not looked yet: the controllers refuse it", "refused", refused)
    mesh.run("governance", "update", "--state-dir", host)
    mesh.denied("one update later it denies everything itself", "revoked", *mesh.execution(host))
    listed = mesh.run("controller", "hosts", "--state-dir", CONTROLLERS[1])
    row = next((line for line in listed.out.splitlines() if mesh.ids[host][:16] in line), "")
    mesh.expect("and each controller lists it so", "revoked", "revoked" in row)


CHAPTERS = (
    chapter_governance,
    chapter_controllers,
    chapter_enrolment,
    chapter_attest,
    chapter_run,
    chapter_outage,
    chapter_unapproved,
    chapter_rollback,
    chapter_revoked,
)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="attestd-mesh-") as directory:
        mesh = Mesh(Path(directory))
        print(paint("attestd: a mesh of two controllers and three hosts, in a temporary directory", "1"))
        try:
            deploy = mesh.home / COMMAND
            deploy.write_text('#!/bin/sh\necho "deploying $1"\n')
            deploy.chmod(0o755)
            for chapter in CHAPTERS:
                chapter(mesh)
        finally:
            mesh.clean_up()
        return 0 if mesh.summary("attestd: several machines vouch, or nothing runs") else 1


if __name__ == "__main__":
    sys.exit(main())
