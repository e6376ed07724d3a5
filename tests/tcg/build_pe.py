"""Makes PE images, right and wrong; run as a program it writes `vectors/signed.efi`: `python -m tests.tcg.build_pe` (needs sbsign).

The signed image is the vector of an independent program: the hash that sbsign signs stands in its signature.
"""

import struct
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

SIGNED = Path(__file__).parent / "vectors" / "signed.efi"
ALIGN = 0x200
STUB = b"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\0"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def padded(data: bytes, size: int = ALIGN) -> bytes:
    return data + bytes(-len(data) % size)


def pe(
    sections: Mapping[str, bytes],
    *,
    plus: bool = True,
    tail: bytes = b"",
    signatures: tuple[bytes, ...] = (),
    **lies: int,
) -> bytes:
    """A PE image; `count`, `headers`, `entries`, `at`, `length`, `gap`, `virtual`, `optional`, `magic`, `start` lie."""
    directories = 112 if plus else 96
    optional = directories + 16 * 8
    start = 0x80
    end_of_headers = start + 24 + optional + 40 * len(sections)
    headers = -(-end_of_headers // ALIGN) * ALIGN
    place = headers + lies.get("gap", 0)
    bodies, table = bytes(lies.get("gap", 0)), b""
    for number, (name, content) in enumerate(sections.items()):
        raw = padded(content)
        virtual = lies.get("virtual", len(content))
        table += struct.pack(
            "<8sIIII16x", name.encode(), virtual, 0x1000 * (number + 1), len(raw), place if raw else 0
        )
        bodies, place = bodies + raw, place + len(raw)
    certificates = b"".join(
        padded(struct.pack("<IHH", 8 + len(item), 0x0200, lies.get("kind", 2)) + item, 8)
        for item in signatures
    )
    body = bodies + padded(tail, 8)
    head = bytearray(optional)
    struct.pack_into("<H", head, 0, lies.get("magic", 0x20B if plus else 0x10B))
    struct.pack_into("<II", head, 32, 0x1000, ALIGN)
    struct.pack_into("<II", head, 56, 0x1000 * (len(sections) + 2), lies.get("headers", headers))
    struct.pack_into("<IH", head, 64, 0xDEADBEEF, 10)
    struct.pack_into("<I", head, directories - 4, lies.get("entries", 16))
    if certificates:
        at = lies.get("at", headers + len(body))
        struct.pack_into("<II", head, directories + 32, at, lies.get("length", len(certificates)))
    coff = struct.pack(
        "<4sHHIIIHH",
        b"PE\0\0",
        0x8664,
        lies.get("count", len(sections)),
        0,
        0,
        0,
        lies.get("optional", optional),
        0x0206,
    )
    dos = padded(b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", lies.get("start", start)), start)
    return padded(dos + coff + bytes(head) + table, headers)[:headers] + body + certificates


def uki(**sections: bytes) -> bytes:
    """A UKI without a signature; `stub` is its magic."""
    stub = sections.pop("stub", STUB)
    return pe({".text": b"code", ".sdmagic": stub, **{f".{name}": data for name, data in sections.items()}})


def authority(name: str) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A key and a certificate by itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key, certificate(name, key.public_key(), name, key)


def certificate(
    name: str, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, issuer: str, by: rsa.RSAPrivateKey
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    builder = x509.CertificateBuilder(
        issuer_name=named(issuer),
        subject_name=named(name),
        public_key=key,
        serial_number=1,
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=3650),
    )
    return builder.sign(by, hashes.SHA256())


def signature(key: rsa.RSAPrivateKey, cert: x509.Certificate) -> bytes:
    """PKCS #7 that carries a certificate; what it signs is of no matter here."""
    builder = pkcs7.PKCS7SignatureBuilder().set_data(b"x").add_signer(cert, key, hashes.SHA256())
    return builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])


def der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.DER)


def _sign_with_sbsign() -> None:
    key, cert = authority("attestd test")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "image").write_bytes(
            pe({".text": b"code" * 100, ".data": b"data", ".bss": b""}, tail=b"behind the sections")
        )
        (work / "crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        (work / "key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        command = ["sbsign", "--key", "key", "--cert", "crt", "--output", str(SIGNED), "image"]
        subprocess.run(command, cwd=work, check=True)


if __name__ == "__main__":
    _sign_with_sbsign()
