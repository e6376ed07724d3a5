"""A complete world without a TPM: authorities, trust files, one host's keys, its log, and real receipts.

Everything is signed with real keys over real TPM structures, marshalled here. Keys follow from names and signatures
are deterministic (RFC 6979), so that a world is the same in every run. What a test wants different it changes: the
trust files are plain JSON values (`authorities`, `revocations`, `platforms`, `records`, `teams`; `extra` takes any other
file as bytes) until `files()` writes them; `publish()` makes them the next version of a TUF repository
(`tests.repository`), whose roles and expiries a test can change as well.

    world = World()
    granted = world.grant()                       # artifact, execution and a receipt that releases it
    verify_release(receipt=granted.receipt, artifact=granted.artifact, execution=granted.execution,
                   here=world.here(), salt=SALT)  # or, in short, world.release(granted)
"""

import json
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.appraisal.quote import Appraisal, appraise_quote
from attestd.authorization.dsse import (
    PAYLOAD_TYPE,
    EnvelopeSignature,
    PublicKey,
    UntrustedEnvelope,
    format_envelope,
    pae,
)
from attestd.authorization.issue import DEFAULT_PATH, Sign, StatementDraft, draft_statement, issue, resource
from attestd.authorization.secret import NOTHING_SECRET
from attestd.errors import StoreError
from attestd.gate.concealment import Concealment
from attestd.gate.decide import decide
from attestd.gate.execution import Execution, File
from attestd.gate.model import Context, Decision, Request
from attestd.gate.release import Here, VerifiedRelease, verify_release
from attestd.governance.host import HOST_RECORD_TYPE
from attestd.governance.host_records import Read
from attestd.governance.mesh import mesh_history_name
from attestd.governance.metadata import Metadata, Versions, verify_metadata
from attestd.governance.policy_schema import DEFAULT_POLICY, DEFAULT_POLICY_NAME, EMPTY_ENTITIES, SCHEMA
from attestd.governance.targets import TargetFile, TargetList
from attestd.governance.trust import Trust, parse_trust
from attestd.lineage.entry import EntryType, format_entry
from attestd.strict import canonical, format_time, format_time_us
from attestd.tcg.attest import ClockInfo
from attestd.tcg.binding import Purpose, extra_data
from attestd.tcg.nv import counter_public, epoch_name, nv_name
from attestd.tcg.pcr import PcrSelection, composite
from attestd.tcg.policy import (
    REF_EPOCH_SET,
    REF_PLATFORM,
    REF_ROOT,
    approval_message,
    epoch_set_policy,
    platform_policy,
    release_policy,
    root_policy,
)
from attestd.tcg.public import (
    attestation_key_template,
    authority_name,
    host_id,
    parse_public,
    release_key_template,
)
from attestd.tcg.quote import VerifiedQuote, join_quote, verify_quote
from attestd.tlog.checkpoint import Batch, BatchMode, Checkpoint, origin
from attestd.tlog.cosignature import Cosigner, cosigner
from attestd.tlog.note import NoteSignature, format_note, parse_note
from attestd.tlog.proof import TlogProof, format_proof, parse_proof
from attestd.tlog.tree import Frontier, inclusion_proof, leaf_hash
from attestd.tlog.vkey import ecdsa_vkey, format_vkey, tpm_quote_vkey
from tests.repository import LIFETIME, Repository
from tests.tcg.parsing import ecdsa_from_der

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BOOT = "3f1c2d4e-5a6b-4c7d-8e9f-0a1b2c3d4e5f"
SELECTION = PcrSelection("sha256", (0, 2, 4, 7, 11, 12))
CLOCK = ClockInfo(clock=123_456, reset_count=7, restart_count=1, safe=True)
CONDITIONS = ("clock", "log", "tpm", "runner")
SALT = bytes(range(32))
NOTHING_CONCEALED = Concealment(NOTHING_SECRET, SALT)

EcKey = ec.EllipticCurvePrivateKey
AnyKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# TCG EK Credential Profile, template L-2 (ECC P-256): attributes, PolicySecret(endorsement), AES-128-CFB.
EK_HEAD = (
    bytes.fromhex("0023000b000300b2")
    + bytes.fromhex("0020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
    + bytes.fromhex("00060080004300100003" + "0010")
)


# --- keys and signatures -----------------------------------------------------------------------------------------


@lru_cache
def p256(name: str) -> EcKey:
    """The P-256 key of that name."""
    number = int.from_bytes(sha256(name.encode()).digest(), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP256R1())


@lru_cache
def ed25519_key(name: str) -> ed25519.Ed25519PrivateKey:
    """The Ed25519 key of that name."""
    return ed25519.Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def sign(key: AnyKey, message: bytes) -> bytes:
    """Ed25519, or deterministic ECDSA with SHA-256 in DER."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True))


def spki(key: AnyKey) -> bytes:
    """The DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: AnyKey) -> str:
    """The id under which governance knows the key."""
    return PublicKey(spki(key)).key_id


def signer(key: AnyKey) -> Sign:
    """The key as `attestd.authorization.issue` takes it."""
    return lambda message: (PublicKey(spki(key)), sign(key, message))


def dsse(payload: bytes, signers: Iterable[AnyKey], *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """An envelope around any payload: also around one that no issuer would sign."""
    message = pae(payload_type, payload)
    signatures = tuple(EnvelopeSignature(key_id(key), sign(key, message)) for key in signers)
    return format_envelope(UntrustedEnvelope(payload_type, payload, signatures))


def b64(data: bytes) -> str:
    """Standard base64."""
    return b64encode(data).decode()


def digest(data: bytes) -> str:
    """SHA-256, hex."""
    return sha256(data).hexdigest()


# --- TPM structures (TPM 2.0 Part 2) -------------------------------------------------------------------------------


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


def with_point(head: bytes, key: EcKey) -> bytes:
    """A TPMT_PUBLIC: everything before `unique`, and the key's point."""
    point = key.public_key().public_numbers()
    return head + sized(point.x.to_bytes(32, "big")) + sized(point.y.to_bytes(32, "big"))


def attest(
    kind: int, extra: bytes, body: bytes, *, clock: ClockInfo = CLOCK, magic: int = 0xFF544347
) -> bytes:
    """A TPMS_ATTEST."""
    qualified_signer = b"\x00\x0b" + sha256(b"qualified signer").digest()
    moment = struct.pack(">QIIBQ", clock.clock, clock.reset_count, clock.restart_count, clock.safe, 0x2023)
    return struct.pack(">IH", magic, kind) + sized(qualified_signer) + sized(extra) + moment + body


def attest_quote(
    extra: bytes, *, selection: PcrSelection, pcr_digest: bytes, clock: ClockInfo = CLOCK
) -> bytes:
    """What TPM2_Quote signs."""
    return attest(0x8018, extra, selection.marshal() + sized(pcr_digest), clock=clock)


def attest_certify(extra: bytes, *, name: bytes) -> bytes:
    """What TPM2_Certify signs."""
    return attest(0x8017, extra, sized(name) + sized(b"\x00\x0b" + sha256(name).digest()))


def tpm_signature(key: EcKey, message: bytes) -> bytes:
    """A TPMT_SIGNATURE: ECDSA with SHA-256."""
    return ecdsa_from_der(sign(key, message)).marshal()


class Host:
    """A host's TPM keys and their public areas."""

    def __init__(self, name: str, *, root: EcKey) -> None:
        self.ek, self.ak, self.release_key = (p256(f"{name} {key}") for key in ("ek", "ak", "release"))
        self.ek_public = with_point(EK_HEAD, self.ek)
        self.ak_public = with_point(attestation_key_template()[:-4], self.ak)
        policy = release_policy(authority_name(root.public_key()))
        self.release_public = with_point(release_key_template(policy)[:-4], self.release_key)
        self.id = host_id(self.ek_public)

    def reinstalled(self, name: str, *, root: EcKey) -> "Host":
        """The same TPM, its keys made anew."""
        again = Host(name, root=root)
        again.ek, again.ek_public, again.id = self.ek, self.ek_public, self.id
        return again

    def certify(self) -> tuple[bytes, bytes]:
        """The AK's certification of the release key."""
        name = parse_public(self.release_public).name
        body = attest_certify(extra_data(Purpose.ENROLL, host_id=self.id, data=name), name=name)
        return body, tpm_signature(self.ak, body)

    def quote(
        self,
        purpose: Purpose,
        data: bytes,
        *,
        selection: PcrSelection,
        pcr_digest: bytes,
        clock: ClockInfo = CLOCK,
    ) -> tuple[bytes, bytes]:
        """The AK's quote."""
        extra = extra_data(purpose, host_id=self.id, data=data)
        body = attest_quote(extra, selection=selection, pcr_digest=pcr_digest, clock=clock)
        return body, tpm_signature(self.ak, body)


# --- the log -------------------------------------------------------------------------------------------------------


class Log:
    """A software log that seals entries into real checkpoints, as the agent's sealer does, or as a forger would."""

    def __init__(self, host: Host, *, log_id: str = "log-1") -> None:
        self.host, self.log_id = host, log_id
        self.origin = origin(host.id, log_id)
        self.entries: list[bytes] = []
        self.frontier = Frontier()
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.sealed = self.counter = 0

    def append(self, body: Mapping[str, Any], *, type_: EntryType, time: datetime, boot: str) -> int:
        """Appends an entry; returns its seq."""
        seq = len(self.entries)
        return self.append_raw(
            format_entry(type_=type_, time=format_time_us(time), seq=seq, boot=boot, body=dict(body))
        )

    def append_raw(self, entry: bytes) -> int:
        """Appends any bytes as a leaf."""
        self.entries.append(entry)
        self.frontier, nodes = self.frontier.append([leaf_hash(entry)])
        self.nodes.update({(node.level, node.index): node.hash for node in nodes})
        return len(self.entries) - 1

    def seal(self, *, mode: BatchMode, pcr_digest: bytes, first: int | None = None, **quote: Any) -> bytes:
        """Seals what is not sealed yet; returns the signed note.

        `first` lets a forger name another batch; `quote` goes to `checkpoint_note`.
        """
        size = len(self.entries)
        self.counter += 1
        batch = Batch(self.sealed if first is None else first, mode, self.counter)
        self.sealed = size
        text = Checkpoint(origin=self.origin, size=size, root=self.frontier.root(), batch=batch).text()
        return self.note(text, pcr_digest=pcr_digest, released=mode is BatchMode.RELEASE, **quote)

    def note(
        self,
        text: bytes,
        *,
        pcr_digest: bytes,
        released: bool,
        selection: PcrSelection = SELECTION,
        clock: ClockInfo = CLOCK,
        purpose: Purpose = Purpose.CHECKPOINT,
        quoted_text: bytes | None = None,
    ) -> bytes:
        """A note with a 0xff line, and a 0x02 line if released."""
        host = self.host
        quoted = join_quote(
            *host.quote(purpose, quoted_text or text, selection=selection, pcr_digest=pcr_digest, clock=clock)
        )
        quote_key = tpm_quote_vkey(self.origin, spki(host.ak))
        release_key = ecdsa_vkey(self.origin, spki(host.release_key))
        lines = [NoteSignature(self.origin, quote_key.key_id, quoted)]
        if released:
            signature = sign(host.release_key, text)
            lines.insert(0, NoteSignature(self.origin, release_key.key_id, signature))
        return format_note(text, lines)

    def receipt(self, seq: int, checkpoint: bytes) -> bytes:
        """The `.tlog-proof` of an entry under a checkpoint over the whole present log."""
        size = len(self.entries)
        proof = inclusion_proof(seq, size, lambda level, index: self.nodes[level, index])
        return format_proof(
            TlogProof(extra=self.entries[seq], index=seq, proof=tuple(proof), checkpoint=checkpoint)
        )


# --- witnesses ---------------------------------------------------------------------------------------------------


@lru_cache
def witness(name: str) -> Cosigner:
    """The witness of that name, with an Ed25519 key."""
    return cosigner(name, ed25519_key(f"witness {name}"))


def mesh_file(witnesses: Iterable[Cosigner] = (), *, quorum: int = 0, **members: Any) -> bytes:
    """`mesh.json` with these witnesses; `members` replace; its handover is in a while."""
    nodes = {
        f"n{number}": {"url": "http://127.0.0.1:9/witness", "vkey": format_vkey(found.key)}
        for number, found in enumerate(witnesses)
    }
    nobody = {"v": 1, "version": 1, "enrollers": {}, "verifiers": {"quorum": 0, "nodes": {}}}
    return canonical(
        {
            **nobody,
            "handover": "2099-01-01T00:00:00Z",
            "witnesses": {"quorum": quorum, "nodes": nodes},
            **members,
        }
    )


def week_ahead() -> str:
    """A handover that is published: a repository refuses one that lies too far ahead."""
    return format_time(datetime.now(UTC) + timedelta(days=7))


def with_lines(receipt: bytes, *lines: NoteSignature) -> bytes:
    """The receipt with further lines under its checkpoint."""
    proof = parse_proof(receipt)
    note = parse_note(proof.checkpoint)
    return format_proof(replace(proof, checkpoint=format_note(note.text, (*note.signatures, *lines))))


def with_cosignatures(receipt: bytes, *witnesses: Cosigner, time: datetime = NOW) -> bytes:
    """The receipt with its checkpoint cosigned."""
    text = parse_note(parse_proof(receipt).checkpoint).text
    return with_lines(receipt, *(found.cosign(text, time=int(time.timestamp())) for found in witnesses))


def described(files: Mapping[str, bytes], **changes: Any) -> Metadata:
    """What verified metadata says of these files, when nobody is there to sign any; `changes` replace attributes."""
    targets = {
        name: TargetFile(length=len(data), sha256=digest(data), role="targets")
        for name, data in files.items()
    }
    found = Metadata(
        versions=Versions(root=1, timestamp=1, snapshot=1, targets={"targets": 1}),
        targets=TargetList.of(targets),
        expires=NOW + LIFETIME,
        expires_role="root",
        issued=NOW,
    )
    return replace(found, **changes)


def read_of(files: Mapping[str, bytes]) -> Read:
    """Reads from these files, as from a mirror that has no others."""

    def read(name: str) -> bytes:
        if name not in files:
            raise StoreError(f"{name}: it is not there")
        return files[name]

    return read


def looked_at(trust: Trust) -> Trust:
    """With its host records verified, so that `unusable` tells of them."""
    trust.look_at_hosts()
    return trust


def parse_files(files: Mapping[str, bytes]) -> Trust:
    """Any target files, as if they were published."""
    return looked_at(parse_trust(read_of(files), metadata=described(files)))


@lru_cache(maxsize=32)
def _first_published(name: str, now: datetime, files: tuple[tuple[str, bytes], ...]) -> Repository:
    """Signed once for all worlds that are the same, as most of a thousand tests' are."""
    repository = Repository(name, now=now)
    repository.publish(dict(files))
    return repository


@lru_cache(maxsize=32)
def _verified(
    root: bytes, published: tuple[tuple[str, bytes], ...], files: tuple[tuple[str, bytes], ...]
) -> Trust:
    metadata = dict(published)
    found = verify_metadata(lambda name, _: metadata.get(name), root=root, floor=None)
    return looked_at(parse_trust(read_of(dict(files)), metadata=found))


# --- the world -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Granted:
    """An artifact, what it lets run, and the receipt that releases it once."""

    artifact: bytes
    execution: Execution
    receipt: bytes
    body: Mapping[str, Any]


class World:
    """Authorities, governance, a host, its log.

    Args:
        name: Worlds of another name share no key.
        now: Trusted time and wall clock.
        boot: The kernel's boot id.
        uid: The requester, who is also who the command runs as.
        isolation: What the runner can do: `user` or `none`.
        authors: How many keys may authorize; `threshold` of them must.
    """

    def __init__(
        self,
        name: str = "world",
        *,
        now: datetime = NOW,
        boot: str = BOOT,
        uid: int = 1001,
        isolation: str = "user",
        authors: int = 1,
        threshold: int = 1,
    ) -> None:
        self.name, self.now, self.boot, self.uid, self.isolation = name, now, boot, uid, isolation
        self.root, self.platform_key, self.epoch_key = (
            p256(f"{name} {key}") for key in ("root", "platform", "epoch")
        )
        self.authors = [ed25519_key(f"{name} local {number}") for number in range(authors)]
        self.enrollers = [ed25519_key(f"{name} enroller")]
        self.host = Host(f"{name} host", root=self.root)
        self.values = {pcr: sha256(f"{name} PCR {pcr}".encode()).digest() for pcr in SELECTION.pcrs}
        self.epoch_name = epoch_name(authority_name(self.epoch_key.public_key()))
        self.authorities: dict[str, Any] = self._authorities(threshold)
        self.revocations: dict[str, Any] = {
            "v": 1,
            "version": 1,
            "artifacts": [],
            "keys": [],
            "hosts": [],
            "subjects": [],
            "requesters": [],
            "epoch": 0,
            "bump": None,
        }
        self.teams: dict[str, dict[str, Any]] = {}
        self.extra: dict[str, bytes] = {}
        self.platforms: dict[str, dict[str, Any]] = {"local": self.platform_file()}
        self.history: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, bytes] = {
            "policy/exec.cedar": DEFAULT_POLICY,
            "policy/schema.cedarschema": SCHEMA,
            "policy/entities.json": EMPTY_ENTITIES,
        }
        self.records: dict[str, dict[str, Any]] = {self.host.id: self.host_record(self.host)}
        self._published: dict[str, bytes] = {}
        self.log = Log(self.host)
        self.log.append({}, type_=EntryType.LOG_START, time=now - timedelta(seconds=2), boot=boot)
        self.log.seal(mode=BatchMode.RECORD, pcr_digest=self.pcr_digest)

    @property
    def pcr_digest(self) -> bytes:
        """The composite of the host's PCRs as they are."""
        return composite(SELECTION, self.values)

    # trust files

    def _authorities(self, threshold: int) -> dict[str, Any]:
        keys: list[AnyKey] = [
            *self.authors,
            *self.enrollers,
            self.root,
            self.platform_key,
            self.epoch_key,
        ]
        return {
            "v": 1,
            "version": 1,
            "keys": {key_id(key): {"spki": b64(spki(key))} for key in keys},
            "authorizations": [
                {
                    "name": "local",
                    "paths": ["/"],
                    "uids": None,
                    "keys": [key_id(key) for key in self.authors],
                    "threshold": threshold,
                    "max_depth": 0,
                }
            ],
            "teams": {},
            "enrollers": {"keys": [key_id(key) for key in self.enrollers], "threshold": 1},
            "tpm": {
                "root": key_id(self.root),
                "platform": [key_id(self.platform_key)],
                "epoch": key_id(self.epoch_key),
            },
        }

    def platform_file(
        self,
        name: str = "local",
        *,
        version: int = 1,
        values: Mapping[int, bytes] | None = None,
        selection: PcrSelection = SELECTION,
        epoch: int = 1,
        max_epoch: int = 1,
        platform_key: EcKey | None = None,
        root: EcKey | None = None,
        **members: Any,
    ) -> dict[str, Any]:
        """A platform policy that approves one state; `members` replace top-level members of the file."""
        key = platform_key or self.platform_key
        state = composite(
            selection, values if values is not None else {p: self.values[p] for p in selection.pcrs}
        )
        policy = platform_policy(
            epoch_name=self.epoch_name, epoch=epoch, selection=selection, pcr_digest=state
        )
        root_digest = root_policy(
            platform_name=authority_name(key.public_key()), epoch_name=self.epoch_name, max_epoch=max_epoch
        )
        file: dict[str, Any] = {
            "v": 1,
            "name": name,
            "version": version,
            "reference": {
                "boot": None,
                "ima": None,
                "min_tier": "software",
                "pcrs": {},
                "quorums": {"verifiers": 0, "witnesses": 0},
                "userspace": ["none", "encrypted-tpm", "ima-appraise", "verity"],
            },
            "approvals": [
                {
                    "bank": selection.bank,
                    "pcrs": list(selection.pcrs),
                    "pcr_digest": state.hex(),
                    "epoch": epoch,
                    "lease_key": None,
                    "policy_digest": policy.hex(),
                    "key_id": key_id(key),
                    "sig": b64(sign(key, approval_message(policy, REF_PLATFORM))),
                }
            ],
            "platform_keys": [
                {
                    "key_id": key_id(key),
                    "max_epoch": max_epoch,
                    "policy_digest": root_digest.hex(),
                    "sig": b64(sign(root or self.root, approval_message(root_digest, REF_ROOT))),
                }
            ],
            "lifecycle": {"valid_until": None, "windows": []},
            "writable": "copy",
        }
        return {**file, **members}

    def host_record(self, host: Host, **members: Any) -> dict[str, Any]:
        """The payload of a host record; `members` replace top-level members."""
        certification, signature = host.certify()
        record: dict[str, Any] = {
            "v": 1,
            "host": host.id,
            "ek": {"public": b64(host.ek_public), "chain_digest": None},
            "ak": {"public": b64(host.ak_public)},
            "release_key": {
                "public": b64(host.release_public),
                "certify": {"attest": b64(certification), "signature": b64(signature)},
            },
            "nv": {
                "epoch": self.epoch_name.hex(),
                "log_counter": nv_name(counter_public(written=True)).hex(),
            },
            "tier": "software",
            "userspace": "none",
            "labels": {"role": "ci"},
            "not_before": format_time(self.now - timedelta(days=1)),
            "not_after": format_time(self.now + timedelta(days=365)),
        }
        return {**record, **members}

    def add_team(
        self, name: str, *, paths: list[str], uids: list[int] | None = None, max_depth: int = 0
    ) -> AnyKey:
        """A team with that scope, and one rule over all of it; returns the key that may authorize by it."""
        key = ed25519_key(f"{self.name} team {name}")
        scope = {"paths": paths, "uids": uids, "max_depth": max_depth}
        self.authorities["teams"][name] = scope
        self.teams[name] = {
            "v": 1,
            "version": 1,
            "keys": {key_id(key): {"spki": b64(spki(key))}},
            "authorizations": [{**scope, "name": "all", "keys": [key_id(key)], "threshold": 1}],
        }
        return key

    def bump(self, epoch: int, *, key: EcKey | None = None) -> dict[str, Any]:
        """What moves every TPM to an epoch, as a member of the revocations."""
        message = approval_message(epoch_set_policy(epoch_name=self.epoch_name, epoch=epoch), REF_EPOCH_SET)
        return {"epoch": epoch, "sig": b64(sign(key or self.epoch_key, message))}

    def files(self) -> dict[str, bytes]:
        """The trust files; the host records are signed by the enrollers."""
        files = {
            "authorities.json": canonical(self.authorities),
            "revocations.json": canonical(self.revocations),
            **self.policies,
        }
        files |= {f"platform/{name}.json": canonical(file) for name, file in self.platforms.items()}
        files |= {f"platform/history/{name}.json": canonical(file) for name, file in self.history.items()}
        for host, record in self.records.items():
            files[f"hosts/{host}.json"] = dsse(
                canonical(record), self.enrollers, payload_type=HOST_RECORD_TYPE
            )
        files |= {f"teams/{name}/authorities.json": canonical(file) for name, file in self.teams.items()}
        return files | self.extra

    @cached_property
    def repository(self) -> Repository:
        """The repository in which the trust files are published."""
        return Repository(self.name, now=self.now)

    def publish(self) -> Repository:
        """Publishes the trust files as they are now; nothing, if nothing changed."""
        files = self.files()
        if "repository" not in vars(self):
            self.repository = deepcopy(_first_published(self.name, self.now, tuple(files.items())))
        elif files != self._published:
            self.repository.publish(files)
        self._published = files
        return self.repository

    def trust(self) -> Trust:
        """The trust files as they are now: published, and verified from the first root on."""
        repository = self.publish()
        return _verified(
            repository.root, tuple(repository.metadata.items()), tuple(sorted(self._published.items()))
        )

    def write_trust(self, directory: Path) -> Path:
        """Publishes into a trust directory, `root.json` and mirror, as `attestd init` does."""
        return self.publish().write(directory)

    # artifacts and executions

    def execution(self, **changes: Any) -> Execution:
        """`deploy --env prod` in /srv; `changes` replace attributes."""
        execution = Execution(
            executable=File("/usr/bin/deploy", digest(b"deploy")),
            interpreters=(),
            argv=("deploy", "--env", "prod"),
            cwd="/srv",
            uid=self.uid,
            env={"PATH": DEFAULT_PATH},
            inputs=(),
            requester_uid=self.uid,
        )
        return replace(execution, **changes)

    def artifact(
        self,
        execution: Execution | None = None,
        *,
        signers: Sequence[AnyKey] | None = None,
        edit: Callable[[dict[str, Any]], None] | None = None,
        **changes: Any,
    ) -> bytes:
        """An artifact for exactly that execution, valid for an hour from now.

        Args:
            execution: What it allows; by default `self.execution()`.
            signers: By default all authors.
            edit: Changes the statement's JSON before it is signed: also to what no issuer would write.
            changes: Members of `StatementDraft`.
        """
        run = execution or self.execution()
        environment = dict(run.env)
        defaults: dict[str, Any] = {
            "subjects": [resource(item.path, item.sha256) for item in (run.executable, *run.interpreters)],
            "argv": list(run.argv),
            "cwd": run.cwd,
            "uid": run.uid,
            "requester_uid": run.requester_uid,
            "host_id": self.host.id,
            "platform": "local",
            "policy": DEFAULT_POLICY_NAME,
            "policy_version": 1,
            "now": self.now,
            "ttl_s": 3600,
            "requested_by": "somebody",
            "reason": "CHG-123",
            "env_set": environment,
            "inputs": [resource(item.path, item.sha256) for item in run.inputs],
        }
        statement = draft_statement(StatementDraft(**{**defaults, **changes}))
        keys = self.authors if signers is None else signers
        if edit is None:
            return issue(statement, signers=[signer(key) for key in keys])
        value = json.loads(canonical(statement))
        edit(value)
        return dsse(canonical(value), keys)

    # decisions

    def quote(self, challenge: bytes = b"challenge", **changes: Any) -> VerifiedQuote:
        """The host's evidence, verified."""
        body, signature = self.host.quote(
            Purpose.EVIDENCE, challenge, selection=SELECTION, pcr_digest=self.pcr_digest, **changes
        )
        return verify_quote(
            ak_public_key=self.host.ak.public_key(),
            attest=body,
            signature=signature,
            extra_data=extra_data(Purpose.EVIDENCE, host_id=self.host.id, data=challenge),
            selection=SELECTION,
            values=self.values,
        )

    def appraisal(self, *, platform: str = "local", at: datetime | None = None) -> Appraisal:
        """The host's state, quoted and appraised."""
        trust = self.trust()
        return appraise_quote(
            self.quote(),
            policy=trust.platforms[platform],
            reference={},
            values=self.values,
            epoch=trust.revocations.epoch,
            at=at or self.now,
        )

    def request(self, artifact: bytes | None = None, **changes: Any) -> Request:
        """A request to run `execution()` by that artifact, by default by `artifact()`."""
        request = Request(
            id="00112233445566778899aabbccddeeff",
            salt=SALT,
            artifact=self.artifact() if artifact is None else artifact,
            execution=self.execution(),
            observation=None,
            parent=None,
        )
        return replace(request, **changes)

    def context(self, **changes: Any) -> Context:
        """A healthy standalone host."""
        context = Context(
            trust=self.trust(),
            host=self.host.id,
            isolation=self.isolation,
            runner_uid=0 if self.isolation == "user" else self.uid,
            now=self.now,
            grace=timedelta(0),
            appraisals={"local": self.appraisal()} if "appraisals" not in changes else {},
            results=(),
            conditions=dict.fromkeys(CONDITIONS),
            uses=lambda _: 0,
        )
        return replace(context, **changes)

    def decide(self, artifact: bytes | None = None, **changes: Any) -> Decision:
        """The decision about a request; `changes` are those of `request`."""
        return decide(self.request(artifact, **changes), self.context())

    # receipts

    def receipt(
        self,
        body: Mapping[str, Any],
        *,
        type_: EntryType = EntryType.DECISION_ALLOW,
        mode: BatchMode = BatchMode.RELEASE,
        time: datetime | None = None,
        boot: str | None = None,
        **seal: Any,
    ) -> bytes:
        """Seals an entry in a batch of its own; returns its receipt. `seal` goes to `Log.seal`."""
        seq = self.log.append(body, type_=type_, time=time or self.now, boot=boot or self.boot)
        checkpoint = self.log.seal(mode=mode, **{"pcr_digest": self.pcr_digest, **seal})
        return self.log.receipt(seq, checkpoint)

    def here(self, **changes: Any) -> Here:
        """What the host's runner knows of itself."""
        known: dict[str, Any] = {
            "trust": changes.get("trust") or self.trust(),
            "host_id": self.host.id,
            "boot": self.boot,
            "now": self.now,
            "grace": timedelta(0),
            "isolation": self.isolation,
        }
        return Here(**{**known, **changes})

    def release(self, granted: Granted, **changes: Any) -> VerifiedRelease:
        """What the runner does, with `changes` to what it is given, sees, or knows of itself."""
        here = {item.name: changes.pop(item.name) for item in fields(Here) if item.name in changes}
        given: dict[str, Any] = {
            "receipt": granted.receipt,
            "artifact": granted.artifact,
            "execution": granted.execution,
            "salt": SALT,
        }
        return verify_release(**{**given, **changes}, here=self.here(**here))

    def replace_mesh(self, following: bytes, *, handover: datetime = NOW + timedelta(days=7)) -> None:
        """`following` is the next version of `mesh.json`; the present one goes to the history."""
        version = json.loads(self.extra["mesh.json"])["version"]
        self.extra[mesh_history_name(version)] = self.extra["mesh.json"]
        members = {"version": version + 1, "handover": format_time(handover)}
        self.extra["mesh.json"] = canonical({**json.loads(following), **members})

    def grant(self, execution: Execution | None = None, **changes: Any) -> Granted:
        """Issues an artifact for an execution, decides, seals; `changes` are those of `artifact`."""
        run = execution or self.execution()
        artifact = self.artifact(run, **changes)
        decision = self.decide(artifact, execution=run)
        if decision.denial is not None:
            raise AssertionError(decision.denial)
        return Granted(artifact, run, self.receipt(decision.body), decision.body)
