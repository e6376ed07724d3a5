"""Verifiers of `tests.world`'s hosts, and what they say of one: real tokens, of whatever an attack needs."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.appraisal.claims import ResultClaims, draft_result
from attestd.appraisal.host_state import HostState
from attestd.appraisal.result import AttestationResult, format_result, verify_result
from attestd.appraisal.verifier import VerifiedEvidence
from attestd.audit import files
from attestd.audit.seal import Pending, Sealer
from attestd.audit.store import LogStore
from attestd.authorization.dsse import PublicKey
from attestd.lineage.checkpoint import LogKeys
from attestd.lineage.entry import EntryType
from attestd.strict import encode_base64url, format_time
from attestd.tlog.checkpoint import origin
from tests.audit.software_tpm import SoftwareTpm
from tests.world import BOOT, World, b64, mesh_file, p256, spki

LIFETIME = timedelta(minutes=5)

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def sign_result(claims: ResultClaims, *, key: SigningKey) -> str:
    """Signs claims with a key that is here."""
    public = PublicKey(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return format_result(claims, public=public, sign=key.sign)
    return format_result(claims, public=public, sign=lambda message: key.sign(message, ec.ECDSA(SHA256())))


def verifiers(*names: str, quorum: int = 0) -> bytes:
    """`mesh.json` with these verifiers; the key of each is that of its name."""
    nodes = {
        name: {"url": "http://127.0.0.1:9", "key": b64(spki(p256(f"verifier {name}")))} for name in names
    }
    return mesh_file(verifiers={"quorum": quorum, "nodes": nodes})


def claims(world: World, name: str, *, findings: Iterable[str] = (), **changes: Any) -> ResultClaims:
    """What a verifier says of the world's host; `changes` are those of its appraisal."""
    found = tuple(findings)
    appraisal = replace(world.appraisal(), findings=found, **changes)
    evidence = VerifiedEvidence(
        host=world.trust().hosts[world.host.id],
        appraisal=appraisal,
        findings=found,
        count=len(found),
        challenge=encode_base64url(bytes(56)),
        state=HostState.of(appraisal.clock, eventlog=None, ima={}),
        logs=None,
    )
    return draft_result(
        evidence, verifier=name, build="tests", governance=1, now=world.now, lifetime=LIFETIME
    )


def token(world: World, name: str, *, key: str | None = None, **given: Any) -> str:
    """The same, signed; by `key` if it lies about whose it is."""
    return sign_result(claims(world, name, **given), key=p256(f"verifier {key or name}"))


def result(world: World, name: str, **given: Any) -> AttestationResult:
    """The same, verified."""
    trust = world.trust()
    host = trust.hosts[world.host.id]
    return verify_result(token(world, name, **given), mesh=trust.mesh, host=host, nonce=None, now=world.now)


def sealed(path: Path, world: World, *bodies: dict[str, Any], late: timedelta = timedelta(0)) -> Path:
    """A log of the world's host with these attestations, sealed so much later."""
    host = world.host
    name = origin(host.id, "log-1")
    files.create(str(path), origin=name, host_id=host.id, log_id="log-1", created=format_time(world.now))
    tpm = SoftwareTpm(release_key=host.release_key, attestation_key=host.ak)
    with closing(LogStore.open(str(path))) as store:
        keys = LogKeys(name, spki(host.release_key), spki(host.ak))
        sealer = Sealer(store, tpm, keys, counter=tpm.counter)
        pending = [Pending(EntryType.ATTESTATION, body) for body in bodies]
        sealer.seal([Pending(EntryType.AGENT_START, {}), *pending], now=world.now + late, boot=BOOT)
    return path
