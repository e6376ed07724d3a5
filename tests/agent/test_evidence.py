"""The agent's own evidence, from a real TPM."""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestd.agent.boots import Boots
from attestd.agent.evidence import EvidenceKeeper
from attestd.agent.keystore import load_keys
from attestd.agent.log_appraisal import LogAppraiser
from attestd.agent.measured_logs import BootReader
from attestd.agent.tpm_port import RawEvidence, TpmPort
from attestd.appraisal import state
from attestd.appraisal.logs import LogAppraisal
from attestd.appraisal.quote import Appraisal
from attestd.appraisal.state import appraise_state
from attestd.codes import Code, Denial
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.paths import load_configuration
from attestd.tcg.attest import parse_attest
from attestd.tcg.pcr import PcrSelection
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from attestd.tpm.owner import TpmOwner
from tests.host import Host
from tests.measured import UKI, MeasuredHost, boot_rules, ima_policy
from tests.tcg.ima.build import data, ima_list

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Meddled(TpmPort):
    """A port where something happens between a quote and the reading of PCRs, or in place of it."""

    meddle: Callable[[RawEvidence], RawEvidence] = staticmethod(lambda raw: raw)
    taken = 0

    def evidence(self, selection: PcrSelection) -> "Future[RawEvidence]":
        self.taken += 1
        raw = super().evidence(selection).result()
        future: Future[RawEvidence] = Future()
        future.set_result(self.meddle(raw))
        return future


class Bench:
    def __init__(self, host: Host) -> None:
        self.embedded = EmbeddedTpm(host.layout.tpm)
        self.embedded.start()
        self.host = host
        self.trust: Trust = host.trust
        self.policy: PlatformPolicy = self.trust.platforms["local"]
        self.owner = TpmOwner(self.open)
        self.port = Meddled(self.owner, host=host.id, selection=self.policy.selection, deadline_s=10)
        self.time = NOW
        paths = load_configuration(host.layout.configuration, {}).log_paths()
        self.logs = LogAppraiser(BootReader(paths), Boots(host.layout.boots), log=logging.getLogger("test"))
        self.keeper = EvidenceKeeper(self.port, self.logs, now=lambda: self.time)

    def open(self) -> Tpm:
        tpm = self.embedded.open()
        tpm.load_keys(*load_keys(self.host.layout.keys))
        return tpm

    def extend(self, pcr: int = 7) -> None:
        digests = {"sha1": bytes(20), "sha256": bytes(32), "sha384": bytes(48)}
        self.port.other(lambda tpm: tpm.extend(pcr, digests)).result()

    async def ensure(self, max_age_s: int = 60) -> Appraisal | Denial:
        await self.keeper.ensure(self.policy, trust=self.trust, max_age_s=max_age_s)
        return self.keeper.latest()["local"]

    async def appraisal(self) -> Appraisal:
        found = await self.ensure()
        assert isinstance(found, Appraisal), found
        return found


@contextmanager
def on(host: Host) -> Iterator[Bench]:
    bench = Bench(host)
    try:
        yield bench
    finally:
        bench.logs.close()
        bench.owner.close()
        bench.embedded.kill()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Host.create() as host, on(host) as bench:
        yield bench


@pytest.fixture
def measured() -> Iterator[Bench]:
    """A recorded boot under boot rules and an IMA policy."""
    with MeasuredHost.create() as host:
        assert isinstance(host, MeasuredHost)
        host.configure()
        host.reboot(UKI)
        host.rules(boot=boot_rules(secure_boot="required"), ima=ima_policy("/bin/a"))
        with on(host) as bench:
            yield bench


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_taken_once_and_again_after_half_its_age(bench: Bench) -> None:
    async def test() -> None:
        found = await bench.appraisal()
        assert found.approval is not None
        assert found.at == NOW
        for seconds, taken in ((0, 1), (29, 1), (31, 2), (31, 2), (20, 3)):  # the last: time went back
            bench.time = NOW + timedelta(seconds=seconds)
            await bench.ensure()
            assert bench.port.taken == taken, seconds

    run(test())


def test_many_who_need_it_at_once_share_it(bench: Bench) -> None:
    async def test() -> None:
        await asyncio.gather(*(bench.ensure() for _ in range(10)))
        assert bench.port.taken == 1

    run(test())


def test_changed_pcr_is_no_approved_state_and_says_which(bench: Bench) -> None:
    async def test() -> None:
        bench.extend(7)
        found = await bench.appraisal()
        assert found.approval is None
        assert any("PCR 7" in finding for finding in found.findings)

    run(test())


def test_pcr_that_changes_between_quote_and_reading_is_taken_again(bench: Bench) -> None:
    async def test() -> None:
        def once(raw: RawEvidence) -> RawEvidence:
            values = dict(raw.values)
            if bench.port.taken == 1:
                values[7] = bytes(32)
                values[0] = bytes(31) + b"\1"
            return RawEvidence(raw.challenge, raw.attest, raw.signature, values)

        bench.port.meddle = once  # type: ignore[method-assign]
        assert (await bench.appraisal()).approval is not None
        assert bench.port.taken == 2

    run(test())


def test_pcr_that_never_rests_is_evidence_invalid(bench: Bench) -> None:
    async def test() -> None:
        bench.port.meddle = lambda raw: RawEvidence(  # type: ignore[method-assign]
            raw.challenge, raw.attest, raw.signature, dict.fromkeys(raw.values, b"\1" * 32)
        )
        found = await bench.ensure()
        assert isinstance(found, Denial)
        assert found.code is Code.EVIDENCE_INVALID
        assert bench.port.taken == 4

    run(test())


@pytest.mark.parametrize("what", ["challenge", "signature", "attest"])
def test_quote_that_does_not_verify(bench: Bench, what: str) -> None:
    async def test() -> None:
        def broken(raw: RawEvidence) -> RawEvidence:
            members = {name: getattr(raw, name) for name in ("challenge", "attest", "signature", "values")}
            data = members[what]
            return RawEvidence(**{**members, what: data[:-1] + bytes([data[-1] ^ 1])})

        bench.port.meddle = broken  # type: ignore[method-assign]
        found = await bench.ensure()
        assert isinstance(found, Denial)
        assert found.code is Code.EVIDENCE_INVALID

    run(test())


def test_tpm_clock_that_goes_back_is_evidence_stale(bench: Bench) -> None:
    async def test() -> None:
        first: list[RawEvidence] = []

        def replayed(raw: RawEvidence) -> RawEvidence:
            first.append(raw)
            return first[0] if len(first) == 3 else raw

        bench.port.meddle = replayed  # type: ignore[method-assign]
        await bench.appraisal()
        bench.time += timedelta(seconds=40)
        await bench.appraisal()
        bench.time += timedelta(seconds=40)
        found = await bench.ensure()
        assert isinstance(found, Denial)
        assert found.code is Code.EVIDENCE_STALE

    run(test())


def test_without_a_tpm(bench: Bench) -> None:
    async def test() -> None:
        bench.owner.close()
        found = await bench.ensure()
        assert isinstance(found, Denial)
        assert found.code is Code.TPM_UNAVAILABLE

    run(test())


def test_host_without_a_record(bench: Bench) -> None:
    async def test() -> None:
        bench.port.host = "ab" * 32
        found = await bench.ensure()
        assert isinstance(found, Denial)
        assert found.code is Code.GOVERNANCE_MISMATCH

    run(test())


def test_checkpoints_quote_renews_what_it_confirms(bench: Bench) -> None:
    async def test() -> None:
        await bench.appraisal()
        bench.time += timedelta(seconds=50)
        attest = bench.port.quote(bytes(32)).attest
        bench.keeper.sealed(parse_attest(attest))
        assert (await bench.appraisal()).at == bench.time
        assert bench.port.taken == 1

    run(test())


def test_checkpoints_quote_drops_what_it_contradicts(bench: Bench) -> None:
    async def test() -> None:
        await bench.appraisal()
        bench.extend(7)
        bench.keeper.sealed(parse_attest(bench.port.quote(bytes(32)).attest))
        assert bench.keeper.latest() == {}
        assert (await bench.appraisal()).approval is None

    run(test())


def test_quote_of_other_pcrs_says_nothing(bench: Bench) -> None:
    async def test() -> None:
        found = await bench.appraisal()
        bench.extend(23)
        bench.time += timedelta(seconds=10)
        other = PcrSelection("sha256", (23,))
        attest = bench.port.other(lambda tpm: tpm.quote(other, bytes(32))[0]).result()
        bench.keeper.sealed(parse_attest(attest))
        assert await bench.appraisal() is found

    run(test())


def execute(bench: Bench, count: int = 1, content: bytes = b"x") -> None:
    """As the kernel measures a file: into the list, then into the TPM."""
    assert isinstance(bench.host, MeasuredHost)
    item = data(b"/bin/a", content)
    for _ in range(count):
        with bench.host.ima_list.open("ab") as file:
            file.write(ima_list(item))
        digests = {bank: hashlib.new(bank, item).digest() for bank in ("sha1", "sha256", "sha384")}
        bench.port.other(lambda tpm, digests=digests: tpm.extend(10, digests)).result()  # type: ignore[misc]


def between(bench: Bench, count: int) -> Callable[[RawEvidence], RawEvidence]:
    """Files are executed between the quote and the reading of the PCRs."""

    def meddle(raw: RawEvidence) -> RawEvidence:
        execute(bench, count)
        values = bench.port.other(lambda tpm: tpm.read_pcrs(bench.policy.quoted)).result()
        return RawEvidence(raw.challenge, raw.attest, raw.signature, values)

    return meddle


def test_files_that_are_executed_between_quote_and_reading(measured: Bench) -> None:
    """On a busy host that is always so: what PCR 10 was is found in the list, and one quote is enough."""

    async def test() -> None:
        execute(measured, 3)
        for count in (1, 0, 7):
            measured.port.meddle = between(measured, count)  # type: ignore[method-assign]
            measured.time += timedelta(seconds=31)
            taken = measured.port.taken
            found = await measured.ensure()
            assert isinstance(found, Appraisal), found
            assert measured.port.taken == taken + 1
            assert found.boot is not None
            assert found.ima is not None
            assert (found.boot.count, found.ima.count) == (0, 0)
        assert found.ima.looked_at == 11

    run(test())


def test_an_event_that_nothing_lists_between_quote_and_reading(measured: Bench) -> None:
    """The quote is of before; the next one shows it."""

    async def test() -> None:
        def meddle(raw: RawEvidence) -> RawEvidence:
            measured.extend(10)
            values = measured.port.other(lambda tpm: tpm.read_pcrs(measured.policy.quoted)).result()
            return RawEvidence(raw.challenge, raw.attest, raw.signature, values)

        measured.port.meddle = meddle  # type: ignore[method-assign]
        found = await measured.ensure()
        assert isinstance(found, Appraisal)
        assert found.ima is not None
        assert found.ima.count == 0
        measured.time += timedelta(seconds=31)
        found = await measured.ensure()
        assert isinstance(found, Denial), "each quote shows what the list does not, and none stands still"
        assert "changed during each of 4 quotes" in found.sentence
        measured.port.meddle = lambda raw: raw  # type: ignore[method-assign]
        found = await measured.ensure()
        assert isinstance(found, Appraisal)
        assert found.ima is not None
        assert "does not tell" in found.ima.findings[0]

    run(test())


def test_a_checkpoint_renews_only_what_it_shows(measured: Bench) -> None:
    """Its quote is over the approvals' PCRs: of PCR 10 it says nothing, so evidence with it ages on."""

    async def test() -> None:
        execute(measured)
        before = await measured.ensure()
        assert isinstance(before, Appraisal)
        measured.time += timedelta(seconds=20)
        measured.port.expect(measured.policy, before.approval)
        quote = parse_attest(measured.port.quote(bytes(32)).attest)
        measured.keeper.sealed(quote)
        after = measured.keeper.latest()["local"]
        assert isinstance(after, Appraisal)
        assert after.at == before.at
        measured.extend(7)
        measured.keeper.sealed(parse_attest(measured.port.quote(bytes(32)).attest))
        assert "local" not in measured.keeper.latest()

    run(test())


def test_appraised_once(measured: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot does not change: rules are evaluated again when values, log or policy do."""
    calls = 0

    def counted(*arguments: Any, **keywords: Any) -> LogAppraisal:
        nonlocal calls
        calls += 1
        return appraise_state(*arguments, **keywords)

    monkeypatch.setattr(state, "appraise_state", counted)

    async def test() -> None:
        for _ in range(4):
            measured.time += timedelta(seconds=31)
            execute(measured)
            assert isinstance(await measured.ensure(), Appraisal)
        assert calls == 1
        measured.extend(7)
        measured.time += timedelta(seconds=31)
        found = await measured.ensure()
        assert isinstance(found, Appraisal)
        assert found.boot is not None
        assert calls == 2

    run(test())


def test_a_boot_that_cannot_be_kept_denies_nothing(measured: Bench) -> None:
    async def test() -> None:
        measured.host.layout.boots.write_bytes(b"a file")
        found = await measured.ensure()
        assert isinstance(found, Appraisal)

    run(test())


def test_ima_policies_that_are_no_longer_in_force_are_let_go(measured: Bench) -> None:
    async def test() -> None:
        host = measured.host
        assert isinstance(host, MeasuredHost)
        execute(measured)
        await measured.ensure()
        (old,) = measured.logs._watches.values()
        host.rules(ima=ima_policy("/bin/b"))
        measured.trust = host.trust
        measured.policy = measured.trust.platforms["local"]
        found = await measured.ensure()
        assert isinstance(found, Appraisal)
        assert found.ima is not None
        assert (found.ima.looked_at, found.ima.count) == (1, 1), "another policy, from the list's start"
        assert old not in measured.logs._watches.values()

    run(test())


def _replace_list(bench: Bench, content: bytes) -> None:
    assert isinstance(bench.host, MeasuredHost)
    other = bench.host.ima_list.with_suffix(".new")
    other.write_bytes(content)
    other.rename(bench.host.ima_list)


def test_a_finding_does_not_go_with_a_clean_list_in_the_place_of_the_true_one(measured: Bench) -> None:
    """The quote is fresh, but it is not this list's: nothing is allowed by a list that no quote proved."""

    async def test() -> None:
        execute(measured)
        await measured.ensure()
        execute(measured, content=b"evil")
        found = await measured.ensure()
        assert isinstance(found, Appraisal)
        assert found.ima is not None
        assert found.ima.count == 1
        _replace_list(measured, ima_list(data(b"/bin/a", b"x")))
        for _ in range(2):
            found = await measured.ensure()
            assert isinstance(found, Appraisal)
            assert found.ima is not None
            assert "does not tell" in found.ima.findings[0]

    run(test())


def test_a_list_that_nobody_can_read_at_the_quote_is_not_believed_after_it(measured: Bench) -> None:
    async def test() -> None:
        assert isinstance(measured.host, MeasuredHost)
        execute(measured, content=b"evil")
        measured.host.ima_list.write_bytes(b"no list")
        assert isinstance(await measured.ensure(), Denial)
        _replace_list(measured, ima_list(data(b"/bin/a", b"x")))
        await measured.keeper.look(measured.policy)
        found = measured.keeper.latest()["local"]
        assert isinstance(found, Denial)
        assert found.code is Code.EVIDENCE_INVALID
        found = await measured.ensure()
        assert isinstance(found, Appraisal)
        assert found.ima is not None
        assert "does not tell" in found.ima.findings[0]

    run(test())
