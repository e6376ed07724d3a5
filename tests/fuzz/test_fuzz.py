"""Every parser of outside input: nothing but its documented errors comes out, within bounded time.

The targets are in `table`; `make fuzz SECONDS=600` runs them for longer. A crash found there is kept in `regressions/`.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.engine import REGRESSIONS, regressions, run_one
from tests.fuzz.mutate import mutate_json
from tests.fuzz.table import TARGETS

ROOT = Path(__file__).parent.parent.parent
SECONDS = 20
PATIENCE_S = 300  # of a machine that has other things to do

each = pytest.mark.parametrize("name", sorted(TARGETS))


@pytest.fixture(autouse=True)
def directory(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets write where they stand."""
    monkeypatch.chdir(short_dir)


@cache
def seeds(name: str) -> list[bytes]:
    """A target's seeds; some hold fresh keys, and Hypothesis wants the same each time."""
    return list(TARGETS[name].seeds())


@each
def test_valid_examples(name: str) -> None:
    """What a target is fuzzed from comes through: else it would stop at the first check of every input."""
    target = TARGETS[name]
    outcomes = [run_one(target, data) for data in seeds(name)]
    assert outcomes[0] is (name not in REFUSE_ALL)
    assert max(map(len, seeds(name))) <= target.max_bytes


# The runner never runs what was not approved, however valid the request's form.
REFUSE_ALL = {"runner-request"}


@each
def test_regressions(name: str) -> None:
    for path in regressions(TARGETS[name]):
        run_one(TARGETS[name], path.read_bytes())


def test_no_stray_regressions() -> None:
    assert {path.name for path in REGRESSIONS.iterdir()} <= set(TARGETS)


@each
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(data=st.data())
def test_properties(name: str, data: st.DataObject) -> None:
    """Hypothesis: any bytes, and valid examples cut, doubled, overwritten, or changed as JSON."""
    target = TARGETS[name]
    good = data.draw(st.sampled_from(seeds(name)))
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    middle = data.draw(st.binary(max_size=20) | st.just(good))
    run_one(target, (good[:start] + middle + good[end:])[: target.max_bytes])
    run_one(target, data.draw(st.binary(max_size=200)))
    if target.is_json:
        seed = data.draw(st.integers(0, 2**32))
        run_one(target, mutate_json(good, target.max_bytes, seed, lambda value, _: value[:start]))


@pytest.mark.timeout(PATIENCE_S)
def test_coverage_guided() -> None:
    """From one seed: whether a change can land is not left to chance. `make fuzz` takes another seed each time."""
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", f"{SECONDS}", "--jobs", "2", "--seed", "1"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S - 10
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
