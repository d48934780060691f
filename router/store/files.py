"""Files on disk by content hash, written through before anyone is told that we have them."""

import asyncio
import hashlib
import os
import re
import secrets
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

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _write(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if path.exists():
            return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{digest}.{secrets.token_hex(4)}")
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return digest
