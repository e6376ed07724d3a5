"""Writes tests/authorization/vectors; run `python -m tests.authorization.make_vectors`.

Everything is derived from fixed seeds and deterministic signatures: the same bytes come out every time.
"""

import json
from pathlib import Path

from attestd.authorization.artifact import parse_artifact
from attestd.authorization.dsse import pae
from attestd.authorization.issue import issue
from attestd.authorization.statement import parse_statement
from attestd.strict import canonical
from tests.authorization.builders import golden, signer

_DIRECTORY = Path(__file__).parent / "vectors"
_SIGNERS = (("alice", "ed25519"), ("bob", "p256"), ("carol", "p384"))


def vectors() -> dict[str, bytes]:
    """File name to content."""
    statement = parse_statement(canonical(golden()))
    file = issue(statement, signers=[signer(seed, kind) for seed, kind in _SIGNERS])
    artifact = parse_artifact(file)
    message = pae(artifact.envelope.payload_type, artifact.envelope.payload)
    keys = [signer(seed, kind)(b"")[0] for seed, kind in _SIGNERS]
    description = {
        "id": artifact.id,
        "keys": [{"key_id": key.key_id, "spki_der": key.spki_der.hex()} for key in keys],
        "payload": artifact.envelope.payload.decode(),
        "pae": message.hex(),
    }
    return {
        "deploy.auth.json": file,
        "deploy.json": (json.dumps(description, indent=2) + "\n").encode(),
    }


if __name__ == "__main__":
    for name, content in vectors().items():
        (_DIRECTORY / name).write_bytes(content)
