"""Fields of every template, and what is no entry."""

import hashlib

import pytest

from attestd.errors import MalformedError
from attestd.tcg.ima.entry import DIGEST_SIZES, ImaEntry, file_digest, parse_fields
from tests.tcg.ima.build import data, digest_of, pack

X = digest_of(b"x")


def parse(template: bytes, template_data: bytes, *, violation: bool = False) -> ImaEntry:
    return parse_fields(7, template, template_data, violation=violation)


def test_ima_ng():
    assert parse(b"ima-ng", data(b"/bin/a b")) == ImaEntry(7, "ima-ng", b"/bin/a b", "ima", "sha256", X)
    assert parse(b"d-ng|n-ng", data(b"/bin/x")).template == "d-ng|n-ng"
    assert parse(b"ima-ng", data(b"/x"), violation=True).violation


def test_ima():
    assert parse(b"ima", digest_of(b"x", "sha1") + b"/init".ljust(256, b"\0")) == ImaEntry(
        7, "ima", b"/init", "ima", "sha1", digest_of(b"x", "sha1")
    )


@pytest.mark.parametrize("template", [b"ima-sig", b"d-ng|n-ng|sig"])
def test_ima_sig(template):
    assert parse(template, data(b"/x", b"x", b"signature")).signature == b"signature"
    assert parse(template, data(b"/x", b"x", b"")).signature == b""


def test_ima_buf():
    found = parse(b"ima-buf", data(b"kexec-cmdline", b"quiet", b"quiet"))
    assert (found.path, found.buffer) == (b"kexec-cmdline", b"quiet")
    assert found.digest == digest_of(b"quiet")


def test_ima_modsig():
    found = parse(b"ima-modsig", data(b"/x.ko", b"x", b"sig", b"sha256:\0" + X, b"pkcs7"))
    assert (found.path, found.signature) == (b"/x.ko", b"sig")


def test_evm_sig():
    assert parse(b"evm-sig", data(b"/x", b"x", *[b"f"] * 7)).path == b"/x"


@pytest.mark.parametrize(("kind", "name"), [(b"ima", "ima"), (b"verity", "verity")])
def test_ima_ngv2(kind, name):
    found = parse(b"ima-ngv2", data(b"/x", algorithm=kind + b":sha256"))
    assert (found.digest_type, found.algorithm, found.digest) == (name, "sha256", X)
    assert parse(b"ima-sigv2", data(b"/x", b"x", b"s", algorithm=kind + b":sha256")).signature == b"s"


def test_names_hold_anything_but_nul():
    name = "/tmp/a\n10 evil\x1b[31m\xff".encode("latin-1")
    assert parse(b"ima-ng", data(name)).path == name


@pytest.mark.parametrize(
    ("template", "template_data", "words"),
    [
        (b"ima-xx", data(b"/x"), "unknown template b'ima-xx'"),
        (b"d-ng", data(b"/x"), "unknown template"),
        (b"n-ng|n-ng", data(b"/x"), "unknown template"),
        (b"n-ng|sig", pack(b"/x\0", b""), "unknown template"),
        (b"d-ng|n-ng|n-ng", pack(b"", b"", b""), "unknown template"),
        (b"d-ng|n-ng|new", pack(b"", b"", b""), "unknown template"),
        (b"ima", bytes(20) + b"/x\0y", "a name with a NUL"),
        (b"ima-ng", data(b"/x")[:-1], "a field of 3 bytes, 2 follow"),
        (b"ima-ng", data(b"/x")[:10], "a field of 40 bytes"),
        (b"ima-ng", pack(b"sha256:\0" + X), "ends early"),
        (b"ima-ng", data(b"/x") + b"\0", "1 bytes behind its fields"),
        (b"ima-ng", b"\xff\xff\xff\xff", "a field of 4294967295 bytes"),
        (b"ima-ng", b"", "ends early"),
        (b"ima-ng", data(b"", name=b"/x"), "its only NUL"),
        (b"ima-ng", data(b"", name=b"/x\0/y\0"), "its only NUL"),
        (b"ima-ng", data(b"", name=b""), "its only NUL"),
        (b"ima-ng", pack(b"sha256:\0" + X[:-1], b"/x\0"), "31 bytes as a digest by b'sha256'"),
        (b"ima-ng", pack(b"sha257:\0" + X, b"/x\0"), "as a digest by b'sha257'"),
        (b"ima-ng", pack(X, b"/x\0"), "as a digest by"),
        (b"ima-ng", data(b"/x", algorithm=b"verity:sha256"), "unknown type b'verity:sha256'"),
        (b"ima-ngv2", data(b"/x"), "unknown type b'sha256'"),
        (b"ima-ngv2", data(b"/x", algorithm=b"other:sha256"), "unknown type"),
    ],
)
def test_malformed(template, template_data, words):
    with pytest.raises(MalformedError, match="IMA entry 7: ") as caught:
        parse(template, template_data)
    assert words in str(caught.value)


def test_the_templates_name_does_not_choose_the_digest():
    """It is in no digest. A changed file carries its old digest as its "signature", and the list calls that the digest."""
    good = b"sha256:\0" + digest_of(b"good")
    changed = data(b"/usr/bin/x", b"evil", good)
    assert parse(b"ima-sig", changed).digest == digest_of(b"evil")
    with pytest.raises(MalformedError, match="unknown template"):
        parse(b"xattrnames|n-ng|d-ng", changed)


def test_sizes_are_those_of_the_hashes():
    for name, size in DIGEST_SIZES.items():
        if name != b"sm3":
            assert hashlib.new(name.decode().replace("sha3-", "sha3_")).digest_size == size
    assert file_digest("sha256", X) == b"sha256:\0" + X
