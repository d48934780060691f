"""Seeded simulation: whatever fails, and in whatever order, what was promised is kept."""

import pytest

from router.store.redis import script_sources
from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.run import first_found, run_seed

SEEDS = 300
FIRST_SEEDS = 170
CHUNK = 10


def _promises_kept(first: int, simulated) -> None:
    wrong = {}
    for seed in range(first, first + CHUNK):
        verdict = run_seed(seed, simulated)
        if verdict.wrong:
            wrong[f"make simulate SEED={seed}"] = verdict.wrong[:3]
    assert not wrong


class TestFirstSeeds:
    """In a class of their own, so that two workers share the work: the other takes all else of this file."""

    @pytest.mark.parametrize("first", range(0, FIRST_SEEDS, CHUNK))
    def test_every_promise_is_kept(self, first, simulated):
        _promises_kept(first, simulated)


@pytest.mark.parametrize("first", range(FIRST_SEEDS, SEEDS, CHUNK))
def test_every_promise_is_kept(first, simulated):
    _promises_kept(first, simulated)


@pytest.mark.parametrize("seed", [3, 83])
def test_a_seed_runs_the_same_every_time(seed, simulated):
    """Else the command that a failing seed prints would not repeat it."""
    first = run_seed(seed, simulated)
    assert run_seed(seed, simulated) == first
    assert run_seed(seed + 1, simulated).trace != first.trace


@pytest.mark.parametrize(
    "name",
    [
        "no write-ahead attempt", "no fence check", "no gate check", "no flag", "removed by position",
        "not placed again",
    ],
)  # fmt: skip
def test_a_broken_guarantee_is_noticed(name, simulated):
    """A simulation that finds nothing when something is broken proves nothing."""
    assert first_found(name, range(SEEDS), simulated) is not None


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_still_breaks_what_the_scripts_say(name):
    """A mutant that no longer fits the scripts would pass for a guarantee that holds."""
    sources = dict(script_sources())
    assert mutated(name, sources) != sources
