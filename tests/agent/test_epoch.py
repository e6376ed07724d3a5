"""The TPM's epoch follows governance; where it cannot, that is said, and tried again later and later."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from attestd.agent.epoch import FIRST_PAUSE_S, LOOK_S, MAX_PAUSE_S, EpochKeeper, Moved
from attestd.agent.tpm_port import TpmPort
from attestd.governance.trust import Trust
from attestd.tcg.nv import EPOCH_INDEX
from attestd.tcg.public import authority_public
from attestd.tpm.device import Tpm
from attestd.tpm.owner import TpmOwner
from tests.world import SELECTION, EcKey, World, p256, sign

LOG = logging.getLogger("attestd.tests")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A TPM whose epoch index is the world's, at epoch 1."""

    def __init__(self, tcti: str) -> None:
        self.world, self.clock = World(), Clock()
        self.owner = TpmOwner(lambda: Tpm(tcti))
        self.port = TpmPort(self.owner, host=self.world.host.id, selection=SELECTION, deadline_s=5.0)
        self.define(self.world.epoch_key)
        self.keeper = EpochKeeper(self.port, log=LOG, monotonic=self.clock)

    def define(self, key: EcKey) -> None:
        public = authority_public(key.public_key())

        def run(tpm: Tpm) -> None:
            tpm.define_epoch(public)
            tpm.init_epoch(1, authority_public=public, sign=lambda message: sign(key, message))

        self.port.other(run).result()

    def undefine(self) -> None:
        self.port.other(lambda tpm: tpm.undefine(EPOCH_INDEX)).result()

    def trust(self, epoch: int, *, is_signed: bool = True) -> Trust:
        self.world.revocations |= {"epoch": epoch, "bump": self.world.bump(epoch) if is_signed else None}
        return self.world.trust()

    def follow(self, trust: Trust, *, at_once: bool = False) -> Moved | None:
        return asyncio.run(self.keeper.follow(trust, at_once=at_once))

    def epoch(self) -> int:
        return self.port.other(lambda tpm: tpm.read_epoch()).result()


@pytest.fixture
def bench(swtpm_tcti: str) -> Iterator[Bench]:
    bench = Bench(swtpm_tcti)
    yield bench
    bench.owner.close()


def test_it_follows(bench: Bench) -> None:
    """From one epoch to any later one; then the TPM is left alone."""
    assert bench.follow(bench.trust(0, is_signed=False)) is None, "what a new TPM begins with is later"
    assert bench.keeper.problem is None
    trust = bench.trust(2)
    assert bench.follow(trust) == Moved(1, 2, trust.version)
    assert bench.keeper.describe() == {"problem": None, "tpm": 2}
    assert bench.follow(trust) is None
    moved = bench.follow(bench.trust(7))
    assert moved is not None
    assert moved.body() == {"from": 2, "governance": trust.version + 1, "to": 7}
    assert bench.epoch() == 7


def test_it_looks_again(bench: Bench) -> None:
    """A TPM whose state was restored from a copy is moved once more; that is no news for the log."""
    trust = bench.trust(3)
    bench.follow(trust)
    bench.undefine()
    bench.define(bench.world.epoch_key)
    assert (bench.follow(trust), bench.epoch()) == (None, 1)
    bench.clock.now += LOOK_S
    assert (bench.follow(trust), bench.epoch()) == (None, 3)


def test_somebody_else_moved_it(bench: Bench) -> None:
    """Between two looks, or by a command whose answer came too late: the log is told all the same."""
    bench.follow(bench.trust(1, is_signed=False))
    bench.keeper.epoch = 1
    trust = bench.trust(4)
    assert asyncio.run(EpochKeeper(bench.port, log=LOG).follow(trust)) == Moved(1, 4, trust.version)
    assert bench.follow(trust) == Moved(1, 4, trust.version)


@pytest.mark.parametrize(
    ("epoch", "signed", "words"),
    [(2, False, "software alone refuses"), (1, True, "governance is older than what the TPM was told")],
)
def test_it_cannot(bench: Bench, epoch: int, signed: bool, words: str) -> None:
    if epoch == 1:
        bench.follow(bench.trust(5))
    assert bench.follow(bench.trust(epoch, is_signed=signed)) is None
    assert bench.keeper.problem is not None
    assert words in bench.keeper.problem


def test_another_authoritys_index(bench: Bench) -> None:
    """The TPM refuses; it is tried again after longer and longer pauses, at once when somebody asks."""
    bench.undefine()
    trust = bench.trust(2)
    bench.follow(trust)
    assert bench.keeper.problem is not None
    assert "found no index" in bench.keeper.problem
    bench.define(p256("another epoch authority"))
    pauses, tried = [], bench.keeper
    for _ in range(12):
        before = tried._next
        bench.clock.now = before
        assert bench.follow(trust) is None
        pauses.append(tried._next - bench.clock.now)
        assert "is not that of the epoch authority" in str(tried.problem)
    assert pauses == [min(FIRST_PAUSE_S * 2**n, MAX_PAUSE_S) for n in range(1, 13)]
    bench.undefine()
    bench.define(bench.world.epoch_key)
    assert bench.follow(trust) is None, "not yet"
    assert bench.follow(trust, at_once=True) == Moved(1, 2, trust.version)
    assert tried.problem is None
