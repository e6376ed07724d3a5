"""Where a controller's things are, and what `controller.toml` says."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from attestd.durable import make_directory, write_atomic
from attestd.errors import StoreError, UsageError
from attestd.paths import MAX_CONFIGURATION_BYTES
from attestd.strict import Strict
from attestd.where import state_dir

__all__ = [
    "ControllerConfiguration",
    "ControllerLayout",
    "Role",
    "find_controller_layout",
    "load_controller_configuration",
    "write_controller_configuration",
]


class Role(StrEnum):
    """What a controller can do."""

    ENROLLER = "enroller"
    VERIFIER = "verifier"
    WITNESS = "witness"
    GOVERNANCE = "governance"
    LINEAGE = "lineage"


_PATHS: Final = frozenset(
    {"governance", "witness_logs", "enroller_passphrase_file", "verifier_passphrase_file"}
)
_Seconds = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


@dataclass(frozen=True)
class ControllerLayout:
    """All paths of one controller.

    Attributes:
        system: The service's places; otherwise all is below one directory.
        configuration: `controller.toml`.
        state: Its database, keys, anchors.
        trust: The directory with `root.json`, the root of trust of the governance that it reads.
        user: Who it runs as, if not as whoever starts it.
    """

    system: bool
    configuration: Path
    state: Path
    trust: Path
    user: str | None = None


_SYSTEM: Final = ControllerLayout(
    system=True,
    configuration=Path("/etc/attestd/controller.toml"),
    state=Path("/var/lib/attestd-controller"),
    trust=Path("/etc/attestd/trust"),
    user="attestd-controller",
)


def find_controller_layout(explicit: str | None, *, system: bool = False) -> ControllerLayout:
    """The layout: the system's, else below `--state-dir`, `ATTESTD_STATE_DIR` or the user's own directory."""
    chosen = state_dir(os.fsencode(explicit) if explicit else None, dict(os.environb), os.geteuid())
    if system or chosen is None:
        return _SYSTEM
    top = Path(os.fsdecode(chosen)).absolute()
    return ControllerLayout(
        system=False, configuration=top / "controller.toml", state=top / "controller", trust=top / "trust"
    )


class ControllerConfiguration(Strict, frozen=True):
    """`controller.toml`. Environment variables `ATTESTD_CONTROLLER_<NAME>` override it, but for lists.

    Attributes:
        listen: `HOST:PORT`, or `[IPV6]:PORT`.
        roles: Which roles are switched on.
        database: An SQLAlchemy URL: `sqlite:///PATH` or `postgresql+psycopg://…`; empty: SQLite in the state directory.
        tls_certificate: PEM file of the server's certificate with its intermediates; empty: no TLS.
        tls_key: PEM file of its key.
        operator_ca: PEM file of the authorities that issue operators' client certificates; empty: there are no operators.
        insecure_http: Without TLS, listen on other addresses than this host's own: what stands before it has to do TLS.
        requests_per_s: How many requests a second one address may make; 0: any number.
        burst: How many of them at once.
        connections_per_peer: How many connections one address may have at a time.
        governance: The directory that was published, with `metadata/` and `targets/`; empty: there is none.
        witness_name: The name in this witness's signatures: its address without a scheme.
        witness_logs: A file of further logs, one a line: `<vkey> [<origin>]`; empty: hosts' logs alone.
        witness_anchors: The directory where it is remembered how far the database had come; empty: in the state
            directory. On another disk than the database it also notices that the whole disk was restored.
        witness_mldsa: Whether to cosign with ML-DSA-44 as well.
        url: Where hosts reach it, for `mesh.json`; empty: where it listens.
        verifier_name: The verifier's name in `mesh.json`.
        verifier_key: The key that signs attestation results: a file, or a URI such as `hsm:2` or `awskms:ID`; empty:
            `verifier.pem` in the state directory.
        verifier_public_key: PEM file of its public half, for keys that are no files.
        verifier_passphrase_file: A file with its passphrase, or the token's PIN.
        verifier_result_s: For how many seconds a result holds: hosts attest again at about half of them.
        verifier_logs_mb: How many megabytes of boots' logs the database keeps; hosts send others whole each time.
        enroller_key: The key that signs host records: a file, or a URI such as `hsm:2` or `awskms:ID`.
        enroller_public_key: PEM file of its public half, for keys that are no files.
        enroller_passphrase_file: A file with the passphrase, or the token's PIN, of the keys here.
        enroller_max_days: For how many days it signs a host record at most.
        epoch_key: The epoch authority's key, which signs the first write of each TPM's epoch; empty: hosts bring their own.
        epoch_public_key: PEM file of its public half, for keys that are no files.
        lineage_receipts_per_host: How many receipts of one host are kept, unless an operator gave it a bound of its own.
        lineage_mb_per_host: Of how many megabytes. Of its denials a tenth of either is kept beside.
        ak_trust_domain: The SPIFFE trust domain in certificates of attestation keys; empty: none are issued.
        ak_ca_key: PEM file of the key that issues them; empty: one in the state directory.
        ak_ca_certificate: PEM file of its certificate; empty: one in the state directory, signed by the key itself.
    """

    listen: str = "127.0.0.1:8440"
    roles: tuple[Role, ...] = ()
    database: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    operator_ca: str = ""
    insecure_http: bool = False
    requests_per_s: _Count = 50
    burst: _Count = 200
    connections_per_peer: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    governance: str = ""
    witness_name: str = ""
    witness_logs: str = ""
    witness_anchors: str = ""
    witness_mldsa: bool = True
    url: str = ""
    verifier_name: Annotated[str, msgspec.Meta(pattern=r"\A([a-z0-9][a-z0-9.-]{0,63})?\Z")] = ""
    verifier_key: str = ""
    verifier_public_key: str = ""
    verifier_passphrase_file: str = ""
    verifier_result_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 300
    verifier_logs_mb: _Count = 4_096
    enroller_key: str = ""
    enroller_public_key: str = ""
    enroller_passphrase_file: str = ""
    enroller_max_days: Annotated[int, msgspec.Meta(ge=1, le=36_525)] = 3_651
    epoch_key: str = ""
    epoch_public_key: str = ""
    lineage_receipts_per_host: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 100_000
    lineage_mb_per_host: _Count = 256
    ak_trust_domain: str = ""
    ak_ca_key: str = ""
    ak_ca_certificate: str = ""

    def __post_init__(self) -> None:
        """Refuses what contradicts itself.

        Raises:
            ValueError: One of the two TLS files alone; operators without TLS; a role twice.
        """
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key go together")
        if self.operator_ca and not self.tls_certificate:
            raise ValueError(
                "operator_ca: operators show their certificates in TLS, so name tls_certificate too"
            )
        if len(set(self.roles)) != len(self.roles):
            raise ValueError("roles: one stands there twice (--role)")
        if (self.ak_ca_key or self.ak_ca_certificate) and not self.ak_trust_domain:
            raise ValueError("ak_trust_domain: name whose hosts the AK authority's certificates are of")
        if self.ak_ca_certificate and not self.ak_ca_key:
            raise ValueError("ak_ca_certificate: name ak_ca_key too")
        if self.requests_per_s and not self.burst:
            raise ValueError("burst: 0 lets nobody ask")

    def require_roles(self) -> None:
        """Refuses a controller that would do nothing, or that lacks what each of its roles goes by.

        Raises:
            UsageError: There is no role, no name, or no governance.
        """
        if not self.roles:
            raise UsageError(f"roles: none is switched on; name some of {', '.join(sorted(Role))} (--role)")
        if Role.VERIFIER in self.roles and not self.verifier_name:
            raise UsageError("verifier_name: name the verifier, as mesh.json is to name it (--verifier-name)")
        if set(self.roles) - {Role.WITNESS} and not self.governance:
            raise UsageError("governance: name the directory that was published (--governance)")

    def database_url(self, layout: ControllerLayout) -> str:
        """Where the store is."""
        return self.database or f"sqlite:///{layout.state / 'controller.db'}"

    def anchors(self, layout: ControllerLayout) -> Path:
        """Where the witness's anchors are."""
        return Path(self.witness_anchors) if self.witness_anchors else layout.state / "witness-anchors"


def load_controller_configuration(path: Path, environ: Mapping[str, str]) -> ControllerConfiguration:
    """Reads the configuration.

    Raises:
        UsageError: Not TOML, over 8 KiB, an unknown name, a value of the wrong type or out of range.
        StoreError: It cannot be read, or is not there: a controller without roles would do nothing.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIGURATION_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}: write it first, see docs/operations-controller.md"
        ) from error
    if len(data) > MAX_CONFIGURATION_BYTES:
        raise UsageError(f"{path}: over {MAX_CONFIGURATION_BYTES} bytes")
    try:
        values: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
        defaults = ControllerConfiguration()
        for field in ControllerConfiguration.__struct_fields__:
            text = environ.get(f"ATTESTD_CONTROLLER_{field.upper()}")
            if text is not None and not isinstance(default := getattr(defaults, field), tuple):
                values[field] = _from_text(text, type(default))
        return _converted(values)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error


def write_controller_configuration(path: Path, *, roles: Sequence[str], values: Mapping[str, str]) -> None:
    """Writes a first configuration.

    Args:
        path: Where.
        roles: The roles to switch on.
        values: Other members; all of them text. Paths become absolute, for nobody knows where it will be started.

    Raises:
        UsageError: There is one already, or it would not be usable.
        StoreError: It cannot be written.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} is there: edit it, then run this without options")
    values = {name: _absolute(name, value) for name, value in values.items()}
    try:
        configuration = _converted({"roles": list(roles), **values})
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(_by_option(error)) from error
    configuration.require_roles()
    lines = [f"roles = [{', '.join(_quoted(role) for role in roles)}]"]
    lines += [f"{name} = {_quoted(value)}" for name, value in values.items()]
    make_directory(path.parent, 0o755)
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o644)


def _by_option(error: Exception) -> str:
    """What is wrong with what somebody gave as an option: of a member that is to be written nobody has heard yet."""
    words, _, member = str(error).rpartition(" - at `$.")
    return f"--{member.rstrip('`').replace('_', '-')}: {words}" if words else str(error)


def _converted(values: Mapping[str, Any]) -> ControllerConfiguration:
    roles = values.get("roles")
    unknown = [role for role in roles if role not in tuple(Role)] if isinstance(roles, list) else []
    if unknown:
        raise ValueError(f"roles: expected some of {', '.join(sorted(Role))}, found {str(unknown[0])[:40]!r}")
    return msgspec.convert(values, ControllerConfiguration, strict=True)


def _absolute(name: str, value: str) -> str:
    is_path = name in _PATHS or (name.endswith("_key") and ":" not in value)
    return os.path.abspath(value) if is_path and value else value


def _quoted(text: str) -> str:
    """A basic string of TOML, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _from_text(text: str, kind: type) -> str | int | bool:
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{text[:40]!r}: expected true or false")
        return text == "true"
    return int(text) if kind is int else text
