"""The protocol broken on purpose, one guarantee at a time: what the simulation must notice."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from unittest import mock

from router.spool import Spool

Change = tuple[str, str, str]
"""Script (prelude: all of them), what stands there, what shall."""

MUTANTS: Mapping[str, tuple[Change, ...]] = MappingProxyType(
    {
        # The attempt is not there before the I/O: whoever dies in between leaves no trace of having tried.
        "no write-ahead attempt": (
            (
                "prelude",
                "if A and A.o == '' then become_unknown(S, A, 'deadline_passed') else release(S) end",
                "if A and A.o == '' then set_state(S.m, 'queued', '') end release(S)",
            ),
        ),
        "attempt not written": (("lease", "  write_attempt(message, At)\n", ""),),
        # A worker that was away for long settles as if it still held the lease.
        "no fence check": (
            ("settle", "local current = S.f == O.f and At.f == O.f", "local current = true"),
            ("settle", "local open = current and S.t == At.t", "local open = S.t ~= ''"),
        ),
        # A closed gate lets through.
        "no gate check": (("lease", "if untl > NOW then return 0 end", "if untl > NOW then return A.n end"),),
        # What may have been taken goes out again as if it had not.
        "no flag": (
            ("prelude", "redis.call('HSET', P .. 'm:' .. S.m, 'fl', '1')\n      hold", "hold"),
            ("lease", "then redis.call('HSET', P .. 'm:' .. head, 'fl', '1') end", "then end"),
        ),
        # Whatever stands at the head is removed, not what was said.
        "removed by position": (
            (
                "settle",
                "if redis.call('LREM', P .. 'q:' .. S.id, 1, O.m) == 1 then hold(S, 0) end",
                "if redis.call('LPOP', P .. 'q:' .. S.id) then hold(S, 0) end",
            ),
        ),
        "accepted by chance": (("accept", "if known then", "if false then"),),
        "consent not asked": (("lease", "'no:' .. S.o, S.ad) == 1", "'no:' .. S.o, S.ad) == 2"),),
        "expiry not asked": (
            (
                "prelude",
                "elseif S.l == 0 and expires > 0 and expires <= NOW and state ~= 'unknown' and",
                "elseif false and",
            ),
        ),
        "early receipt forgotten": (("prelude", "if not At.early then return end", "do return end"),),
        "crash not repaired": (("lease", "\n    run_out(S)\n", "\n"),),
        # What was said leaves its side where it stood.
        "not placed again": (
            ("settle", "  place(S)\n  return 'ok'\nend\n\nlocal out", "  return 'ok'\nend\n\nlocal out"),
        ),
        # The reconciler speaks of repairs that it does not make.
        "repaired in words": (("reconcile", "    repair(S, words)\n    place(S)", "    repair(S, words)"),),
    }
)


async def _adopts_nothing(_: Spool) -> None:
    """What a dead process left in its spool stays there."""


PATCHES: Mapping[str, tuple[str, Callable[..., object]]] = MappingProxyType(
    {
        "what the dead had spooled": ("router.spool.Spool._adopt", _adopts_nothing),
        "past what is spooled": ("router.spool.Spool.holds", lambda spool, _: spool.away),
    }
)
"""The same for what no script does: what is put in whose place."""


@contextlib.contextmanager
def broken(name: str) -> Iterator[Callable[[dict[str, str]], dict[str, str]]]:
    """One guarantee is broken meanwhile; what is to be made of the scripts."""
    if name in MUTANTS:
        yield lambda sources: mutated(name, sources)
        return
    with mock.patch(*PATCHES[name]):
        yield dict


def mutated(name: str, sources: dict[str, str]) -> dict[str, str]:
    """The scripts with one guarantee broken; nothing is written to disk.

    Raises:
        ValueError: a script does not read any more as the mutant expects.
    """
    changed = dict(sources)
    for script, old, new in MUTANTS[name]:
        touched = [one for one, text in changed.items() if script in {"prelude", one} and old in text]
        if not touched:
            raise ValueError(f"{name}: {script}.lua no longer says {old!r}")
        for one in touched:
            changed[one] = changed[one].replace(old, new)
    return changed
