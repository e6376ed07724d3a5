"""Where things live: as a service, or all below one state directory; and the configuration that is read there."""

import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec

from attestd.errors import StoreError, UsageError
from attestd.strict import HostId, Strict, convert, parse_json
from attestd.where import MAX_SOCKET_PATH_BYTES, state_dir

__all__ = [
    "Configuration",
    "Layout",
    "LogPaths",
    "TrustSource",
    "find_client_layout",
    "find_layout",
    "load_configuration",
    "read_pinned_host",
    "system_layout",
]

# tomllib takes time with the square of a dotted key's parts: 25 s for one of 64 KiB.
MAX_CONFIGURATION_BYTES: Final = 8 * 1024
MAX_PINNED_BYTES: Final = 4096
AUTO: Final = "auto"
KERNEL_LOGS: Final = {
    "eventlog": Path("/sys/kernel/security/tpm0/binary_bios_measurements"),
    "ima_list": Path("/sys/kernel/security/ima/binary_runtime_measurements"),
    "userspace_log": Path("/run/log/systemd/tpm2-measure.log"),
}


@dataclass(frozen=True)
class TrustSource:
    """Where governance is read.

    Attributes:
        anchor: The directory with `root.json`, the root of trust that this host was given: who can write there decides
            what is trusted.
        mirror: The directory with `metadata/` and `targets/` as they were published. All of it is verified from the
            anchor, so it does not matter who can write there.
        owners: The only users that may own the anchor.
    """

    anchor: Path
    mirror: Path
    owners: frozenset[int]

    @classmethod
    def at(cls, directory: Path, *, owners: Collection[int]) -> Self:
        """A directory that is both: `root.json` beside `metadata/` and `targets/`."""
        return cls(directory, directory, frozenset(owners))


@dataclass(frozen=True)
class Layout:
    """All paths of one installation.

    Attributes:
        system: The service's places; otherwise all is below one directory.
        trust: The root of trust; and all that is trusted, unless the agent downloads that.
        authority: Keys of local authorities; the agent never reads it.
        agent: The agent's state: log, keys, installed authorizations.
        runner: The runner's own records.
        tpm: The embedded software TPM's state.
        agent_user: Who the agent runs as, if not as whoever starts it.
    """

    system: bool
    configuration: Path
    trust: Path
    authority: Path
    agent: Path
    runner: Path
    tpm: Path
    agent_socket: Path
    runner_socket: Path
    agent_user: str | None = None

    @property
    def log(self) -> Path:
        """The audit log."""
        return self.agent / "log.db"

    @property
    def keys(self) -> Path:
        """The TPM key blobs and auth values: useless on another TPM, secret on this one."""
        return self.agent / "keys.json"

    @property
    def boots(self) -> Path:
        """The logs of the last boots."""
        return self.agent / "boots"

    @property
    def salt_key(self) -> Path:
        """From it the salts of secret values in the log are derived: without it nobody can say what a value was."""
        return self.agent / "salt.key"

    @property
    def next_keys(self) -> Path:
        """Those that take the place of `keys`, while `attestd rekey` is under way."""
        return self.agent / "keys.next.json"

    @property
    def host(self) -> Path:
        """Which host this is, as the runner knows it: pinned at init, in the runner's own directory."""
        return self.runner / "host.json"

    @property
    def authorizations(self) -> Path:
        """Installed artifacts, below it one directory a user and one for all."""
        return self.agent / "authorizations"

    @property
    def repository(self) -> Path:
        """The repository of a standalone host's own authorities."""
        return self.authority / "governance"

    @property
    def host_request(self) -> Path:
        """The host record that the enrollers are asked to sign."""
        return self.trust.parent / "host-request.json"

    @property
    def host_record(self) -> Path:
        """The host record that enrollers signed, for whoever publishes it."""
        return self.trust.parent / "host-record.json"

    @property
    def host_record_ended(self) -> Path:
        """The end of the host record before it, where there was one, as enrollers signed it."""
        return self.trust.parent / "host-record.ended.json"

    @property
    def ak_certificates(self) -> Path:
        """The attestation key's X.509 certificates, one from each enroller that issues any."""
        return self.trust.parent / "ak.pem"

    @property
    def mirror(self) -> Path:
        """Where the agent keeps what it downloads of a repository that others share."""
        return self.agent / "governance"

    def trust_source(self, configuration: "Configuration") -> TrustSource:
        """Where this installation's governance is read: root's, and in a state directory of one's own, one's own."""
        return TrustSource(
            anchor=self.trust,
            mirror=self.mirror if configuration.governance_url else self.trust,
            owners=frozenset({0} if self.system else {0, os.geteuid()}),
        )

    def require_short_sockets(self) -> None:
        """Socket paths that the kernel would refuse.

        Raises:
            UsageError: A path over 107 bytes.
        """
        for path in (self.agent_socket, self.runner_socket):
            if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
                raise UsageError(
                    f"socket path {path} has {len(os.fsencode(path))} bytes, Unix sockets allow"
                    f" {MAX_SOCKET_PATH_BYTES}: choose a shorter --state-dir"
                )


_STATE = Path("/var/lib/attestd")
_SYSTEM: Final = Layout(
    system=True,
    configuration=Path("/etc/attestd/attestd.toml"),
    trust=Path("/etc/attestd/trust"),
    authority=Path("/etc/attestd/authority"),
    agent=_STATE,
    runner=Path("/var/lib/attestd-runner"),
    tpm=_STATE / "tpm",
    agent_socket=Path("/run/attestd/agent.sock"),
    runner_socket=Path("/run/attestd-runner/runner.sock"),
    agent_user="attestd",
)


def system_layout() -> Layout:
    """The service's places, whoever asks."""
    return _SYSTEM


def find_layout(explicit: str | None) -> Layout:
    """The layout for this user: `--state-dir`, else `ATTESTD_STATE_DIR`, else the user's own, else the system's."""
    chosen = state_dir(os.fsencode(explicit) if explicit else None, dict(os.environb), os.geteuid())
    if chosen is None:
        return _SYSTEM
    top = Path(os.fsdecode(chosen)).absolute()
    return Layout(
        system=False,
        configuration=top / "attestd.toml",
        trust=top / "trust",
        authority=top / "authority",
        agent=top / "agent",
        runner=top / "runner",
        tpm=top / "tpm",
        agent_socket=top / "run" / "agent.sock",
        runner_socket=top / "run" / "runner.sock",
    )


def find_client_layout(explicit: str | None) -> Layout:
    """As `find_layout`, but the system's for a user without an installation of their own.

    Issuing and verifying read what is trusted on this host; users of a host with the system's agent configure nothing.
    """
    own = find_layout(explicit)
    if (
        own.system or explicit or os.environ.get("ATTESTD_STATE_DIR") or os.path.exists(own.trust)
    ):  # false also where it may not be looked at
        return own
    return _SYSTEM


@dataclass(frozen=True)
class LogPaths:
    """Where the kernel hands out what was measured; None: nowhere.

    Attributes:
        eventlog: The UEFI event log.
        ima_list: The IMA list, binary.
        userspace_log: What systemd measured; it need not be there.
        command_line: The kernel's.
    """

    eventlog: Path | None
    ima_list: Path | None
    userspace_log: Path | None
    command_line: Path


class Configuration(Strict, frozen=True):
    """`attestd.toml`. Environment variables `ATTESTD_<NAME>` override it; options override both.

    Attributes:
        tpm: `embedded`, or a TCTI string such as `device:/dev/tpmrm0`.
        tpm_deadline_s: How long one TPM command may take before the TPM counts as unavailable.
        evidence_interval_s: How often the agent takes fresh evidence on its own.
        max_batch: How many entries one checkpoint may seal.
        disk_reserve_mb: Decisions are denied when less than this is free for the log, in MiB.
        verify_interval_s: How often the agent verifies what was added to the log.
        metrics_file: Where metrics are written for the node exporter's textfile collector; empty: nowhere.
        metrics_address: `127.0.0.1:PORT`, where metrics are served over HTTP; empty: nowhere.
        governance_url: `https://…`, `http://…` or a directory, from where the agent downloads governance; empty: the
            trust directory itself is the repository.
        governance_ca: A PEM file of the certificate authorities that may vouch for that server; empty: the system's.
        governance_interval_s: How often the agent looks there.
        governance_grace_s: For how long metadata may be used after it expired.
        controller_ca: A PEM file of the certificate authorities that may vouch for controllers; empty: as `governance_ca`.
        mesh_wait_s: How long a decision waits for verifiers.
        witness_wait_s: How long a release waits for witnesses; well below the age that a runner accepts of a receipt.
        witness_interval_s: How often witnesses are sent the log's newest checkpoint, if no release waits for them.
        eventlog: The UEFI event log: a path; empty: none; `auto`: the kernel's, if the TPM is a device.
        ima_list: The IMA list, binary, likewise.
        userspace_log: What systemd measured, likewise.
        command_line: The kernel's command line, by which that of a unified kernel image is recognised in the event log.
    """

    tpm: str = "embedded"
    tpm_deadline_s: Annotated[int, msgspec.Meta(ge=1, le=600)] = 10
    evidence_interval_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 30
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    disk_reserve_mb: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 64
    verify_interval_s: Annotated[int, msgspec.Meta(ge=1, le=604_800)] = 3600
    metrics_file: str = ""
    metrics_address: str = ""
    governance_url: str = ""
    governance_ca: str = ""
    governance_interval_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60
    governance_grace_s: Annotated[int, msgspec.Meta(ge=0, le=31_536_000)] = 0
    controller_ca: str = ""
    mesh_wait_s: Annotated[int, msgspec.Meta(ge=1, le=60)] = 5
    witness_wait_s: Annotated[int, msgspec.Meta(ge=1, le=30)] = 5
    witness_interval_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60
    eventlog: str = AUTO
    ima_list: str = AUTO
    userspace_log: str = AUTO
    command_line: str = "/proc/cmdline"

    @property
    def mesh_ca(self) -> str:
        """Who may vouch for controllers; empty: the system's authorities."""
        return self.controller_ca or self.governance_ca

    def log_paths(self) -> LogPaths:
        """Where what was measured is read: of a TPM that is not this machine's, the kernel knows nothing."""
        machine = self.tpm.startswith("device:")

        def path(name: str) -> Path | None:
            text = getattr(self, name)
            if text == AUTO:
                return KERNEL_LOGS[name] if machine else None
            return Path(text) if text else None

        return LogPaths(path("eventlog"), path("ima_list"), path("userspace_log"), Path(self.command_line))


def load_configuration(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Reads the configuration; a missing file means defaults.

    Raises:
        UsageError: Not TOML, over 8 KiB, an unknown name, a value of the wrong type or out of range.
        StoreError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIGURATION_BYTES + 1)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_CONFIGURATION_BYTES:
        raise UsageError(f"{path}: over {MAX_CONFIGURATION_BYTES} bytes")
    try:
        values: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
        defaults = Configuration()
        for field in Configuration.__struct_fields__:
            text = environ.get(f"ATTESTD_{field.upper()}")
            if text is not None:
                values[field] = text if isinstance(getattr(defaults, field), str) else int(text)
        return msgspec.convert(values, Configuration, strict=True)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error


class _PinnedHost(Strict, frozen=True):
    v: Literal[1]
    host: HostId


def read_pinned_host(path: Path) -> str:
    """Which host this is: `Layout.host`, which `init` wrote to the runner's own directory.

    Raises:
        UsageError: There is none.
        StoreError: This user may not read it.
        MalformedError: It is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing: initialise the host with attestd init") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    what = str(path)
    return convert(parse_json(data, max_bytes=MAX_PINNED_BYTES, what=what), _PinnedHost, what=what).host
