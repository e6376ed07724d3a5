"""What `ek-roots/` and `ek-allow.json` say, as facts that can be compared (`attestd.governance.changes`). Pure."""

import json
import re
from base64 import b64decode
from hashlib import sha256
from typing import Final

from attestd.governance.facts import Facts, texts

__all__ = ["ek_allow_facts", "ek_file_facts", "ek_index_facts"]

_BLOCK: Final = re.compile(r"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")


def ek_index_facts(_: str, data: bytes) -> Facts:
    """Of `ek-roots/index.json`; whatever error there is, it is not of that form."""
    value = json.loads(data)
    roots = {f"EK root {name}": {"tier": frozenset([str(tier)])} for name, tier in value["roots"].items()}
    return {**roots, "EK intermediates": {"file": texts(value["intermediates"])}}


def ek_allow_facts(_: str, data: bytes) -> Facts:
    """Of `ek-allow.json`; likewise."""
    hosts = json.loads(data)["hosts"]
    return {f"EK of host {host}": {"tier": frozenset([str(tier)])} for host, tier in hosts.items()}


def ek_file_facts(name: str, data: bytes) -> Facts:
    """Of `ek-roots/<name>.pem`: its certificates by fingerprint, as `openssl x509 -fingerprint -sha256` tells it."""
    whole = data.decode("ascii")
    fingerprints = [sha256(b64decode(block)).hexdigest() for block in _BLOCK.findall(whole)]
    # Whatever stands between them makes the file unusable, and must not change in silence.
    between = "".join(_BLOCK.sub("", whole).split())
    subject = f"EK certificates {name.removeprefix('ek-roots/').removesuffix('.pem')}"
    return {
        subject: {
            "certificate": frozenset(f"SHA-256 {found}" for found in fingerprints),
            "and besides": between[:200],
        }
    }
