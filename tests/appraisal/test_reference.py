"""Reference values from recorded boots: what is derived allows that boot, and no other."""

import msgspec
import pytest

from attestd.appraisal.boot import appraise_boot
from attestd.appraisal.boot_rules import BootRules, parse_boot_rules
from attestd.appraisal.ima import appraise_ima, parse_ima_policy
from attestd.appraisal.reference import derive_boot_rules, derive_ima_policy, join_boot_rules
from attestd.errors import MalformedError
from attestd.strict import canonical
from attestd.tcg.eventlog.parse import UntrustedEventLog, parse_event_log
from attestd.tcg.eventlog.replay import initial_value, replay, verify_events
from attestd.tcg.ima.replay import replay_list
from tests.tcg.eventlog.build import BOOTS, RECORDED, event, log, sha1_event
from tests.tcg.ima.build import data, entry, ima_list

LIMIT = 1 << 20
UKI, CHANGED, GRUB = "uki-sb", "uki-sb-cmdline2", "shim-grub-ms-sb"


def parsed(name: str) -> UntrustedEventLog:
    return parse_event_log(RECORDED[name][0])


def derived(name: str) -> BootRules:
    line = (BOOTS / name / "cmdline").read_text().rstrip()
    rules, notes = derive_boot_rules(parsed(name), command_lines=[line])
    assert notes == ()
    return rules


def findings(name: str, rules: BootRules) -> set[str]:
    values = replay(parsed(name), "sha256")
    for pcr in range(16):
        values.setdefault(pcr, initial_value("sha256", pcr))
    verified = verify_events(parsed(name), bank="sha256", values=values)
    return {finding.rule for finding in appraise_boot(verified, rules=rules).findings}


@pytest.mark.parametrize("name", [UKI, CHANGED, GRUB])
def test_rules_allow_their_boot_and_no_other(name):
    rules = derived(name)
    assert parse_boot_rules(canonical(rules)) == rules
    assert findings(name, rules) == set()
    assert (rules.secure_boot, rules.separators) == ("required", "required")
    assert rules.certificates
    assert (rules.sections is None) == (name == GRUB)
    for other in {UKI, CHANGED, GRUB} - {name}:
        assert {"images", "command_lines"} <= findings(other, rules)


def test_the_command_line_by_grub_is_the_kernels():
    assert derived(GRUB).command_lines == [(BOOTS / GRUB / "cmdline").read_text().rstrip()]


def test_joined_rules_allow_both_boots():
    both = join_boot_rules(derived(UKI), derived(CHANGED))
    assert findings(UKI, both) == findings(CHANGED, both) == set()
    assert findings(GRUB, both) >= {"images", "certificates"}
    assert len(both.command_lines) == len(both.images) == 2
    assert both.digests == derived(UKI).digests


def test_rules_that_only_one_boot_keeps_are_left_out():
    both = join_boot_rules(derived(UKI), derived(GRUB))
    assert both.sections is None
    assert set(both.digests) == {"0", "9", "14"}
    unchecked = msgspec.structs.replace(derived(UKI), secure_boot="unchecked", images=None)
    assert join_boot_rules(derived(UKI), unchecked).secure_boot == "unchecked"
    assert join_boot_rules(unchecked, derived(UKI)).images is None
    with pytest.raises(MalformedError, match="banks sha256 and sha384"):
        join_boot_rules(derived(UKI), msgspec.structs.replace(derived(UKI), bank="sha384"))
    nothing = dict.fromkeys(("certificates", "images", "command_lines", "sections", "digests"))
    none = msgspec.structs.replace(derived(UKI), secure_boot="unchecked", separators="unchecked", **nothing)
    with pytest.raises(MalformedError, match="nothing is evaluated"):
        join_boot_rules(derived(UKI), none)


def test_what_a_boot_does_not_keep_is_left_out():
    rules, notes = derive_boot_rules(parsed("ubuntu-1804-amd-sev"), command_lines=[])
    assert rules.secure_boot == "unchecked"
    assert any(note.startswith("secure_boot: PCR 7") for note in notes)
    assert rules.images


def test_what_is_never_a_reference():
    with pytest.raises(MalformedError, match="SHA-1 digests alone"):
        derive_boot_rules(parse_event_log(sha1_event(0, 4, bytes(4))), command_lines=[])
    with pytest.raises(MalformedError, match="keeps no rule"):
        derive_boot_rules(parse_event_log(log()), command_lines=[])
    # Data that its type says was hashed, and that was not: a note, for no rule can be left out for it.
    wrong = parse_event_log(log(event(0, 4, bytes(4), b"other"), event(4, 5, b"x")))
    _, notes = derive_boot_rules(wrong, command_lines=[])
    assert any(note.startswith("data: ") for note in notes)


@pytest.mark.parametrize("name", [UKI, GRUB])
def test_an_ima_policy_allows_its_list(name):
    list_ = (BOOTS / name / "binary_runtime_measurements").read_bytes()
    policy, notes = derive_ima_policy(list_, exclude=["/tmp/**"], max_bytes=LIMIT)
    measured = replay_list(list_, bank="sha1", max_bytes=LIMIT)
    assert notes == ()
    found = parse_ima_policy(policy)
    assert appraise_ima(measured, policy=found, aggregates=None).findings == ()
    assert [pattern.text for pattern in found.excluded] == ["/tmp/**"]
    other = ima_list(data(b"boot_aggregate"), data(b"/bin/other"))
    assert len(appraise_ima(replay_list(other, bank="sha1"), policy=found, aggregates=None).findings) == 1


def test_what_cannot_be_allowed_is_told():
    list_ = (
        entry(data(b"boot_aggregate"))
        + entry(data(b"/bin/x"))
        + entry(data(b"/tmp/y"))
        + entry(data(b"/var/log/z"), violation=True)
        + entry(data(b"/x", algorithm=b"verity:sha256"), b"ima-ngv2")
        + entry(b"nonsense", b"unknown")
    )
    policy, notes = derive_ima_policy(list_, exclude=["/tmp/*"], max_bytes=LIMIT)
    found = parse_ima_policy(policy)
    assert set(found.digests) == {b"/bin/x"}
    assert [pattern.text for pattern in found.excluded] == ["/tmp/*", "/var/log/z"]
    assert found.excuses_violations
    assert any(note == "/var/log/z: written while it was measured: it is excluded" for note in notes)
    assert sum("unknown template" in note for note in notes) == 2
    assert any("/x" in note and "no rule covers this path" in note for note in notes)
    with pytest.raises(MalformedError, match="names no digests"):
        derive_ima_policy(entry(data(b"boot_aggregate")), exclude=[], max_bytes=LIMIT)


@pytest.mark.parametrize("name", [b"/usr/**", b"/usr/bin/*", b"/home/u/a**b"])
def test_a_name_that_would_be_a_pattern_excludes_nothing(name):
    """Whoever may create a file, and write it while it is executed, chooses it."""
    list_ = entry(data(b"boot_aggregate")) + entry(data(b"/bin/x")) + entry(data(name), violation=True)
    policy, notes = derive_ima_policy(list_, exclude=[], max_bytes=LIMIT)
    found = parse_ima_policy(policy)
    assert found.excluded == ()
    assert not found.excludes(b"/usr/bin/evil")
    assert any("it is not excluded" in note for note in notes)
