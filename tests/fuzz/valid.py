"""Valid examples: a world, what it granted, and what its files hold."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from attestd.strict import canonical
from attestd.tcg.binding import Purpose
from attestd.tcg.quote import split_quote
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.note import parse_note
from attestd.tlog.proof import parse_proof
from attestd.tlog.vkey import cosignature_vkey, ecdsa_vkey, format_vkey, tpm_quote_vkey
from tests.chains import delegable, delegate_key, under
from tests.tlog.keys import ed25519_vkey
from tests.world import SELECTION, World, b64, spki

TESTS = Path(__file__).parent.parent
WORLD = World()
GRANTED = WORLD.grant()
RECORDED = WORLD.log.receipt(0, WORLD.log.seal(mode=BatchMode.RECORD, pcr_digest=WORLD.pcr_digest, first=1))
TEAM, MEMBER = delegate_key("team"), delegate_key("member")
PARENT = delegable(
    WORLD, TEAM, MEMBER, argv=["deploy", "--env", {"one_of": ["prod", "stage"]}], max_uses=None
)
CHILD = under(PARENT, TEAM)
CHAIN = under(CHILD, MEMBER)
CONTEXT = WORLD.context()
TRUST = WORLD.trust()
FILES = WORLD.files()
STATEMENT = b64decode(json.loads(GRANTED.artifact)["payload"])
DELEGATED = b64decode(json.loads(CHILD)["chain"][1]["payload"])
NOTE = parse_proof(GRANTED.receipt).checkpoint
TEXT = parse_note(NOTE).text
ENTRIES = list(WORLD.log.entries)
QUOTE_LINE = parse_note(NOTE).signatures[1].payload
ATTEST, SIGNATURE = split_quote(QUOTE_LINE)
CERTIFY = WORLD.host.certify()
PUBLICS = [WORLD.host.ak_public, WORLD.host.release_public, WORLD.host.ek_public]
CHALLENGE = b"a verifier's nonce"
SPKI = spki(WORLD.host.ak)
ED25519 = spki(WORLD.authors[0])

VKEYS = [
    format_vkey(key).encode()
    for key in (
        ecdsa_vkey(WORLD.log.origin, SPKI),
        tpm_quote_vkey(WORLD.log.origin, SPKI),
        ed25519_vkey("example.com/log", ED25519[-32:]),
        cosignature_vkey("example.com/witness", ED25519[-32:]),
    )
]


def vectors(*patterns: str) -> list[bytes]:
    """Recorded examples of other tests."""
    return [path.read_bytes() for pattern in patterns for path in sorted(TESTS.glob(pattern))]


def quote_document() -> bytes:
    """What `attestd quote` writes."""
    attest, signature = WORLD.host.quote(
        Purpose.QUOTE, CHALLENGE, selection=SELECTION, pcr_digest=WORLD.pcr_digest
    )
    value: dict[str, Any] = {
        "v": 1,
        "host": WORLD.host.id,
        "challenge": b64(CHALLENGE),
        "attest": b64(attest),
        "signature": b64(signature),
        "pcrs": {"sha256": {str(pcr): found.hex() for pcr, found in WORLD.values.items()}},
    }
    return canonical(value)
