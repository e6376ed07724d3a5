"""The ASCII form, which a file name can forge, and the check that finds it."""

import pytest

from attestd.errors import MalformedError
from attestd.tcg.ima.ascii import binary_from_ascii, is_ascii_list
from tests.tcg.ima.build import data, digest_of, entry, old_entry

X = digest_of(b"x").hex()


def line(template: str, template_data: bytes, *words: str, digest: str | None = None) -> bytes:
    found = digest_of(template_data, "sha1").hex() if digest is None else digest
    return " ".join(["10", found, template, *words]).encode() + b"\n"


@pytest.mark.parametrize(
    ("template", "template_data", "words"),
    [
        ("ima-ng", data(b"/x"), (f"sha256:{X}", "/x")),
        ("ima-ngv2", data(b"/x", algorithm=b"verity:sha256"), (f"verity:sha256:{X}", "/x")),
        ("ima-sig", data(b"/x", b"x", b"\x03\x02"), (f"sha256:{X}", "/x", "0302")),
        ("ima-sig", data(b"/x", b"x", b""), (f"sha256:{X}", "/x", "")),
        ("ima-buf", data(b"kexec-cmdline", b"x", b"x"), (f"sha256:{X}", "kexec-cmdline", "78")),
        (
            "ima-modsig",
            data(b"/x.ko", b"x", b"", b"sha256:\0" + digest_of(b"y"), b"p"),
            (f"sha256:{X}", "/x.ko", "", f"sha256:{digest_of(b'y').hex()}", "70"),
        ),
        ("ima-modsig", data(b"/x.ko", b"x", b"", b"", b""), (f"sha256:{X}", "/x.ko", "", "", "")),
    ],
)
def test_templates(template, template_data, words):
    expected = entry(template_data, template.encode())
    assert binary_from_ascii(line(template, template_data, *words)) == expected


def test_ima():
    hashed = digest_of(digest_of(b"x", "sha1") + b"/init".ljust(256, b"\0"), "sha1").hex()
    text = f"10 {hashed} ima {digest_of(b'x', 'sha1').hex()} /init\n".encode()
    assert binary_from_ascii(text) == old_entry(b"/init")


def test_violations_have_no_digest_to_check():
    assert binary_from_ascii(line("ima-ng", b"", f"sha256:{X}", "/x", digest="00" * 20)) == entry(
        data(b"/x"), violation=True
    )


def test_a_newline_in_a_name_is_found():
    """A file called `/a<newline>10 <digest> ima-ng sha256:... /good` writes a line of its own."""
    name = b"/a\n" + line("ima-ng", data(b"/good"), f"sha256:{X}", "/good").rstrip(b"\n")
    text = line("ima-ng", data(name), f"sha256:{X}", name.decode())
    with pytest.raises(MalformedError, match="line 1: it does not hash to its template digest"):
        binary_from_ascii(text)


@pytest.mark.parametrize(
    "text",
    [
        b"10",
        b"10 \n",
        line("ima-xx", data(b"/x"), f"sha256:{X}", "/x"),
        line("ima-ng", data(b"/x"), f"sha256:{X}", "/x", "extra"),
        line("ima-sig", data(b"/x"), f"sha256:{X}", "/x"),
        line("ima-ng", data(b"/x"), "sha256:zz", "/x"),
        line("ima-ng", data(b"/x"), f"sha256:{X}", "/y"),
        line("ima-ng", data(b"/x"), f"sha256:{X}", "/x", digest="00"),
        b"x" + line("ima-ng", data(b"/x"), f"sha256:{X}", "/x"),
        b"-1" + line("ima-ng", data(b"/x"), f"sha256:{X}", "/x")[2:],
        b"9" * 5000 + line("ima-ng", data(b"/x"), f"sha256:{X}", "/x")[2:],
        line("ima-ng", data(b"/x"), f"sha256:{X}", "/x") + b"\n",
    ],
)
def test_malformed(text):
    with pytest.raises(MalformedError, match="IMA list"):
        binary_from_ascii(text)


def test_which_form():
    assert is_ascii_list(b"10 ab")
    assert not is_ascii_list(entry(data(b"/x")))
    assert binary_from_ascii(b"") == b""
