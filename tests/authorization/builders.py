"""Keys from fixed seeds and the golden statement, for the tests and for the vector generator."""

import copy
import hashlib
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from attestd.authorization.dsse import PublicKey
from attestd.authorization.issue import Sign

_CURVES = {"p256": (ec.SECP256R1(), hashes.SHA256()), "p384": (ec.SECP384R1(), hashes.SHA384())}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


HOST = sha256("a host")
OTHER_HOST = sha256("another host")


def private_key(seed: str, kind: str = "ed25519") -> ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    secret = hashlib.sha256(seed.encode()).digest()
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(secret)
    return ec.derive_private_key(int.from_bytes(secret), _CURVES[kind][0])


def spki(key: Any) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key(seed: str, kind: str = "ed25519") -> PublicKey:
    return PublicKey(spki(private_key(seed, kind).public_key()))


def signer(seed: str, kind: str = "ed25519") -> Sign:
    """Signs deterministically (RFC 8032, RFC 6979), so that vectors can be generated again."""
    key = private_key(seed, kind)

    def sign(message: bytes) -> tuple[PublicKey, bytes]:
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return public_key(seed, kind), key.sign(message)
        algorithm = ec.ECDSA(_CURVES[kind][1], deterministic_signing=True)
        return public_key(seed, kind), key.sign(message, algorithm)

    return sign


_GOLDEN: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [
        {"name": "/usr/bin/deploy", "digest": {"sha256": sha256("deploy")}},
        {"name": "/usr/bin/python3.11", "digest": {"sha256": sha256("python")}},
    ],
    "predicateType": "urn:attestd:authorization:v1",
    "predicate": {
        "scope": {
            "argv": [
                "/usr/bin/deploy",
                "--env",
                {"one_of": ["prod", "stage"]},
                {"prefix": "/srv/plans/", "charset": "name", "max": 40},
                {"int": [1, 10]},
            ],
            "cwd": "/srv",
            "uid": 1001,
            "env": {"pass": ["LANG"], "set": {"PATH": "/usr/bin:/bin", "TZ": "UTC"}},
            "inputs": [{"name": "/srv/plan.json", "digest": {"sha256": sha256("plan")}}],
        },
        "bindings": {"hosts": [HOST], "host_labels": {"role": "ci"}, "requesters": [{"uid": 1001}]},
        "environment": {
            "platform": "prod-server",
            "max_evidence_age_s": 60,
            "verifiers": {"quorum": 1},
            "witnesses": {"quorum": 0},
        },
        "governance": {
            "policy": "exec",
            "policy_digest": None,
            "min_version": 12,
            "metadata": {"change": "CHG-123"},
        },
        "attribution": {
            "requested_by": "alice@example.org",
            "approved_by": ["bob@example.org"],
            "on_behalf_of": "release team",
            "reason": "rollout of 1.2",
        },
        "validity": {
            "not_before": "2026-01-31T12:00:00Z",
            "not_after": "2026-01-31T13:00:00Z",
            "max_uses": 1,
        },
        "lineage": {"parent": None, "delegate_to": [sha256("delegate")], "max_depth": 2},
        "enforcement": {"on_trust_loss": "kill", "recheck_interval_s": 30, "mesh_grace_s": 0},
        "secrets": ["deploy-token"],
        "tool": {"name": "deploy", "arguments": {"env": {"one_of": ["prod", "stage"]}, "dry_run": "false"}},
    },
}


def golden() -> dict[str, Any]:
    """A fresh copy of the golden statement: every member has a value that is not its emptiest."""
    return copy.deepcopy(_GOLDEN)


def put(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Sets the member at `predicate`-relative or absolute dotted path; returns the document."""
    keys = [int(key) if key.isdigit() else key for key in path.split(".")]
    at: Any = document if keys[0] in document else document["predicate"]
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return document
