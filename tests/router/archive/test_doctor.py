"""What `doctor` says of the archive, and what the settings refuse."""

from pathlib import Path
from typing import Any

import pytest

from router.cli.doctor import check_archive
from router.settings import Settings, SettingsError, load_settings

URL = "postgresql://tl:a-pass%2Fword@127.0.0.1:1/archive"


async def test_a_file_is_named_with_what_it_holds(tmp_path: Path) -> None:
    """No fault."""
    found = await check_archive(Settings(data_dir=tmp_path))
    assert (found.fault, found.words) == (False, f"{tmp_path / 'archive.sqlite3'}: 0 conversations")


async def test_a_server_that_is_away_is_a_fault(tmp_path: Path) -> None:
    """Said without the password."""
    found = await check_archive(Settings(data_dir=tmp_path, archive_url=URL))
    assert found.fault and "PostgreSQL archive at 127.0.0.1:1 cannot be used" in found.words
    assert "pass" not in f"{found}"


@pytest.mark.peer
async def test_a_server_that_does_not_wait_for_its_disk_is_a_fault(tmp_path: Path, cluster: Any) -> None:
    """As the test's own does not."""
    found = await check_archive(Settings(data_dir=tmp_path, archive_url=cluster.url))
    assert found.fault and found.words.endswith("fsync is off")


def test_the_password_is_in_no_repr_and_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the settings, nor where they are wrong."""
    assert "pass" not in repr(Settings(archive_url=URL))
    monkeypatch.chdir(tmp_path)
    for url in ("mysql://tl:a-pass@db/archive", "postgresql://tl:a-pass@db", "postgresql://tl:a-pa/ss@db/archive"):
        monkeypatch.setenv("THROUGHLINE_ARCHIVE_URL", url)
        with pytest.raises(SettingsError, match=r"archive_url|THROUGHLINE_ARCHIVE_URL") as said:
            load_settings()
        assert "a-pa" not in str(said.value)
