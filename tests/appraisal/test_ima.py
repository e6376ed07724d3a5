"""IMA lists against policies: every rule, and every finding's words."""

from base64 import b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.appraisal.ima import MAX_FINDINGS, ImaAppraisal, appraise_ima, parse_ima_policy
from attestd.errors import MalformedError
from attestd.strict import canonical
from attestd.tcg.ima.aggregate import boot_aggregates
from attestd.tcg.ima.replay import replay_list, start_of_list, verify_list
from tests.tcg.eventlog.build import BOOTS, RECORDED
from tests.tcg.ima.build import data, digest_of, entry, ima_list, old_entry, sign

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
X = f"sha256:{digest_of(b'x').hex()}"
Y = f"sha256:{digest_of(b'y').hex()}"


def spki(key: Any) -> str:
    return b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def policy(**changed: Any) -> bytes:
    return canonical(
        {
            "v": 1,
            "digests": {"/bin/x": [X]},
            "patterns": [],
            "exclude": [],
            "keys": {"vendor": spki(KEY)},
            "violations": "refuse",
            **changed,
        }
    )


def rule(path: str, digests: tuple[str, ...] = (), keys: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"path": path, "digests": list(digests), "keys": list(keys)}


def appraise(list_: bytes, *, aggregates: Any = None, **changed: Any) -> ImaAppraisal:
    return appraise_ima(
        replay_list(list_, bank="sha256"), policy=parse_ima_policy(policy(**changed)), aggregates=aggregates
    )


def words(list_: bytes, **options: Any) -> list[str]:
    found = appraise(list_, **options)
    assert found.count == len(found.findings)
    return [str(item) for item in found.findings]


@pytest.mark.parametrize(
    "item",
    [
        entry(data(b"/bin/x")),
        entry(data(b"/bin/x", b"x", b""), b"ima-sig"),
        entry(data(b"/bin/x", b"x", b"unread"), b"ima-sig"),
        entry(data(b"/bin/x", algorithm=b"ima:sha256"), b"ima-ngv2"),
        entry(data(b"/bin/x"), b"d-ng|n-ng"),
    ],
)
def test_allowed_by_digest(item):
    assert words(item) == []


def test_the_oldest_template():
    assert words(old_entry(b"/init"), digests={"/init": [f"sha1:{digest_of(b'x', 'sha1').hex()}"]}) == []
    assert len(words(old_entry(b"/init"))) == 1


def test_names_with_spaces():
    assert words(entry(data(b"/My_Files/x")), digests={"/My Files/x": [X]}) == []


def test_another_file_than_allowed():
    assert words(ima_list(data(b"/bin/x"), data(b"/bin/x", b"y"))) == [
        f"IMA entry 1: /bin/x: expected {X}, found {Y}"
    ]


def test_a_file_that_no_rule_covers():
    assert words(entry(data(b"/tmp/evil"))) == [
        f"IMA entry 0: /tmp/evil: expected no such file: no rule covers this path, found {X}"
    ]


def test_many_digests_are_not_all_listed():
    allowed = [f"sha256:{n:064x}" for n in range(1, 8)]
    [found] = words(entry(data(b"/bin/x")), digests={"/bin/x": allowed})
    assert f"expected one of {', '.join(allowed[:3])} and 4 more, found" in found


@pytest.mark.parametrize("path", [b"/opt/app/run", b"/opt/app/lib/a.so"])
def test_excluded(path):
    assert words(entry(data(path)), exclude=["/opt/app/**"]) == []
    assert len(words(entry(data(path)), exclude=["/opt/app"])) == 1


def test_patterns_with_digests():
    rules = [rule("/lib/*", (Y,)), rule("/lib/x*", (X,))]
    assert words(entry(data(b"/lib/x.so")), patterns=rules) == []
    [found] = words(entry(data(b"/lib/y.so")), patterns=rules)
    assert found == f"IMA entry 0: /lib/y.so: expected {Y}, found {X}"


def test_patterns_with_keys():
    rules = [rule("/usr/**", (Y,), ("vendor",))]
    signed = data(b"/usr/bin/x", b"x", sign(KEY, digest_of(b"x")))
    assert words(entry(signed, b"ima-sig"), patterns=rules) == []
    assert words(entry(data(b"/usr/bin/y", b"y")), patterns=rules) == []
    other = data(b"/usr/bin/x", b"x", sign(OTHER, digest_of(b"x")))
    [found] = words(entry(other, b"ima-sig"), patterns=rules)
    start = f"IMA entry 0: /usr/bin/x: expected {Y} or a signature by vendor, found {X}; "
    assert found == f"{start}none of the keys made the signature, which names key deadbeef"
    [found] = words(entry(data(b"/usr/bin/x")), patterns=rules)
    assert found.endswith(f"found {X}; no signature")
    [found] = words(entry(data(b"/usr/bin/x", b"x", b"junk"), b"ima-sig"), patterns=rules)
    assert "IMA signature: truncated" in found
    # A key may sign where its rule says, nowhere else.
    elsewhere = data(b"/etc/x", b"x", sign(KEY, digest_of(b"x")))
    assert len(words(entry(elsewhere, b"ima-sig"), patterns=rules)) == 1


def test_verity_digests_are_not_file_digests():
    item = entry(data(b"/bin/x", algorithm=b"verity:sha256"), b"ima-ngv2")
    assert len(words(item, patterns=[rule("/bin/*", (X,))])) == 1


def test_buffers():
    item = entry(data(b"kexec-cmdline", b"x", b"x"), b"ima-buf")
    assert words(item, digests={"kexec-cmdline": [X]}) == []
    [found] = words(item)
    assert found.startswith("IMA entry 0: kexec-cmdline: expected no such file")


def test_violations():
    item = entry(data(b"/bin/x"), violation=True)
    message = "IMA entry 0: /bin/x: expected a digest, found a violation: the file was open for writing while it was measured"
    assert words(item) == [message]
    assert words(item, exclude=["/bin/*"]) == [message]
    assert words(item, violations="exclude") == [message]
    assert words(item, exclude=["/bin/*"], violations="exclude") == []


def test_boot_aggregate():
    first = data(b"boot_aggregate", b"pcrs")
    good = digest_of(b"pcrs")
    assert words(entry(first), aggregates={good}) == []
    assert words(entry(first), aggregates=None) == []
    assert words(entry(first), aggregates={bytes(32)}) == [
        f"IMA entry 0: boot_aggregate: expected the hash of PCRs 0 to 9 ({'00' * 32}), found sha256:{good.hex()}"
    ]
    # Not evaluated is not a free name for files.
    assert len(words(ima_list(first, data(b"boot_aggregate", b"evil")))) == 1
    assert words(ima_list(first, first), aggregates={good}) == []
    [found] = words(entry(first), aggregates=set())
    assert "PCRs 0 to 9 (entry 0)" in found


def test_entries_of_an_unknown_form():
    [found] = words(entry(b"junk", b"new-template"))
    assert found == (
        "IMA entry 0: ?: expected an entry of a known form, found IMA entry 0: unknown template b'new-template'"
    )


@pytest.mark.parametrize(
    ("name", "shown"), [(b"/a\n/b", "/a\n/b"), (b"/\xff", "/\\xff"), ("/\u00e9".encode(), "/\u00e9")]
)
def test_names_of_any_bytes(name, shown):
    """Escaping is for who prints: here a name is a value."""
    [found] = appraise(entry(data(name))).findings
    assert found.path == shown


def test_findings_are_bounded():
    found = appraise(ima_list(*[data(b"/e%d" % n) for n in range(MAX_FINDINGS + 5)]))
    assert (len(found.findings), found.count, found.entries) == (MAX_FINDINGS, 105, 105)


def test_numbers_go_on_in_the_next_part():
    first = replay_list(ima_list(data(b"/bin/x")), bank="sha256")
    rest = entry(data(b"/evil"))
    value = replay_list(ima_list(data(b"/bin/x"), data(b"/evil")), bank="sha256").end.value
    second = verify_list(rest, position=first.end, value=value)
    [found] = appraise_ima(second, policy=parse_ima_policy(policy()), aggregates=None).findings
    assert (found.number, found.path) == (1, "/evil")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"v": 2}, "v"),
        ({"digests": {}}, "names no digests and no patterns"),
        ({"digests": {"/x": []}}, "digests"),
        ({"digests": {"": [X]}}, "digests"),
        ({"digests": {"/x": ["sha256:00"]}}, "digests"),
        ({"digests": {"/x": ["sha256:" + "ab" * 20]}}, "a digest of its size"),
        ({"digests": {"/x": ["sha256:" + "a" * 63]}}, "a digest of its size"),
        ({"digests": {"/x": ["sha999:" + "ab" * 32]}}, "a digest of its size"),
        ({"digests": {"/x": ["sha256:" + "00" * 32]}}, "not zero"),
        ({"patterns": [rule("/x")]}, "allows nothing"),
        ({"patterns": [rule("/x", (), ("unknown",))]}, "an unknown key 'unknown'"),
        ({"patterns": [rule("/x**", (X,))]}, "path pattern"),
        ({"patterns": [rule("/x", ("sha256:" + "ab" * 20,))]}, "a digest of its size"),
        ({"patterns": [rule("/x", (X,))] * 257}, "patterns"),
        ({"exclude": ["/**"]}, "excludes everything"),
        ({"exclude": ["**"]}, "excludes everything"),
        ({"exclude": ["/x"] * 257}, "exclude"),
        ({"keys": {"k": "AAEC"}}, "not a public key"),
        ({"keys": {"k": "A"}}, "not base64"),
        ({"violations": "ignore"}, "violations"),
        ({"more": 1}, "more"),
    ],
)
def test_malformed(changed, message):
    with pytest.raises(MalformedError, match=message):
        parse_ima_policy(policy(**changed))


def test_keys_of_another_kind():
    with pytest.raises(MalformedError, match="expected an RSA or ECC key"):
        parse_ima_policy(policy(keys={"k": spki(ed25519.Ed25519PrivateKey.generate())}))
    with pytest.raises(MalformedError, match="canonical"):
        parse_ima_policy(policy() + b"\n")


@pytest.mark.parametrize("boot", ["shim-grub-ms-sb", "uki-sb", "uki-sb-cmdline2"])
def test_recorded(boot):
    """A policy made of one boot's list allows exactly it; one file less, and the list shows it."""
    list_ = (BOOTS / boot / "binary_runtime_measurements").read_bytes()
    pcrs = RECORDED[boot][1]["sha256"]
    measured = verify_list(list_, position=start_of_list("sha256"), value=pcrs[10])
    [(template, indices)] = measured.runs()
    digests: dict[str, list[str]] = {}
    for item in (measured.entry(index, template) for index in indices[1:]):
        allowed = digests.setdefault(item.path.decode(), [])
        if (digest := f"{item.algorithm}:{item.digest.hex()}") not in allowed:
            allowed.append(digest)
    aggregates = boot_aggregates("sha256", pcrs)
    good = appraise_ima(measured, policy=parse_ima_policy(policy(digests=digests)), aggregates=aggregates)
    assert (good.count, good.entries) == (0, len(measured))
    del digests["/usr/bin/seq"]
    found = appraise_ima(measured, policy=parse_ima_policy(policy(digests=digests)), aggregates=aggregates)
    assert {item.path for item in found.findings} == {"/usr/bin/seq"}
