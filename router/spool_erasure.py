"""What the spool on disk still holds of one person, also after Redis took it: removed."""

import fcntl
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router.spool_files import ASIDE, SUFFIX, TAKEN_SUFFIX

ENTRY = re.compile(rb"(?:^|} )[0-9a-f]{8} (\{.*\})$")
"""A line of a spool file (`router/spool_files.py`), or of those put aside, where the error stands before it."""

IsTheirs = Callable[[dict[str, Any]], bool]
"""Whether an entry's fields are of this person."""


def spooled_entries(folder: Path, is_theirs: IsTheirs) -> int:
    """Their entries that a living process holds, and will give to Redis."""
    count = 0
    for path in folder.glob(f"*{SUFFIX}"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                count += sum(_theirs(line, is_theirs) for line in file.read().split(b"\n"))
    return count


def erase_spooled(folder: Path, is_theirs: IsTheirs) -> int:
    """Remove their entries from the files that no living process holds; how many. On disk when it returns."""
    found = [*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{TAKEN_SUFFIX}"), *folder.glob(ASIDE)]
    return sum(_erase_from(path, is_theirs) for path in found)


def _erase_from(path: Path, is_theirs: IsTheirs) -> int:
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return 0  # dropped, or taken, by another process
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        lines = file.read().split(b"\n")
        kept = [line for line in lines if not _theirs(line, is_theirs)]
        if len(kept) == len(lines):
            return 0
        file.seek(0)
        file.write(b"\n".join(kept))
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
        return len(lines) - len(kept)


def _theirs(line: bytes, is_theirs: IsTheirs) -> bool:
    match = ENTRY.search(line)
    return match is not None and is_theirs(json.loads(match[1])["fields"])
