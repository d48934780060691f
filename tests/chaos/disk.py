"""A small disk of our own, that can be filled to its last byte: a tmpfs, in a mount namespace where we are not root."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

DISK_BYTES = 768_000_000
"""More than a run writes."""
INSIDE = "CHAOS_INSIDE"
"""Says that we are in the namespace already."""
LOOK_S = 0.05
CHUNK = 1_000_000


def enter_namespace() -> None:
    """Become a process that may mount, if this machine lets us: the same command once more, as root of a namespace."""
    command = ["unshare", "-Urm", "--kill-child"]
    if INSIDE in os.environ or shutil.which("unshare") is None:
        return
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp(command[0], [*command, sys.executable, "-m", "tests.chaos.run", *sys.argv[1:]])


def mount(folder: Path) -> bool:
    """An empty disk on `folder`, which is made; False: we may not, and it is a part of the common disk.

    It goes with the namespace.
    """
    folder.mkdir()
    if INSIDE not in os.environ:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def unmount(folder: Path) -> None:
    """Let the disk go, and everything on it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


@asynccontextmanager
async def fill(disk: Path) -> AsyncIterator[None]:
    """Whatever becomes free meanwhile is taken at once."""
    filler = disk / "filler"

    async def keep_full() -> None:
        while True:
            await asyncio.to_thread(_take_all, filler)
            await asyncio.sleep(LOOK_S)

    await asyncio.to_thread(_take_all, filler)
    keeping = asyncio.create_task(keep_full())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        filler.unlink()


def _take_all(filler: Path) -> None:
    """Every free byte, the last ones one page at a time."""
    with filler.open("ab", buffering=0) as file:
        for size in (CHUNK, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    continue
            except OSError:
                continue
