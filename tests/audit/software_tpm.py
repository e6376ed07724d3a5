"""A TPM in memory for sealing: real ECDSA keys and real TPMS_ATTEST bytes, and failures on demand."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.audit.sealing_tpm import QuoteEvidence
from attestd.errors import TpmRefusedError
from attestd.lineage.checkpoint import LogKeys
from attestd.tcg.attest import ClockInfo
from attestd.tcg.pcr import PcrSelection
from tests.tcg.parsing import ecdsa_from_der

SELECTION = PcrSelection("sha256", (0, 2, 4, 7, 11, 12))


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class SoftwareTpm:
    """`state` is the PCRs; `approved` is the state in which the release key signs."""

    counter: int = 7
    clock: ClockInfo = ClockInfo(clock=1000, reset_count=3, restart_count=0, safe=True)  # noqa: RUF009
    shut_down: bool = False
    state: bytes = b"good"
    approved: bytes = b"good"
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None
    calls: list[str] = field(default_factory=list)
    release_key: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)
    attestation_key: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)

    def keys(self, origin: str) -> LogKeys:
        return LogKeys(origin, spki(self.release_key), spki(self.attestation_key))

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)

    def sign_release(self, text: bytes) -> bytes:
        self._called("sign_release")
        if self.state != self.approved:
            raise TpmRefusedError("TPM_RC_POLICY_FAIL (0x99d)")
        signature = self.release_key.sign(text, ec.ECDSA(SHA256()))
        self.after("sign_release")
        return signature

    def quote(self, extra_data: bytes) -> QuoteEvidence:
        self._called("quote")
        attest = self._attest(extra_data)
        signature = self.sign_attest(attest)
        self.after("quote")
        return QuoteEvidence(attest, signature, approved=self.state == self.approved)

    def sign_attest(self, attest: bytes) -> bytes:
        """TPMT_SIGNATURE by the attestation key."""
        return ecdsa_from_der(self.attestation_key.sign(attest, ec.ECDSA(SHA256()))).marshal()

    def step_counter(self) -> int:
        self._called("step_counter")
        self.counter += 1
        self.after("step_counter")
        return self.counter

    def read_counter(self) -> int:
        self._called("read_counter")
        return self.counter

    def was_shut_down(self) -> bool:
        self._called("was_shut_down")
        return self.shut_down

    def _attest(self, extra_data: bytes) -> bytes:
        """TPMS_ATTEST of a quote (TPM 2.0 Part 2, 10.12.12)."""
        now = self.clock
        name = b"\x00\x0b" + sha256(b"qualified name").digest()
        digest = sha256(self.state).digest()
        return b"".join(
            (
                struct.pack(">IH", 0xFF544347, 0x8018),
                struct.pack(">H", len(name)) + name,
                struct.pack(">H", len(extra_data)) + extra_data,
                struct.pack(">QIIBQ", now.clock, now.reset_count, now.restart_count, now.safe, 1),
                SELECTION.marshal(),
                struct.pack(">H", len(digest)) + digest,
            )
        )
