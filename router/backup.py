"""Everything durable in one file, and back into an empty store, which stays frozen until a person lets it go."""

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import redis

from router.domain.ids import SHARDS_MAX
from router.settings import PRIVATE_FILE_MODE, Settings
from router.store.codec import RECORDS_VERSION
from router.store.connecting import open_primaries, open_whole, read_database
from router.store.freezing import Frozen, dump_frozen
from router.store.keys import frozen as frozen_key
from router.store.snapshot import NotCopied, copy_server, is_empty, open_copy, pour

FORMAT = 1
"""Of the file: a newer one is refused."""
MANIFEST = "manifest.json"
ARCHIVE = "archive.sqlite3"
MEMBER = re.compile(r"redis-\d{1,3}\.rdb|archive\.sqlite3|files/[0-9a-f]{2}/[0-9a-f]{64}")
MANIFEST_MAX_BYTES = 200_000_000
CHUNK = 1 << 20
ANSWER_WITHIN_S = 60.0
"""For a server that forks or takes a page of keys."""
SHARDS = range(SHARDS_MAX)


class BackupFault(Exception):
    """It was not made, or not restored; the text says why, what is there now, and what to do."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a file holds."""

    made_at: float
    """The moment its Redis part shows, unix seconds."""
    database: int
    parts: int
    """Servers the store was spread over: one, or the primaries of a Cluster."""
    files: int
    bytes: int
    has_archive: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` did before anybody looked."""

    backup: Backup
    keys: int
    files: int
    """Files that were not there already."""
    kept_archive: bool
    """There was an archive already: it knows more, and stays."""


def make_backup(settings: Settings, file: Path) -> Backup:
    """Copy the store of a running router, its archive and its files into a new `file`, readable by its owner alone.

    All keys of one server are of one moment. What is written after it is not in it; files and archive are copied
    after the keys, so that whatever a message names is there. On disk (fsync) under its name when this returns.

    Raises:
        BackupFault: no room, a file of that name, a Redis that does not let itself be copied.
        redis.RedisError: Redis does not answer.
    """
    if settings.redis_url is None:
        raise ValueError("make_backup needs settings.redis_url")
    if file.exists():
        raise BackupFault(f"{file} exists. Give the backup a name of its own; nothing was written.")
    draft = file.with_name(file.name + ".part")
    try:
        with _new_file(draft) as stream, tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as room:
            found = _write(settings, stream, Path(room))
            stream.flush()
            os.fsync(stream.fileno())
        draft.rename(file)
        _sync_folder(file.parent)
    except (OSError, NotCopied, sqlite3.Error) as error:
        raise BackupFault(f"No backup was made: {error}") from error
    finally:
        draft.unlink(missing_ok=True)  # whatever it was that broke it off: half a backup is of no use to anybody
    return found


def read_backup(file: Path) -> Backup:
    """What a backup holds, every byte of it checked.

    Raises:
        BackupFault: it is no backup, is damaged or cut off, or of a newer version.
    """
    with _opened(file) as whole:
        return whole.backup


def restore_backup(settings: Settings, file: Path) -> Restored:
    """Put a backup into an empty store, frozen from before its first key on; then files, then the archive.

    The caller marks what waits and calls it whole (see `router.cli.backup`); until then nothing can thaw it.

    Raises:
        BackupFault: the file is not sound, the store is not empty, or it broke off; the text says what is there now.
        NoRedisFound: none on this machine to read the copy with.
        redis.RedisError: Redis does not answer.
    """
    if settings.redis_url is None:
        raise ValueError("restore_backup needs settings.redis_url")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with _opened(file) as whole, tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".restore-") as room:
        with open_primaries(settings.redis_url, timeout_s=ANSWER_WITHIN_S) as servers:
            if not is_empty(servers):
                raise BackupFault(
                    "The store is not empty: a backup goes into an empty one only. Stop every role, then use a Redis "
                    "without keys, or move the private one away (data_dir/redis). Nothing was changed."
                )
        try:
            count = _pour_all(settings.redis_url, whole, Path(room))
            files = sum(_put_file(whole, name, settings.data_dir) for name in whole.names("files/"))
            kept = _put_archive(whole, settings.data_dir)
        except (NotCopied, OSError, tarfile.TarError) as error:
            raise BackupFault(
                f"It was not restored: {error} The store is frozen and holds a part of it. Stop every role, empty it "
                "and restore again."
            ) from error
    return Restored(whole.backup, count, files, kept)


# Writing


def _write(settings: Settings, stream: IO[bytes], room: Path) -> Backup:
    url = settings.redis_url or ""
    sums: dict[str, str] = {}
    size = count = 0
    made_at = time.time()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        with open_primaries(url, timeout_s=ANSWER_WITHIN_S) as servers:
            for number, server in enumerate(servers):
                copy = room / f"redis-{number}.rdb"
                with copy.open("wb") as to:
                    copy_server(server, to)
                size += _add(tar, sums, copy.name, copy)
                copy.unlink()
            parts = len(servers)
        has_archive = (settings.data_dir / ARCHIVE).exists()
        if has_archive:
            _copy_archive(settings.data_dir / ARCHIVE, room / ARCHIVE)
            size += _add(tar, sums, ARCHIVE, room / ARCHIVE)
        for path in sorted((settings.data_dir / "files").glob("*/*")):
            name = f"files/{path.parent.name}/{path.name}"
            if MEMBER.fullmatch(name):  # drafts have other names
                with suppress(FileNotFoundError):  # collected meanwhile: nothing has referred to it for days
                    size += _add(tar, sums, name, path)
                    count += 1
        found = Backup(made_at, read_database(url), parts, count, size, has_archive)
        text = json.dumps(
            {
                "format": FORMAT, "records": RECORDS_VERSION, "made_at": made_at, "database": found.database,
                "parts": parts, "shards": settings.shards, "sha256": sums,
            }
        ).encode()  # fmt: skip
        # The sum of the sums comes last: who has it has all.
        member = tarfile.TarInfo(MANIFEST)
        member.size, member.pax_headers = len(text), {"sha256": hashlib.sha256(text).hexdigest()}
        tar.addfile(member, io.BytesIO(text))
    return found


def _add(tar: tarfile.TarFile, sums: dict[str, str], name: str, path: Path) -> int:
    member = tarfile.TarInfo(name)
    with path.open("rb") as content:
        member.size = os.fstat(content.fileno()).st_size
        summing = _Summing(content)
        tar.addfile(member, summing)
    sums[name] = summing.sum.hexdigest()
    return member.size


class _Summing:
    """A file that is read once, and its SHA-256."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        chunk = self._content.read(size)
        self.sum.update(chunk)
        return chunk


def _copy_archive(path: Path, to: Path) -> None:
    """As of one moment, while its writer works."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    with os.fdopen(descriptor, "wb") as stream:
        yield stream


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# Reading


@dataclass(frozen=True, slots=True)
class _Whole:
    """A backup that has been checked, open."""

    tar: tarfile.TarFile
    sums: Mapping[str, str]
    backup: Backup

    def names(self, prefix: str) -> list[str]:
        """Its members that begin so."""
        return sorted(name for name in self.sums if name.startswith(prefix))

    def extract(self, name: str, to: Path) -> None:
        """Write one member to a new file."""
        content = self.tar.extractfile(name)
        if content is None:
            raise NotCopied(f"{name} is not in it.")
        with content, _new_file(to) as stream:
            shutil.copyfileobj(content, stream, CHUNK)
            stream.flush()
            os.fsync(stream.fileno())


@contextmanager
def _opened(file: Path) -> Iterator[_Whole]:
    try:
        with tarfile.open(file, "r:") as tar:
            yield _checked(tar, file)
    except tarfile.TarError as error:
        raise BackupFault(f"{file} is no backup, or cut off: {error}. Nothing was changed.") from error
    except FileNotFoundError as error:
        raise BackupFault(f"{file} is not there.") from error


def _checked(tar: tarfile.TarFile, file: Path) -> _Whole:
    fault = f"{file} is damaged or cut off: {{}}. Take another backup; nothing was changed."
    sums: dict[str, str] = {}
    members = tar.getmembers()
    last = members[-1] if members else None
    if last is None or last.name != MANIFEST or last.size > MANIFEST_MAX_BYTES:
        raise BackupFault(fault.format("its end is not there"))
    for member in members[:-1]:
        if not member.isfile() or not MEMBER.fullmatch(member.name) or member.name in sums:
            raise BackupFault(f"{file} holds {member.name[:100]!r}, which no backup has. Nothing was changed.")
        sums[member.name] = _sum(tar, member)
    text = _read(tar, last)
    if last.pax_headers.get("sha256") != hashlib.sha256(text).hexdigest():
        raise BackupFault(fault.format("its table of contents is not what it was"))
    facts: dict[str, Any] = json.loads(text)
    if facts["format"] > FORMAT or facts["records"] > RECORDS_VERSION:
        raise BackupFault(f"{file} is of a newer version of Throughline. Restore it with that one.")
    if wrong := sorted(
        name for name in facts["sha256"].keys() | sums.keys() if facts["sha256"].get(name) != sums.get(name)
    ):
        raise BackupFault(fault.format(f"{wrong[0]} is not what it was"))
    parts = sum(name.endswith(".rdb") for name in sums)
    if parts != facts["parts"]:
        raise BackupFault(fault.format("a part of the store is missing"))
    files = sum(name.startswith("files/") for name in sums)
    size = sum(member.size for member in members[:-1])
    return _Whole(tar, sums, Backup(facts["made_at"], facts["database"], parts, files, size, ARCHIVE in sums))


def _sum(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    if content is None:
        return ""
    with content:
        return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # it reads, which is all


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    if content is None:
        return b""
    with content:
        return content.read()


def _pour_all(url: str, whole: _Whole, room: Path) -> int:
    count = 0
    with open_whole(url, timeout_s=ANSWER_WITHIN_S) as target:
        frozen = dump_frozen(Frozen(time.time(), whole.backup.made_at, whole=False))
        for number in SHARDS:
            target.set(frozen_key(number), frozen)
        for name in whole.names("redis-"):
            folder = room / name.removesuffix(".rdb")
            folder.mkdir()
            whole.extract(name, folder / "dump.rdb")
            server = open_copy(folder)
            try:
                where = server.url.replace("db=0", f"db={whole.backup.database}")
                with closing(redis.Redis.from_url(where, socket_timeout=ANSWER_WITHIN_S)) as source:
                    count += pour(source, target)
            finally:
                server.stop()
            shutil.rmtree(folder)
    return count


def _put_file(whole: _Whole, name: str, data_dir: Path) -> bool:
    path = data_dir / name
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.restored")
    whole.extract(name, draft)
    draft.replace(path)
    _sync_folder(path.parent)
    return True


def _put_archive(whole: _Whole, data_dir: Path) -> bool:
    """Whether there was one already, which stays: it has what the copy has, and what came after."""
    path = data_dir / ARCHIVE
    if path.exists() or not whole.backup.has_archive:
        return path.exists()
    draft = path.with_name(f".{ARCHIVE}.restored")
    whole.extract(ARCHIVE, draft)
    draft.replace(path)
    _sync_folder(data_dir)
    return False
