"""Targets: the files that the next boot will measure, and logs of boots to predict from."""

import json
from base64 import b64encode
from typing import Any

from attestd.agent.state_file import parse_state
from attestd.appraisal.boot import appraise_boot
from attestd.appraisal.predict import PREDICTED, Change, Running, predict
from attestd.appraisal.reference import derive_boot_rules, join_boot_rules
from attestd.appraisal.selection import derive_pcrs
from attestd.errors import AttestdError, MalformedError, UsageError, VerificationError
from attestd.strict import canonical
from attestd.tcg.eventlog.meaning import read_events
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.eventlog.replay import initial_value, replay, verify_events
from attestd.tcg.pe import parse_pe
from attestd.tcg.uki import parse_uki
from tests.appraisal.predict.build import SIGNED, Grub, image, keys, options, section, started
from tests.fuzz import valid
from tests.fuzz.formats import TRUST, WORLD
from tests.fuzz.target import target
from tests.tcg.build_pe import SIGNED as BY_SBSIGN
from tests.tcg.build_pe import STUB, pe, uki
from tests.tcg.eventlog.build import RECORDED, event, log

UKI = pe({".sdmagic": STUB, ".linux": image(b"kernel"), ".cmdline": b"quiet"}, signatures=(SIGNED,))
CHANGES = (
    Change(uki=UKI),
    Change(kernel=image(b"kernel", SIGNED), command_line="single", grub_config=b"linux /vmlinuz-1 single\n"),
    Change(shim=image(b"shim", SIGNED), images={".efi": image(b"grub", SIGNED)}),
    Change(initrd=b"initrd", variables={"db": b"", "dbx": b""}),
)


@target(
    MalformedError,
    seeds=lambda: [
        UKI,
        uki(linux=b"kernel", cmdline=b"quiet"),
        BY_SBSIGN.read_bytes(),
        pe({".text": b"x"}, plus=False, tail=b"more", signatures=(SIGNED,)),
    ],
)
def pe_image(data: bytes) -> None:
    """Whatever parses is hashed: not more bytes than it has, and none twice."""
    parsed = parse_pe(data)
    assert sum(len(part) for part in parsed.hashed) <= len(data)
    assert len(parsed.digest("sha256")) == 32
    assert len(parse_uki(parsed).measured) >= 1
    parsed.certificates()


@target(
    MalformedError,
    VerificationError,
    UsageError,
    seeds=lambda: [
        log(
            *keys(),
            started("a", b"a"),
            *section(".linux", b"k"),
            *section(".cmdline", b"quiet"),
            options("quiet"),
        ),
        log(*keys(), started("g", b"g"), *Grub().events()),
        log(*keys(), started("k", b"k"), event(12, 13, "quiet\0".encode("utf-16-le")), options("quiet")),
        *(data for data, _ in RECORDED.values()),
    ],
)
def log_to_predict_from(data: bytes) -> None:
    """What is predicted has a value or a reason for each PCR."""
    parsed = parse_event_log(data)
    refusals: list[AttestdError] = []
    for change in CHANGES:
        try:
            found = predict(
                parsed, bank=parsed.banks[-1] if parsed.banks else "", change=change, running=Running("quiet")
            )
        except AttestdError as error:
            refusals.append(error)
            continue
        assert {*found.values, *found.unknown} >= set(PREDICTED)
    if len(refusals) == len(CHANGES):
        raise refusals[0]


@target(
    MalformedError,
    VerificationError,
    UsageError,
    seeds=lambda: [RECORDED["uki-sb"][0], *(data for data, _ in RECORDED.values())],
)
def log_to_derive_from(data: bytes) -> None:
    """A boot keeps the rules that are derived from it, and PCRs that are derived hold its command line."""
    parsed = parse_event_log(data)
    rules, notes = derive_boot_rules(parsed, command_lines=["quiet"])
    assert join_boot_rules(rules, rules) == rules
    bank = rules.bank
    replayed = replay(parsed, bank)
    values = {pcr: replayed.get(pcr, initial_value(bank, pcr, locality=parsed.locality)) for pcr in range(16)}
    found = appraise_boot(verify_events(parsed, bank=bank, values=values), rules=rules).findings
    assert all(finding.rule == "data" for finding in found), (found, notes)
    derive_pcrs(read_events(parsed.events, bank=bank))


def _evidence(**members: Any) -> bytes:
    evidence = {
        "v": 1,
        "quote": json.loads(valid.quote_document()),
        "eventlog": b64encode(RECORDED["uki-sb"][0]).decode(),
        "userspace": "",
        "command_line": "quiet",
    }
    return canonical({"evidence": {**evidence, **members}})


@target(
    MalformedError,
    VerificationError,
    seeds=lambda: [
        _evidence(),
        _evidence(eventlog=None, command_line=None),
        valid.quote_document(),
        canonical({"pcrs": {"sha256": {"0": "00" * 32}}}),
        canonical({"pcrs": {"0": {"now": "00" * 32}}, "bank": "sha256"}),
    ],
    is_json=True,
)
def platform_state(data: bytes) -> None:
    """Values that are said to be attested are those that were quoted."""
    found = parse_state(data, trust=TRUST)
    assert not found.attested or found.values == WORLD.values
    if found.boot is not None:
        found.boot.unexplained()
