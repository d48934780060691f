"""Looks at the processes of this machine."""

import os
from pathlib import Path


def naming(words: str) -> list[int]:
    """The processes, but this one, whose environment or command line says these words."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                said = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if words.encode() in said:
                found.append(int(process.name))
    return found
