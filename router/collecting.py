"""Files on disk that nothing refers to any more: found, and removed after a while."""

import asyncio
import re
from collections.abc import Collection
from pathlib import Path

from router.core import Core
from router.store.erasing import referred_files

DAY_S = 86_400.0
LOOKED_AT_MAX = 20_000
"""Files of one collection; the others in the next ones."""
EVERY_S = 86_400
AGAIN_S = 3_600
"""After a collection that did not end."""
DUE = "tl:files:collected"
HASH = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


async def collect_files(core: Core) -> dict[str, int]:
    """Once a day: remove files that nothing refers to, and that nobody has written for `attachments.kept_days`.

    Raises:
        ArchiveError, StoreUnavailable: nobody can say what is referred to; nothing was removed.
    """
    if not await core.store.redis.call("SET", DUE, "1", "NX", "EX", AGAIN_S):
        return {}
    before = core.clock.now() - core.settings.attachments.kept_days * DAY_S
    old = await core.files.older_than(before, LOOKED_AT_MAX)
    removed = await remove_files(core, old, before) if old else 0
    await core.store.redis.call("SET", DUE, "1", "EX", EVERY_S)
    return {"looked_at": len(old), "removed": removed}


async def remove_files(core: Core, hashes: Collection[str], before: float) -> int:
    """Remove those of these files that nothing refers to, and that nobody has written since `before`; how many.

    Asked in the order in which what refers to a file moves on: the spool, Redis, the archive. Raises as above.
    """
    kept = await asyncio.to_thread(spooled_files, core.settings.data_dir / "spool")
    kept |= await referred_files(core.store, hashes)
    kept |= await core.archive.referred(list(hashes))
    return await core.files.remove(set(hashes) - kept, before)


def spooled_files(folder: Path) -> set[str]:
    """Whatever in the spool may be a file's name, in whichever state its entry is."""
    found: set[str] = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file():
            found |= {match.decode() for match in HASH.findall(path.read_bytes())}
    return found
