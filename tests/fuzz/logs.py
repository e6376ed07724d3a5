"""Targets: logs of what was measured, and the policies that they are held against."""

from collections.abc import Iterable
from typing import Any

from attestd.appraisal.boot import appraise_boot
from attestd.appraisal.boot_rules import BootRules, parse_boot_rules
from attestd.appraisal.ima import ImaPolicy, appraise_ima, parse_ima_policy
from attestd.appraisal.inspect import inspect_ima, inspect_log
from attestd.appraisal.paths import parse_pattern
from attestd.appraisal.state import BootState, appraise_state, state_changes
from attestd.errors import MalformedError, VerificationError
from attestd.strict import canonical
from attestd.tcg.eventlog.diff import diff_events
from attestd.tcg.eventlog.efi import boot_option_name, image_path, parse_signature_lists, parse_variable
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.parse import UntrustedEventLog, parse_event_log
from attestd.tcg.eventlog.replay import initial_value, replay, verify_events
from attestd.tcg.eventlog.userspace import parse_userspace_log, with_events
from attestd.tcg.ima.ascii import binary_from_ascii
from attestd.tcg.ima.replay import replay_list, start_of_list, verify_list
from attestd.tcg.ima.signature import parse_ima_signature
from tests.fuzz.target import recanonical, target
from tests.tcg.eventlog import test_meaning as meanings
from tests.tcg.eventlog.build import BOOTS, RECORDED, event, log, separators, sha1_event, spec_id
from tests.tcg.eventlog.test_userspace import record
from tests.tcg.ima.build import data as template_data
from tests.tcg.ima.build import entry, ima_list, old_entry, pcr10

DIGEST = "ab" * 32
POLICY: dict[str, Any] = {
    "v": 1,
    "digests": {"/bin/x": [f"sha256:{DIGEST}"]},
    "patterns": [{"path": "/usr/**", "digests": [f"sha256:{DIGEST}"], "keys": []}],
    "exclude": ["/tmp/*"],
    "keys": {},
    "violations": "exclude",
}
RULES: dict[str, Any] = {
    "v": 1,
    "bank": "sha256",
    "secure_boot": "required",
    "separators": "required",
    "certificates": [DIGEST],
    "images": [DIGEST],
    "command_lines": ["quiet"],
    "sections": {".linux": [DIGEST]},
    "digests": {"2": [], "9": [DIGEST]},
}
STRICT_POLICY: ImaPolicy = parse_ima_policy(canonical(POLICY))
STRICT_RULES: BootRules = parse_boot_rules(canonical(RULES))
BEFORE = read_events(parse_event_log(RECORDED["uki-sb"][0]).events, bank="sha256")
LIST = (BOOTS / "uki-sb" / "binary_runtime_measurements").read_bytes()
SHORT = ima_list(*replay_list(LIST, bank="sha1").data[:20], template=b"ima-sig")
SIGNED = template_data(b"/usr/x", b"x", b"\3\2\4\0\0\0\0\0\2ab")


def _logs() -> Iterable[bytes]:
    yield RECORDED["uki-sb"][0]
    yield from (data for data, _ in RECORDED.values())
    yield sha1_event(0, 8, b"1") + bytes(20)
    yield log(event(0, 3, b"StartupLocality\0\3"), *separators(("sha1", "sm3")), banks=("sha1", "sm3"))
    yield log(header=spec_id(vendor=b"vendor"))


@target(MalformedError, seeds=_logs)
def event_log(data: bytes) -> None:
    """Whatever parses is read, compared and appraised; and what was changed in a true log does not replay."""
    parsed = parse_event_log(data)
    found = inspect_log(parsed)
    for bank in found.pcrs:
        read_events(parsed.events, bank=bank)
        assert verify_events(parsed, bank=bank, values=found.pcrs[bank] or _untouched(bank)).later == 0
    if "sha256" in found.pcrs:
        diff_events(BEFORE, found.events)
        _appraise(parsed)


def _untouched(bank: str) -> dict[int, bytes]:
    return {16: initial_value(bank, 16)}


def _appraise(parsed: UntrustedEventLog) -> None:
    replayed = replay(parsed, "sha256")
    values = {
        pcr: replayed.get(pcr, initial_value("sha256", pcr, locality=parsed.locality)) for pcr in range(24)
    }
    found = appraise_boot(verify_events(parsed, bank="sha256", values=values), rules=STRICT_RULES)
    assert found.findings, "the rules name a digest that nothing has"


@target(
    seeds=lambda: [
        meanings.variable("db", meanings.signature_list(meanings.X509, meanings.CERTIFICATE)),
        meanings.signature_list(meanings.SHA256, b"a" * 32),
        meanings.image_event(meanings.FILE),
        b"\1\0\0\0\0\0a\0\0\0",
    ]
)
def efi_structures(data: bytes) -> None:
    parse_variable(data)
    parse_signature_lists(data)
    image_path(data)
    boot_option_name(data)
    event_log(log(event(7, 0x80000001, data), event(7, 0x800000E0, data), event(4, 0x80000003, data, b"pe")))


@target(MalformedError, seeds=lambda: [record("sysinit") + record(None, 15)])
def userspace_log(data: bytes) -> None:
    whole = with_events(parse_event_log(log()), parse_userspace_log(data, first=1))
    inspect_log(whole)


def _lists() -> Iterable[bytes]:
    yield SHORT
    yield ima_list(template_data(b"boot_aggregate"), template_data(b"/bin/x"))
    yield entry(SIGNED, b"ima-sig") + entry(template_data(b"/bin/x"), violation=True)
    yield old_entry(b"/init") + entry(template_data(b"kexec", b"x", b"x"), b"ima-buf")
    yield entry(template_data(b"/x", algorithm=b"verity:sha256"), b"ima-ngv2")


@target(MalformedError, seeds=_lists)
def measurement_list(data: bytes) -> None:
    whole = replay_list(data, bank="sha256")
    appraise_ima(whole, policy=STRICT_POLICY, aggregates=None)
    inspect_ima(data, pcrs={}, max_bytes=len(data))
    # In two parts it is the same as in one.
    items = [None if whole.is_violation(n) else item for n, item in enumerate(whole.data[: len(whole) // 2])]
    half = verify_list(data, position=start_of_list("sha256"), value=pcr10("sha256", *items))
    rest = verify_list(data[half.end.offset :], position=half.end, value=whole.end.value)
    assert (rest.end.entries, rest.end.offset) == (len(whole), len(data))
    assert [*half.data, *rest.data] == list(whole.data)


@target(
    MalformedError,
    seeds=lambda: [
        (BOOTS / "uki-sb" / "ascii_runtime_measurements").read_bytes()[:20_000].rpartition(b"\n")[0] + b"\n"
    ],
)
def ima_ascii(data: bytes) -> None:
    replay_list(binary_from_ascii(data), bank="sha1")


@target(MalformedError, seeds=lambda: [b"\3\2\4\0\0\0\0\0\2ab", b"\6\3\5\0\0\0\1\0\1a"])
def ima_signature(data: bytes) -> None:
    assert len(parse_ima_signature(data).signature) == len(data) - 9


@target(MalformedError, seeds=lambda: [canonical(POLICY)], is_json=True)
def ima_policy(data: bytes) -> None:
    policy = parse_ima_policy(recanonical(data))
    appraise_ima(replay_list(SHORT, bank="sha1"), policy=policy, aggregates=None)


@target(MalformedError, seeds=lambda: [canonical(RULES)], is_json=True)
def boot_rules(data: bytes) -> None:
    rules = parse_boot_rules(recanonical(data))
    parsed = parse_event_log(RECORDED["uki-sb"][0])
    verified = verify_events(parsed, bank="sha256", values=replay(parsed, "sha256"))
    if rules.bank == "sha256":
        appraise_boot(verified, rules=rules)


@target(MalformedError, seeds=lambda: [b"/usr/*/b*n/**", b"*a*b*c"])
def path_pattern(data: bytes) -> None:
    pattern = parse_pattern(data.decode("utf-8", "replace"))
    pattern.matches(data)
    literal = "*" not in pattern.text
    assert not literal or pattern.matches(pattern.text.encode().replace(b" ", b"_"))


def _recorded() -> list[bytes]:
    return [RECORDED["uki-sb"][0], log(event(7, 1, b"x"), *separators())]


APPROVED = BootState(
    parse_event_log(RECORDED["uki-sb"][0]), (), "quiet", "sha256", RECORDED["uki-sb"][1]["sha256"]
)


@target(MalformedError, seeds=_recorded)
def state_of_a_boot(data: bytes) -> None:
    """Whatever log there is beside the values that were quoted: findings, and nothing but the true log explains."""
    parsed = parse_event_log(data)
    state = BootState(parsed, (), "quiet", "sha256", APPROVED.values)
    found = appraise_state(state, rules=STRICT_RULES)
    assert found.count, "these rules allow no boot that there is"
    assert state_changes(APPROVED, state, pcrs=range(16)) == ()
    if "sha256" in parsed.banks:
        other = BootState(parsed, (), "quiet", "sha256", _held(parsed))
        state_changes(APPROVED, other, pcrs=other.values)
        appraise_state(
            BootState(parsed, (), "", "sha256", dict.fromkeys(range(24), bytes(32))), rules=STRICT_RULES
        )


def _held(parsed: UntrustedEventLog) -> dict[int, bytes]:
    try:
        return replay(parsed, "sha256")
    except VerificationError:
        return {4: bytes(32)}
