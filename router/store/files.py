"""Files on disk by content hash, written through before anyone is told that we have them."""

import asyncio
import fcntl
import hashlib
import os
import random
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

HASH = re.compile(r"^[0-9a-f]{64}$")


class Files:
    """One folder, two characters of the hash a subfolder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def write(self, content: bytes) -> str:
        """Store the bytes; their SHA-256. On disk (fsync) when it returns.

        Raises:
            OSError: the disk is full or not writable.
        """
        return await asyncio.to_thread(self._write, content)

    async def read(self, sha256: str) -> bytes:
        """The bytes.

        Raises:
            FileNotFoundError: we do not have them.
        """
        if not HASH.match(sha256):
            raise FileNotFoundError(sha256[:80])
        return await asyncio.to_thread(self._path(sha256).read_bytes)

    async def has(self, sha256: str) -> bool:
        """Whether we have the bytes."""
        return bool(HASH.match(sha256)) and await asyncio.to_thread(self._path(sha256).is_file)

    async def older_than(self, at: float, most: int) -> list[str]:
        """SHA-256 of up to `most` files that nobody has written since `at` (unix seconds).

        Begins in another subfolder each time, so that what is old and stays does not hide the rest for ever.
        """
        return await asyncio.to_thread(self._older_than, at, most)

    async def remove(self, hashes: Collection[str], at: float) -> int:
        """Remove those of these files that nobody has written since `at`; how many."""
        return await asyncio.to_thread(self._remove, hashes, at)

    def _older_than(self, at: float, most: int) -> list[str]:
        if not self.folder.is_dir():
            return []
        folders = sorted(one for one in self.folder.iterdir() if one.is_dir())
        start = random.randrange(len(folders)) if folders else 0
        found: list[str] = []
        for folder in folders[start:] + folders[:start]:
            for path in folder.iterdir():
                if not _is_older(path, at):
                    continue
                if HASH.match(path.name):
                    found.append(path.name)
                elif path.name.startswith("."):
                    path.unlink(missing_ok=True)  # half a file: whoever wrote it ended long ago
            if len(found) >= most:
                break
        return found[:most]

    def _remove(self, hashes: Collection[str], at: float) -> int:
        count = 0
        for sha256 in hashes:
            path = self._path(sha256)
            with self._locked(fcntl.LOCK_EX):
                if HASH.match(sha256) and _is_older(path, at):
                    path.unlink(missing_ok=True)
                    count += 1
        return count

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Nobody removes a file between a writer's finding it there and its saying so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _write(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        with self._locked(fcntl.LOCK_SH):
            if path.exists():
                os.utime(path)  # it is wanted again: see `remove`
                return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{digest}.{secrets.token_hex(4)}")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)  # half a file must not fill a disk that is full
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return digest


def _is_older(path: Path, at: float) -> bool:
    try:
        return path.stat().st_mtime < at
    except FileNotFoundError:
        return False  # another process removed it
