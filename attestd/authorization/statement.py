"""The authorization statement: an in-toto Statement v1 with our predicate, as formats.md specifies it.

Every member is required. What a statement says about itself (unique names, real paths, an order of times) is checked
here, once, while parsing: a `Statement` in hand is consistent. What it says about the world is the gate's to check.
"""

import hashlib
from typing import Annotated, Final, Literal

from msgspec import Meta

from attestd.authorization.envnames import refusal
from attestd.authorization.pattern import ArgPattern
from attestd.strict import HostId, Sha256Hex, Strict, Utc, parse_canonical, parse_time

__all__ = [
    "MAX_STATEMENT_BYTES",
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "Attribution",
    "Bindings",
    "Digest",
    "Enforcement",
    "Env",
    "Environment",
    "Governance",
    "Lineage",
    "Predicate",
    "Quorum",
    "Requester",
    "Resource",
    "Scope",
    "Statement",
    "Tool",
    "Validity",
    "artifact_id",
    "parse_statement",
]

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:attestd:authorization:v1"
MAX_STATEMENT_BYTES: Final = 262_144
MAX_PATH_BYTES: Final = 4095  # PATH_MAX less the NUL
# Of the 16 descriptors of a request, socket, stdin, stdout, stderr, cwd, executable, env and interpreter take eight.
MAX_FILES: Final = 8

Name = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]
PolicyName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63})?\Z")]
Text = Annotated[str, Meta(max_length=1024)]
Uid = Annotated[int, Meta(ge=0, le=2**32 - 2)]  # 2^32 - 1 means "no user" to the kernel
Count = Annotated[int, Meta(ge=0, le=64)]


class Digest(Strict, frozen=True):
    """SHA-256 of a file's bytes."""

    sha256: Sha256Hex


class Resource(Strict, frozen=True):
    """A file (an in-toto ResourceDescriptor): its real path and its digest."""

    name: str
    digest: Digest

    def __post_init__(self) -> None:
        _require_real_path(self.name)


class Env(Strict, frozen=True, rename={"pass_": "pass"}):
    """The child's environment: nothing else reaches it.

    Attributes:
        pass_: JSON `pass`: variables taken from the requester, if there.
        set: Variables with their values, always there.
    """

    pass_: Annotated[tuple[str, ...], Meta(max_length=64)]
    set: Annotated[dict[str, str], Meta(max_length=64)]

    def __post_init__(self) -> None:
        _require_unique("env.pass", self.pass_)
        if both := [name for name in self.pass_ if name in self.set]:
            raise ValueError(f"env: {both[0][:80]!r} is in pass and in set")
        reasons = [refusal(name, fixed=False) for name in self.pass_]
        reasons += [refusal(name, fixed=True) for name in self.set]
        if found := [reason for reason in reasons if reason]:
            raise ValueError(f"env: {found[0]}")
        _require_no_nul("env.set", *self.set.values())
        if not all(directory.startswith("/") for directory in self.set.get("PATH", "/").split(":")):
            raise ValueError("env.set: PATH must hold absolute directories only")


class Scope(Strict, frozen=True):
    """What may be run.

    Attributes:
        argv: One pattern an argument, argv[0] included.
        cwd: The working directory's real path.
        uid: Who the command runs as.
        env: Its environment.
        inputs: Files whose content is pinned too.
    """

    argv: Annotated[tuple[ArgPattern, ...], Meta(min_length=1)]
    cwd: str
    uid: Uid
    env: Env
    inputs: Annotated[tuple[Resource, ...], Meta(max_length=MAX_FILES)]

    def __post_init__(self) -> None:
        _require_no_nul("argv", *(pattern for pattern in self.argv if isinstance(pattern, str)))
        _require_real_path(self.cwd)
        _require_unique("inputs", [resource.name for resource in self.inputs])


class Requester(Strict, frozen=True):
    """Who may ask."""

    uid: Uid


class Bindings(Strict, frozen=True):
    """Where it may be used and by whom. Within a list: any of them; labels: all of them; both kinds: both.

    Attributes:
        hosts: Host ids.
        host_labels: Labels that the host's record must carry.
        requesters: Users who may ask.
    """

    hosts: Annotated[tuple[HostId, ...], Meta(max_length=1024)]
    host_labels: Annotated[dict[Name, Text], Meta(max_length=64)]
    requesters: Annotated[tuple[Requester, ...], Meta(min_length=1, max_length=1024)]

    def __post_init__(self) -> None:
        # Nothing empty means pass: an artifact for every host does not exist.
        if not self.hosts and not self.host_labels:
            raise ValueError("bindings: expected hosts, host_labels, or both")
        _require_unique("hosts", self.hosts)
        _require_unique("requesters", [str(requester.uid) for requester in self.requesters])


class Quorum(Strict, frozen=True):
    """How many of them must agree; 0 says openly that none is asked."""

    quorum: Count


class Environment(Strict, frozen=True):
    """The state that the platform must be in."""

    platform: Name
    max_evidence_age_s: Annotated[int, Meta(ge=1, le=86_400)]
    verifiers: Quorum
    witnesses: Quorum


class Governance(Strict, frozen=True):
    """The policy that the artifact was issued under.

    Attributes:
        policy: Its name: `exec`, or `team/name` for a team's.
        policy_digest: Pins its text, or None.
        min_version: The lowest governance version under which the artifact may be used.
        metadata: For people and policies; opaque here.
    """

    policy: PolicyName
    policy_digest: Sha256Hex | None
    min_version: Annotated[int, Meta(ge=0)]
    metadata: Annotated[dict[Name, Text], Meta(max_length=64)]


class Attribution(Strict, frozen=True):
    """Who is responsible. Claims of the signers, which give no right to anything."""

    requested_by: Text
    approved_by: Annotated[tuple[Text, ...], Meta(max_length=16)]
    on_behalf_of: Text | None
    reason: Text


class Validity(Strict, frozen=True):
    """When, and how often.

    Attributes:
        not_before: The first moment.
        not_after: The first moment that is too late.
        max_uses: How many executions, or None for any number.
    """

    not_before: Utc
    not_after: Utc
    max_uses: Annotated[int, Meta(ge=1, le=2**31)] | None

    def __post_init__(self) -> None:
        if parse_time(self.not_before) >= parse_time(self.not_after):
            raise ValueError(
                f"validity: not_before {self.not_before} is not before not_after {self.not_after}"
            )


class Lineage(Strict, frozen=True):
    """Delegation.

    Attributes:
        parent: The id of the artifact that this one was issued under, or None.
        delegate_to: Key ids that may issue artifacts under this one.
        max_depth: How many links may follow below this one.
    """

    parent: Sha256Hex | None
    delegate_to: Annotated[tuple[Sha256Hex, ...], Meta(max_length=16)]
    max_depth: Annotated[int, Meta(ge=0, le=8)]

    def __post_init__(self) -> None:
        _require_unique("delegate_to", self.delegate_to)
        if bool(self.delegate_to) != bool(self.max_depth):
            raise ValueError("lineage: delegate_to and max_depth must both allow delegation, or both not")


class Enforcement(Strict, frozen=True):
    """What happens while it runs."""

    on_trust_loss: Literal["kill", "report"]
    recheck_interval_s: Annotated[int, Meta(ge=1, le=3600)]
    mesh_grace_s: Annotated[int, Meta(ge=0, le=86_400)]


class Tool(Strict, frozen=True):
    """A tool call, for gates on AI agents: the tool and a pattern for each of its arguments."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    arguments: Annotated[dict[str, ArgPattern], Meta(max_length=256)]


class Predicate(Strict, frozen=True):
    """What is authorized."""

    scope: Scope
    bindings: Bindings
    environment: Environment
    governance: Governance
    attribution: Attribution
    validity: Validity
    lineage: Lineage
    enforcement: Enforcement
    secrets: Annotated[tuple[Name, ...], Meta(max_length=16)]
    tool: Tool | None

    def __post_init__(self) -> None:
        # Each host counts for itself: bound to two hosts, one use would be two.
        if self.validity.max_uses is not None and len(self.bindings.hosts) != 1:
            raise ValueError("validity: max_uses needs exactly one host in bindings.hosts")
        _require_unique("secrets", self.secrets)


class Statement(Strict, frozen=True, rename={"type_": "_type", "predicate_type": "predicateType"}):
    """The whole statement (in-toto Attestation Framework, Statement v1).

    Attributes:
        type_: JSON `_type`.
        subject: The executable and, for a script, what interprets it.
        predicate_type: JSON `predicateType`.
        predicate: What is authorized.
    """

    type_: Literal["https://in-toto.io/Statement/v1"]
    subject: Annotated[tuple[Resource, ...], Meta(min_length=1, max_length=MAX_FILES)]
    predicate_type: Literal["urn:attestd:authorization:v1"]
    predicate: Predicate

    def __post_init__(self) -> None:
        _require_unique("subject", [resource.name for resource in self.subject])


def parse_statement(payload: bytes) -> Statement:
    """Parses the payload of an artifact.

    Args:
        payload: RFC 8785 JSON, as signed.

    Raises:
        MalformedError: Not canonical, a member missing, unknown or out of bounds, or a contradiction.
    """
    return parse_canonical(payload, Statement, max_bytes=MAX_STATEMENT_BYTES, what="authorization")


def artifact_id(payload: bytes) -> str:
    """SHA-256 of the payload, lower-case hex: the name of an artifact, whoever signed it."""
    return hashlib.sha256(payload).hexdigest()


def _require_real_path(path: str) -> None:
    _require_no_nul("path", path)
    parts = path[1:].split("/") if path != "/" else []
    if not path.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"expected an absolute path without '.', '..' or empty parts, found {path[:80]!r}")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"a path is longer than {MAX_PATH_BYTES} bytes")


def _require_unique(what: str, names: "tuple[str, ...] | list[str]") -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{what}: the same entry twice")


def _require_no_nul(what: str, *texts: str) -> None:
    if any("\0" in text for text in texts):
        raise ValueError(f"{what}: a NUL byte")
