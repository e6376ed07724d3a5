"""Quote verification costs little more than its ECDSA verification: a bound loose enough for a busy machine."""

import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.tcg.pcr import PcrSelection, composite
from attestd.tcg.quote import verify_quote
from attestd.tcg.signature import parse_signature
from tests.tcg import build

KEY = build.key(31)
PUBLIC = KEY.public_key()
SELECTION = PcrSelection("sha256", (0, 2, 4, 7, 11, 12))
VALUES = {index: bytes([index]) * 32 for index in SELECTION.pcrs}
ATTEST = build.attest(
    build.quote_body(SELECTION.marshal(), composite(SELECTION, VALUES)), extra_data=b"x" * 32
)
SIGNATURE = build.ecdsa(KEY, ATTEST)


def test_overhead_over_bare_ecdsa():
    algorithm, der = ec.ECDSA(hashes.SHA256()), parse_signature(SIGNATURE).der()

    def bare() -> None:
        PUBLIC.verify(der, ATTEST, algorithm)

    def quote() -> None:
        verify_quote(
            ak_public_key=PUBLIC,
            attest=ATTEST,
            signature=SIGNATURE,
            extra_data=b"x" * 32,
            selection=SELECTION,
            values=VALUES,
        )

    def seconds(call) -> float:
        start = time.process_time()
        for _ in range(50):
            call()
        return time.process_time() - start

    rounds = [(seconds(bare), seconds(quote)) for _ in range(20)]
    # The goal, 85 % of bare throughput, is measured by the benchmark; here a regression must be gross to fail.
    assert min(bare for bare, _ in rounds) / min(quote for _, quote in rounds) > 0.4
