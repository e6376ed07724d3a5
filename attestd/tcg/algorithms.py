"""TPM_ALG_ID and TPM_ECC_CURVE values that attestd accepts (TCG Algorithm Registry).

What is not listed is rejected by the parsers, never guessed.
"""

import hashlib
from typing import Final

from attestd.errors import UsageError

ALG_RSA: Final = 0x0001
ALG_AES: Final = 0x0006
ALG_NULL: Final = 0x0010
ALG_RSASSA: Final = 0x0014
ALG_RSAES: Final = 0x0015
ALG_RSAPSS: Final = 0x0016
ALG_OAEP: Final = 0x0017
ALG_ECDSA: Final = 0x0018
ALG_ECC: Final = 0x0023

HASH_IDS: Final = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C}
HASH_NAMES: Final = {number: name for name, number in HASH_IDS.items()}
HASH_SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48}

# SHA-1 stands for PCR banks alone (an IMA list is replayed in its bank): never for a signature or a Name.
SIGNING_HASHES: Final = {"sha256": hashlib.sha256, "sha384": hashlib.sha384}


def digest(hash_alg: str, data: bytes) -> bytes:
    """The digest of `data` with a hash that signatures and Names may use.

    Raises:
        UsageError: Not such a hash.
    """
    if hash_alg not in SIGNING_HASHES:
        raise UsageError(f"hash {hash_alg!r}: expected one of {sorted(SIGNING_HASHES)}")
    return SIGNING_HASHES[hash_alg](data).digest()
