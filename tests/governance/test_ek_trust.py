"""`ek-roots/` and `ek-allow.json`: what of them is believed, and what is left out with which words."""

from base64 import b64encode
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.errors import MalformedError, VerificationError
from attestd.governance.ek_trust import EkAllow, EkIndex, parse_ek_file
from attestd.governance.trust import Trust
from attestd.strict import canonical
from tests.tcg.ek_build import Authority, der, one_rdn, resigned, unsort_names
from tests.world import World

ROOT, OTHER = Authority.root(), Authority.root("other")
MIDDLE = ROOT.authority("middle")
HOST = "ab" * 32


def pem(*certificates: bytes) -> bytes:
    """Written by hand: some are not DER."""
    lines = []
    for certificate in certificates:
        text = b64encode(certificate).decode()
        body = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
        lines.append(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    return "".join(lines).encode()


def index(roots: dict[str, str], *intermediates: str) -> bytes:
    return canonical({"v": 1, "roots": roots, "intermediates": sorted(intermediates)})


def with_files(files: dict[str, bytes]) -> Trust:
    world = World()
    world.extra |= files
    return world.trust()


ALL = {
    "ek-roots/index.json": index({"maker": "hardware", "cloud": "vtpm"}, "maker-cas"),
    "ek-roots/maker.pem": pem(ROOT.certificate, Authority.root("second").certificate),
    "ek-roots/cloud.pem": pem(OTHER.certificate),
    "ek-roots/maker-cas.pem": pem(MIDDLE.certificate),
    "ek-allow.json": canonical({"v": 1, "hosts": {HOST: "uncertified"}}),
}


def test_nothing_is_believed_unless_said():
    ek = with_files({}).ek
    assert (ek.anchors.roots, ek.anchors.intermediates, ek.tiers, ek.allowed) == ({}, (), {}, {})


def test_all_of_it():
    trust = with_files(ALL)
    assert trust.unusable == {}
    assert {name: len(roots) for name, roots in trust.ek.anchors.roots.items()} == {"cloud": 1, "maker": 2}
    assert [one.der for one in trust.ek.anchors.intermediates] == [MIDDLE.certificate]
    assert trust.ek.tiers == {"maker": "hardware", "cloud": "vtpm"}
    assert trust.ek.allowed == {HOST: "uncertified"}


def test_known_files_are_not_parsed_again():
    world = World()
    world.extra |= ALL
    before = world.trust()
    world.extra["ek-allow.json"] = canonical({"v": 1, "hosts": {}})
    files = world.files()
    from attestd.governance.trust import parse_trust
    from tests.world import described, read_of

    after = parse_trust(read_of(files), metadata=described(files), previous=before)
    assert after.ek.anchors.roots["maker"] is before.ek.anchors.roots["maker"]
    assert after.ek.allowed == {}


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"ek-roots/cloud.pem": None}, "ek-roots/index.json", "names 'cloud': expected a ek-roots/cloud.pem"),
        ({"ek-roots/cloud.pem": pem(MIDDLE.certificate)}, "ek-roots/cloud.pem", "is no root"),
        ({"ek-roots/cloud.pem": b"nothing"}, "ek-roots/cloud.pem", "expected a certificate in PEM"),
        ({"ek-roots/index.json": b"{}"}, "ek-roots/index.json", "missing required field"),
        (
            {"ek-roots/readme.txt": b"x"},
            "ek-roots/readme.txt",
            "expected ek-roots/index.json or ek-roots/NAME.pem",
        ),
        ({"ek-allow.json": b"[]"}, "ek-allow.json", "Expected `object`"),
    ],
)
def test_what_does_not_count(changes: dict[str, Any], name: str, words: str):
    trust = with_files({name: data for name, data in (ALL | changes).items() if data is not None})
    assert words in trust.unusable[name]


def test_a_file_that_nobody_names_counts_for_nothing():
    """So that files can be staged one after the other, the index last."""
    without = {name: data for name, data in ALL.items() if name != "ek-roots/index.json"}
    trust = with_files(without)
    assert (trust.unusable, trust.ek.anchors.all_roots, trust.ek.anchors.intermediates) == ({}, (), ())
    trust = with_files(ALL | {"ek-roots/extra.pem": pem(Authority.root("extra").certificate)})
    assert (trust.unusable, trust.ek.anchors.roots.keys()) == ({}, {"cloud", "maker"})


def test_a_file_that_does_not_parse_takes_no_other_with_it():
    trust = with_files(ALL | {"ek-roots/cloud.pem": b"nothing"})
    assert trust.ek.anchors.roots.keys() == {"maker"}
    assert trust.unusable.keys() == {"ek-roots/cloud.pem", "ek-roots/index.json"}


class TestIndex:
    def test_as_written(self):
        found = parse_ek_file("ek-roots/index.json", ALL["ek-roots/index.json"])
        assert found == EkIndex(
            v=1, roots={"maker": "hardware", "cloud": "vtpm"}, intermediates=frozenset({"maker-cas"})
        )

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (index({"a": "hardware"}, "a"), "'a' is named as roots and as intermediates"),
            (index({"a": "uncertified"}), "roots"),
            (index({"../a": "hardware"}), "key"),
            (index({"A": "hardware"}), "key"),
            (index({}, "a/b"), "intermediates"),
            (canonical({"v": 2, "roots": {}, "intermediates": []}), "v"),
            (canonical({"v": 1, "roots": {}, "intermediates": [], "more": 1}), "unknown"),
            (b'{"v":1,"roots":{},"intermediates":[] }', "canonical"),
            (b" " * (256 * 1024 + 1), "the limit is"),
            (index({f"r{number}": "vtpm" for number in range(1025)}), "length"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_none(self, data: bytes, words: str):
        with pytest.raises(MalformedError, match=words):
            parse_ek_file("ek-roots/index.json", data)


class TestAllow:
    def test_as_written(self):
        data = canonical({"v": 1, "hosts": {HOST: "software", "cd" * 32: "uncertified"}})
        found = parse_ek_file("ek-allow.json", data)
        assert found == EkAllow(v=1, hosts={HOST: "software", "cd" * 32: "uncertified"})

    @pytest.mark.parametrize(
        "hosts", [{HOST: "hardware"}, {HOST: "vtpm"}, {"AB" * 32: "software"}, {"ab": "software"}]
    )
    def test_what_is_none(self, hosts: dict[str, str]):
        with pytest.raises(MalformedError, match=r"ek-allow\.json"):
            parse_ek_file("ek-allow.json", canonical({"v": 1, "hosts": hosts}))


class TestPem:
    def test_as_tools_write_it(self):
        library = x509.load_der_x509_certificate(ROOT.certificate).public_bytes(Encoding.PEM)
        for data in (library, b"\n" + library.replace(b"\n", b"\r\n") + b"\n\n", pem(ROOT.certificate)):
            [found] = self.parsed(data)
            assert found.der == ROOT.certificate

    def test_one_that_is_not_quite_der(self):
        odd = Authority.root(one_rdn("odd"))
        [found] = self.parsed(pem(resigned(odd.certificate, odd.key, unsort_names)))
        assert found.quirks == ("unsorted-set",)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "found none"),
            (b"\n", "at byte 0: expected a certificate in PEM"),
            (pem(ROOT.certificate) + b"x", "expected a certificate in PEM"),
            (b"# roots\n" + pem(ROOT.certificate), "at byte 0: expected"),
            (pem(ROOT.certificate)[:-5], "expected a certificate in PEM"),
            (pem(ROOT.certificate).replace(b"M", b"=", 1), "certificate 0 is not PEM"),
            (pem(b"no certificate"), "expected DER"),
            (pem(der(0x30)), "not a certificate"),
            (pem(*[ROOT.certificate] * 513), "at most 512"),
            (b"-----BEGIN CERTIFICATE-----\n" * (40 << 10), "the limit is 1048576"),
            (b"-----BEGIN CERTIFICATE-----\n" + b"A" * 900_000, "expected a certificate in PEM"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_none(self, data: bytes, words: str):
        with pytest.raises(MalformedError, match=words):
            self.parsed(data)

    def test_what_is_no_ca(self):
        with pytest.raises(VerificationError, match="certificate 1 is not a CA's"):
            self.parsed(pem(ROOT.certificate, ROOT.ek()))

    def parsed(self, data: bytes) -> Any:
        return parse_ek_file("ek-roots/a.pem", data)
