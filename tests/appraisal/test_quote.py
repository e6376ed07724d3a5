"""Appraisal: an approved state or findings; values and quote must belong together."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from attestd.appraisal.logs import LogAppraisal
from attestd.appraisal.quote import Appraisal, appraise_quote
from attestd.errors import MalformedError, UsageError
from attestd.governance.platform import PlatformPolicy
from attestd.strict import format_time
from attestd.tcg.pcr import PcrSelection, composite
from tests.world import CLOCK, NOW, SELECTION, World


@pytest.fixture
def world() -> World:
    return World()


def appraise(world: World, *, policy: PlatformPolicy | None = None, **changes: Any) -> Appraisal:
    arguments: dict[str, Any] = {
        "quote": world.quote(),
        "policy": policy or world.trust().platforms["local"],
        "reference": {},
        "values": world.values,
        "epoch": 0,
        "at": NOW,
        **changes,
    }
    return appraise_quote(arguments.pop("quote"), **arguments)


def test_an_approved_state(world: World) -> None:
    appraisal = appraise(world)
    assert appraisal.approval is appraisal.policy.approvals[0]
    assert appraisal.findings == ()
    assert (appraisal.pcr_digest, appraisal.clock, appraisal.at) == (world.pcr_digest, CLOCK, NOW)


def test_when_it_was_taken_is_the_callers_word(world: World) -> None:
    assert appraise(world, at=NOW - timedelta(days=3)).at == NOW - timedelta(days=3)


def test_an_unapproved_state_names_the_pcrs_that_differ(world: World) -> None:
    policy, reference = world.trust().platforms["local"], dict(world.values)
    world.values[4] = bytes(32)
    world.values[7] = b"\1" * 32
    appraisal = appraise(world, policy=policy, reference=reference)
    assert appraisal.approval is None
    assert appraisal.findings == (
        f"PCR 4 (sha256): expected {reference[4].hex()}, found {bytes(32).hex()}",
        f"PCR 7 (sha256): expected {reference[7].hex()}, found {'01' * 32}",
    )


@pytest.mark.parametrize("known", [(), (0,), (23,)])
def test_an_unapproved_state_without_a_reference_has_a_finding_too(
    world: World, known: tuple[int, ...]
) -> None:
    """Nothing empty means pass: no finding would look like no fault."""
    policy = world.trust().platforms["local"]
    world.values[4] = bytes(32)
    reference = {pcr: world.values.get(pcr, bytes(32)) for pcr in known}
    (finding,) = appraise(world, policy=policy, reference=reference).findings
    assert world.pcr_digest.hex() in finding
    assert "does not approve at epoch 0" in finding


@pytest.mark.parametrize(("epoch", "approved"), [(0, True), (1, True), (2, False)])
def test_the_epoch_of_the_approval(world: World, epoch: int, approved: bool) -> None:
    appraisal = appraise(world, epoch=epoch, reference=world.values)
    assert (appraisal.approval is not None) is approved
    assert bool(appraisal.findings) is not approved


def test_a_quote_over_other_pcrs(world: World) -> None:
    """Fewer PCRs could hide the one that differs."""
    policy = world.trust().platforms["local"]
    for selection in (PcrSelection("sha256", (*SELECTION.pcrs, 23)), PcrSelection("sha1", SELECTION.pcrs)):
        with pytest.raises(UsageError, match="the quote is over"):
            appraise(world, policy=replace(policy, selection=selection))


def test_a_quote_over_more_pcrs(world: World) -> None:
    """Rules look at more than what is approved: the state is that of the policy's PCRs, out of one quote."""
    policy, few = world.trust().platforms["local"], SELECTION.pcrs[:-1]
    narrow = replace(policy, selection=PcrSelection("sha256", few), quoted=SELECTION)
    appraisal = appraise(world, policy=narrow)
    assert appraisal.pcr_digest == composite(narrow.selection, {pcr: world.values[pcr] for pcr in few})
    assert appraisal.approval is None, "another selection's approval is none"
    state = replace(narrow.approvals[0], pcr_digest=appraisal.pcr_digest)
    assert appraise(world, policy=replace(narrow, approvals=(state,))).approval is state


def test_a_window_that_closed(world: World) -> None:
    policy = replace(world.trust().platforms["local"], windows={world.pcr_digest: NOW})
    assert appraise(world, policy=policy, at=NOW - timedelta(seconds=1)).approval is not None
    appraisal = appraise(world, policy=policy)
    assert appraisal.approval is None
    assert f"approved until {format_time(NOW)}" in appraisal.findings[0]


def test_all_findings(world: World) -> None:
    boot, ima = LogAppraisal.of(3, ["a"]), LogAppraisal.of(2, ["b", "c"])
    assert appraise(world).all_findings == ()
    assert replace(appraise(world), boot=boot, ima=ima).all_findings == ("a", "b", "c")


def test_a_quote_over_two_banks(world: World) -> None:
    two = msgspec.structs.replace(world.quote(), selections=(SELECTION, PcrSelection("sha1", (0,))))
    with pytest.raises(UsageError, match="the quote is over"):
        appraise(world, quote=two)


def test_values_that_were_not_quoted(world: World) -> None:
    """What people read must be what the TPM signed."""
    shown = {**world.values, 4: bytes(32)}
    assert composite(SELECTION, shown) != world.pcr_digest
    with pytest.raises(UsageError, match="not those that were quoted"):
        appraise(world, values=shown)


@pytest.mark.parametrize("values", [{}, {0: bytes(32)}, "too many", "too short"])
def test_values_that_are_none(world: World, values: Any) -> None:
    changed = {
        "too many": {**world.values, 9: bytes(32)},
        "too short": {**world.values, 4: bytes(20)},
    }.get(values if isinstance(values, str) else "", values)
    with pytest.raises(MalformedError):
        appraise(world, values=changed)
