"""Chains of EK certificates: those of real tools and of an upright manufacturer verify, and each attack is refused."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from attestd.errors import MalformedError, UsageError, VerificationError
from attestd.tcg import ek_chain
from attestd.tcg.ek_anchors import MAX_CERTIFICATES, EkAnchors, require_authority
from attestd.tcg.ek_certificate import EkCertificate, parse_ek_certificate
from attestd.tcg.ek_chain import VerifiedEkChain, verify_ek_chain
from attestd.tcg.endorsement import TEMPLATES
from attestd.tcg.public import parse_public
from attestd.tpm._commands import Cc, password, u32
from attestd.tpm.device import Tpm
from tests.tcg import build
from tests.tcg.ek_build import (
    CA_EXTENSIONS,
    EK_EXTENSIONS,
    NOW,
    P256,
    RSA,
    UNTIL,
    Authority,
    der,
    issue,
    named,
    one_rdn,
    parts,
    resigned,
    say_not_critical,
    unsort_names,
    usage,
)

EK = parse_public(build.ek_public("L-2", P256.public_key()))
RSA_EK = parse_public(build.ek_public("L-1", RSA.public_key()))
ROOT = Authority.root()
MIDDLE = ROOT.authority("middle")
LOW = MIDDLE.authority("low")
CHAIN = [LOW.ek(), LOW.certificate, MIDDLE.certificate]


def anchors(roots: Mapping[str, Authority] | None = None, *intermediates: bytes) -> EkAnchors:
    named_roots = {"maker": ROOT} if roots is None else roots
    return EkAnchors(
        {name: (parse_ek_certificate(root.certificate),) for name, root in named_roots.items()},
        tuple(map(parse_ek_certificate, intermediates)),
    )


def verify(certificates: list[bytes], **changes: object) -> VerifiedEkChain:
    arguments = {"ek": EK, "anchors": anchors(), "now": NOW} | changes
    return verify_ek_chain(certificates, **arguments)


def refused(words: str, certificates: list[bytes], **changes: object) -> None:
    with pytest.raises(VerificationError, match=words):
        verify(certificates, **changes)


class TestVerifies:
    def test_by_one_ca(self):
        leaf = ROOT.ek()
        assert verify([leaf]) == VerifiedEkChain("maker", (leaf, ROOT.certificate), ())

    def test_by_cas_of_its_own(self):
        for shown in (CHAIN, [CHAIN[0], *CHAIN[:0:-1]], [*CHAIN, ROOT.certificate]):
            assert verify(shown).path == (*CHAIN, ROOT.certificate)

    def test_an_rsa_key(self):
        assert verify([MIDDLE.ek(RSA), MIDDLE.certificate], ek=RSA_EK).root == "maker"

    def test_a_ca_of_rsa(self):
        maker = Authority.root(key=RSA)
        assert verify([maker.ek()], anchors=anchors({"maker": maker})).root == "maker"

    def test_p384(self):
        key = build.key(77, ec.SECP384R1())
        ek = parse_public(build.ek_public("H-3", key.public_key()))
        assert verify([ROOT.ek(key, hash_alg=SHA384())], ek=ek).root == "maker"

    def test_by_cas_that_governance_names(self):
        """What most TPMs hold is the EK's certificate alone."""
        others = [
            Authority.root(f"maker {number}").authority(f"{number}").certificate for number in range(30)
        ]
        found = verify(CHAIN[:1], anchors=anchors(None, *others, LOW.certificate, MIDDLE.certificate))
        assert found.path == (*CHAIN, ROOT.certificate)

    def test_the_root_that_vouches_is_named(self):
        others = {f"maker {number}": Authority.root(f"maker {number}") for number in range(5)}
        assert verify(CHAIN, anchors=anchors({**others, "mine": ROOT})).root == "mine"

    def test_two_roots_of_one_name(self):
        again = Authority.root(key=build.key(991))
        for roots in ({"old": ROOT, "new": again}, {"new": again, "old": ROOT}):
            assert verify([again.ek()], anchors=anchors(roots)).root == "new"
            assert verify([ROOT.ek()], anchors=anchors(roots)).root == "old"

    def test_two_cas_of_one_name(self):
        again = ROOT.authority("middle", build.key(992))
        for leaf in (MIDDLE.ek(), again.ek()):
            for order in ((MIDDLE, again), (again, MIDDLE)):
                both = [one.certificate for one in order]
                assert verify([leaf, *both]).root == "maker"
                assert verify([leaf], anchors=anchors(None, *both)).root == "maker"

    def test_without_key_identifiers(self):
        plain = ["key id", "issuer's key id"]
        low = ROOT.authority("plain", without=plain)
        assert verify([low.ek(without=plain), low.certificate]).root == "maker"
        by_name = x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(ROOT.name)], 4711)
        assert verify([ROOT.ek(with_={"issuer's key id": (by_name, False)})]).root == "maker"

    def test_a_file_with_two_roots(self):
        both = tuple(parse_ek_certificate(one.certificate) for one in (Authority.root("x"), ROOT))
        assert verify(CHAIN, anchors=EkAnchors({"both": both}, ())).root == "both"

    def test_an_uninvited_certificate_does_not_harm(self):
        assert verify([*CHAIN, Authority.root("stranger").certificate]).root == "maker"

    def test_what_is_not_quite_der(self):
        odd = Authority.root(one_rdn("odd"))
        root = resigned(odd.certificate, odd.key, unsort_names)

        def edit(fields: list[bytes]) -> None:
            say_not_critical(fields)
            fields[3] = parts(parts(root)[0])[3]  # issued by the name as the root has it

        leaf = resigned(odd.ek(), odd.key, edit) + b"\xff" * 9
        found = verify([leaf], anchors=anchors({"odd": replace(odd, certificate=root)}))
        assert found.quirks == ("padding", "unsorted-set", "default-encoded")

    def test_at_the_ends_of_its_time(self):
        start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
        leaf = ROOT.ek(start=start, end=end)
        for now in (start, end, end.astimezone(timezone(timedelta(hours=14)))):
            assert verify([leaf], now=now).root == "maker"
        for now in (start - timedelta(seconds=1), end + timedelta(seconds=1)):
            refused("the EK's own: certificate", [leaf], now=now)

    def test_for_ever(self):
        """99991231235959Z: RFC 5280's word for no end, as manufacturers use it."""
        assert verify([ROOT.ek(end=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))]).root == "maker"


class TestRefused:
    def test_self_signed(self):
        mallory = Authority.root("me", P256)
        refused("the EK's own: self-signed certificate", [mallory.ek(subject=mallory.name)])
        refused("is a CA's", [mallory.certificate])
        refused(
            "certificate 1: self-signed certificate in certificate chain", [mallory.ek(), mallory.certificate]
        )
        refused("unable to get local issuer certificate", [mallory.ek()])

    def test_a_root_of_the_hosts_own(self):
        """The same name as the manufacturer's, another key."""
        mallory = Authority.root(key=build.key(666))
        refused(
            "certificate 1: self-signed certificate in certificate chain", [mallory.ek(), mallory.certificate]
        )
        fake = mallory.authority("low", LOW.key)
        refused("unable to get", [LOW.ek(), fake.certificate])
        forged = replace(ROOT, key=mallory.key).ek(without=["issuer's key id"])
        refused("the EK's own: certificate signature failure", [forged])

    def test_expired_and_not_yet_valid(self):
        past, future = NOW - timedelta(days=1), NOW + timedelta(days=1)
        refused("verify at 2026-03-01: the EK's own: certificate has expired", [ROOT.ek(end=past)])
        refused("the EK's own: certificate is not yet valid", [ROOT.ek(start=future)])
        old = ROOT.authority("old", end=past)
        refused("certificate 1: certificate has expired", [old.ek(), old.certificate])
        new = ROOT.authority("new", start=future)
        refused("certificate 1: certificate is not yet valid", [new.ek(), new.certificate])
        refused(
            "certificate 3: certificate has expired", CHAIN, anchors=anchors({"r": Authority.root(end=past)})
        )
        refused("has expired", CHAIN, now=UNTIL + timedelta(days=1))

    def test_another_key(self):
        refused("another key than the EK", [ROOT.ek(build.key(32))])
        refused("another key than the EK", [ROOT.ek(rsa.generate_private_key(65537, 2048))], ek=RSA_EK)

    def test_a_key_of_another_kind(self):
        refused("a key of another kind: RSAPublicKey, the EK is ECPublicKey", [ROOT.ek(RSA)])
        refused("a key of another kind: ECPublicKey, the EK is RSAPublicKey", [ROOT.ek()], ek=RSA_EK)
        edwards = ed25519.Ed25519PrivateKey.generate()
        refused("a key of another kind: Ed25519", [ROOT.ek(edwards)])

    def test_the_same_point_on_another_curve(self):
        refused("another key than the EK", [ROOT.ek(build.key(31, ec.SECP384R1()))])

    @pytest.mark.parametrize(
        "changes",
        [
            {"without": ["constraints"]},
            {"with_": {"constraints": (x509.BasicConstraints(ca=False, path_length=None), True)}},
            {"with_": {"usage": (usage("digital_signature"), True)}},
            {"without": ["constraints", "usage"]},
        ],
    )
    def test_an_issuer_that_is_no_ca(self, changes):
        """The EK of one TPM, or any certificate of the manufacturer's, must not vouch for another."""
        low = MIDDLE.authority("no ca", **changes)
        refused("certificate 1", [low.ek(), low.certificate, MIDDLE.certificate])

    def test_an_ek_that_issues(self):
        key, name = build.key(41), named("a TPM")
        stolen = Authority(name, key, LOW.ek(key, subject=name))
        refused("certificate 1: invalid CA certificate", [stolen.ek(), stolen.certificate, *CHAIN[1:]])

    def test_a_path_that_is_too_long(self):
        short = ROOT.authority("middle", with_={"constraints": (x509.BasicConstraints(True, 0), True)})
        low = short.authority("low")
        refused("path length constraint exceeded", [low.ek(), low.certificate, short.certificate])

    def test_a_loop(self):
        first, second = build.key(51), build.key(52)
        one = issue(named("one"), first, named("two"), second, CA_EXTENSIONS)
        two = issue(named("two"), second, named("one"), first, CA_EXTENSIONS)
        leaf = Authority(named("one"), first, one).ek()
        refused("unable to get", [leaf, one, two])
        refused("unable to get", [leaf], anchors=anchors(None, one, two))

    def test_a_wrong_signature(self):
        broken = bytearray(CHAIN[0])
        broken[-1] ^= 1
        refused("the EK's own: certificate signature failure", [bytes(broken), *CHAIN[1:]])
        broken = bytearray(CHAIN[1])
        broken[-1] ^= 1
        refused("certificate 1: certificate signature failure", [CHAIN[0], bytes(broken), CHAIN[2]])

    def test_a_gap(self):
        refused("unable to get local issuer certificate", [CHAIN[0], CHAIN[2]])
        refused("unable to get", CHAIN[:1])

    def test_another_root(self):
        refused("unable to get|self-signed", CHAIN, anchors=anchors({"other": Authority.root("other")}))

    def test_an_intermediate_is_no_root(self):
        refused("unable to get", [LOW.ek()], anchors=anchors({"r": Authority.root("x")}, LOW.certificate))

    def test_no_endorsement_key(self):
        refused("no extended key usage 2.23.133.8.1", [ROOT.ek(without=["purpose"])])
        other = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])
        refused("no extended key usage", [ROOT.ek(with_={"purpose": (other, False)})])
        refused("is a CA's", [ROOT.ek(with_={"constraints": (x509.BasicConstraints(True, None), True)})])

    def test_key_usage(self):
        refused("expected key usage key agreement", [ROOT.ek(without=["usage"])])
        refused(
            "expected key usage key agreement", [ROOT.ek(with_={"usage": (usage("key_encipherment"), True)})]
        )
        wrong = {"usage": (usage("key_agreement"), True)}
        refused("expected key usage key encipherment", [ROOT.ek(RSA, with_=wrong)], ek=RSA_EK)
        signs = {"usage": (usage("key_agreement", "key_cert_sign"), True)}
        refused("lets the key issue certificates", [ROOT.ek(with_=signs)])

    def test_version_one(self):
        def edit(fields: list[bytes]) -> None:
            del fields[0], fields[-1]

        refused("version v1, expected v3", [resigned(ROOT.ek(), ROOT.key, edit)])

    def test_an_unknown_critical_extension(self):
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
        refused("unhandled critical extension", [ROOT.ek(with_={"unknown": (unknown, True)})])
        assert verify([ROOT.ek(with_={"unknown": (unknown, False)})]).root == "maker"

    def test_weak_signatures(self):
        maker = Authority.root(key=RSA)
        there = anchors({"maker": maker})
        old = sha1_signed(maker.ek(), RSA)
        refused("certificate 0 is signed with sha1", [old], anchors=there)
        low = maker.authority("low")
        sha1_low = sha1_signed(low.certificate, RSA)
        refused("certificate 1 is signed with sha1", [low.ek(), sha1_low], anchors=there)
        sha1_root = replace(maker, certificate=sha1_signed(maker.certificate, RSA))
        assert verify([maker.ek()], anchors=anchors({"r": sha1_root})).root == "r"  # a root's word on itself

    def test_a_signature_without_a_hash(self):
        key = ed25519.Ed25519PrivateKey.generate()
        maker = issue_with_edwards(key)
        refused("signed with no hash of its own", [maker], anchors=anchors({"e": edwards_root(key)}))

    def test_weak_keys(self):
        weak = ROOT.authority("weak", rsa.generate_private_key(65537, 1024))  # noqa: S505 - that it is weak
        refused("certificate 1: its key is weak", [weak.ek(), weak.certificate])
        koblitz = ROOT.authority("koblitz", ec.generate_private_key(ec.SECP256K1()))
        refused("certificate 1: its key is weak", [koblitz.ek(), koblitz.certificate])

    def test_too_many(self):
        with pytest.raises(MalformedError, match="100 certificates, the limit is 8"):
            verify([ROOT.ek()] * 100)
        assert verify([ROOT.ek()] * MAX_CERTIFICATES).root == "maker"

    def test_too_large(self):
        with pytest.raises(MalformedError, match="the limit is 8192"):
            verify([bytes(4 << 20)])
        with pytest.raises(MalformedError, match="the limit is 8192"):
            verify([ROOT.ek(), b"\x30" * (4 << 20)])

    def test_what_is_no_certificate(self):
        with pytest.raises(MalformedError, match="certificate: "):
            verify([ROOT.ek(), b"nothing"])

    def test_none(self):
        refused("has no certificate", [])
        with pytest.raises(UsageError, match="no root"):
            verify([ROOT.ek()], anchors=EkAnchors({}, (parse_ek_certificate(ROOT.certificate),)))
        with pytest.raises(UsageError, match="aware"):
            verify([ROOT.ek()], now=NOW.replace(tzinfo=None))

    def test_what_openssl_does_not_read(self, monkeypatch):
        """No certificate is known that one reads and the other does not: should one come, it is refused."""

        def fails(*_: object) -> None:
            raise crypto.Error([("asn1", "", "too strange")])

        monkeypatch.setattr(ek_chain.crypto, "load_certificate", fails)
        with pytest.raises(MalformedError, match="OpenSSL does not read it"):
            verify([ROOT.ek()])


def sha1_signed(certificate: bytes, by: rsa.RSAPrivateKey) -> bytes:
    """Signed as of old: cryptography does not do that any more, so the bytes are put together here."""
    sha1_rsa = bytes.fromhex("300d06092a864886f70d0101050500")
    fields = parts(parts(certificate)[0])
    fields[2] = sha1_rsa
    tbs = der(0x30, *fields)
    return der(0x30, tbs, sha1_rsa, der(0x03, b"\0", by.sign(tbs, padding.PKCS1v15(), SHA1())))  # noqa: S303 - as it was


def edwards_root(key: ed25519.Ed25519PrivateKey) -> Authority:
    return Authority(named("edwards"), key, _by_edwards(key, named("edwards"), key, CA_EXTENSIONS))


def issue_with_edwards(key: ed25519.Ed25519PrivateKey) -> bytes:
    extensions = EK_EXTENSIONS | {"usage": (usage("key_agreement"), True)}
    return _by_edwards(P256, x509.Name([]), key, extensions)


def _by_edwards(key, subject, by, extensions) -> bytes:
    builder = x509.CertificateBuilder(
        named("edwards"), subject, key.public_key(), 1, NOW, NOW + timedelta(days=1)
    )
    for extension, critical in extensions.values():
        builder = builder.add_extension(extension, critical)
    return builder.sign(by, None).public_bytes(Encoding.DER)


class TestAnchors:
    def test_no_more_are_looked_at_than_a_chain_has(self):
        """Cross-signed, all of one name: somebody's mistake in governance must not make each enrolment slow."""
        same = [
            Authority.root(f"x{number}").authority("low", build.key(900 + number)).certificate
            for number in range(40)
        ]
        shown = parse_ek_certificate(LOW.ek(without=["issuer's key id"]))
        assert len(anchors(None, *same).between([shown])) == MAX_CERTIFICATES

    def test_what_leads_nowhere_is_left_out(self):
        there = anchors(
            None, LOW.certificate, MIDDLE.certificate, Authority.root("x").authority("y").certificate
        )
        found = there.between([parse_ek_certificate(LOW.ek())])
        assert [one.der for one in found] == [LOW.certificate, MIDDLE.certificate]
        assert there.between([]) == ()

    def test_a_ca_is_required(self):
        require_authority(parse_ek_certificate(ROOT.certificate), "it")
        no_ca = (x509.BasicConstraints(False, None), True)
        for changes in (
            {"without": ["constraints"]},
            {"with_": {"constraints": no_ca}},
            {"with_": {"usage": (usage("digital_signature"), True)}},
        ):
            other = parse_ek_certificate(Authority.root(**changes).certificate)
            with pytest.raises(VerificationError, match="it is not a CA's"):
                require_authority(other, "it")
        require_authority(parse_ek_certificate(Authority.root(without=["usage"]).certificate), "it")
        edwards = edwards_root(ed25519.Ed25519PrivateKey.generate())
        with pytest.raises(VerificationError, match="its key is weak"):
            require_authority(parse_ek_certificate(edwards.certificate), "it")


class TestSwtpm:
    """What `swtpm_setup` and `swtpm_localca` make, with three kinds of EK in one TPM."""

    @pytest.fixture
    def local_ca(self, swtpm_template: Path) -> EkAnchors:
        def load(name: str) -> EkCertificate:
            pem = x509.load_pem_x509_certificate((swtpm_template / "ca" / name).read_bytes())
            return parse_ek_certificate(pem.public_bytes(Encoding.DER))

        return EkAnchors({"local": (load("swtpm-localca-rootca-cert.pem"),)}, (load("issuercert.pem"),))

    @pytest.mark.parametrize("name", ["L-2", "L-1", "H-3"])
    def test_the_chain_of_a_software_tpm(self, tpm: Tpm, local_ca: EkAnchors, name: str):
        for template in TEMPLATES:
            if template.name == name:
                break
            index = u32(0x4000000C) + u32(template.certificate)
            tpm._channel.run(Cc.NV_UNDEFINE_SPACE, handles=index, auth=password())
        ek = tpm.endorsement_key()
        public, now = parse_public(ek.public), datetime.now(UTC)
        found = verify_ek_chain(ek.certificate_chain, ek=public, anchors=local_ca, now=now)
        assert found.root == "local"
        assert found.path[0] == ek.certificate_chain[0]
        assert len(found.path) == 3
        with pytest.raises(VerificationError, match="unable to get"):
            verify_ek_chain(ek.certificate_chain, ek=public, anchors=anchors(), now=now)
