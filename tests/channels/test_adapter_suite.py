"""The one suite that every adapter passes: each provider's table has every case, or says why it cannot."""

import logging
from pathlib import Path

import pytest
import structlog

from channels.registry import CHANNELS, SETTINGS_OF
from tests.channels.suite.rows import Exempt, Must, Row, Table
from tests.channels.suite.secrecy import Written, judge
from tests.channels.suite.stage import staged
from tests.channels.suite.tables import TABLES, cases_of, name_of
from tests.channels.suite.universal import COMMON

CASES = [(table, must, row) for table in TABLES for must, row in cases_of(table)]
PLAYED = [case for case in CASES if not isinstance(case[2], Exempt)]
EXEMPT = [case for case in CASES if isinstance(case[2], Exempt)]


@pytest.mark.parametrize(("table", "must", "row"), PLAYED, ids=[name_of(*case) for case in PLAYED])
async def test_an_adapter_keeps_the_contract(
    table: Table,
    must: Must,
    row: Row,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each row comes to what its table says, and nothing said, shown or written meanwhile holds a secret."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as entries:
        async with staged(table, redis_url, tmp_path, monkeypatch) as stage:
            await row.play(stage)
    judge(stage, Written(entries, caplog.records))


@pytest.mark.parametrize(("table", "must", "row"), EXEMPT, ids=[name_of(*case) for case in EXEMPT])
def test_an_exemption_has_its_reason(table: Table, must: Must, row: Exempt) -> None:
    """It is a sentence, and no case that all adapters must pass is exempt."""
    assert len(row.reason.split()) >= 5
    assert must not in COMMON


@pytest.mark.parametrize("provider", sorted(set(SETTINGS_OF) | set(CHANNELS)))
def test_every_provider_has_every_case(provider: str) -> None:
    """One table a provider; a case that is missing is named."""
    tables = [table for table in TABLES if table.provider == provider]
    assert len(tables) == 1, f"{provider} needs one table, listed in tests/channels/suite/tables.py"
    table = tables[0]
    assert set(Must) - set(table.cases) - set(COMMON) == set()
    assert set(table.cases) & set(COMMON) == set()
    assert all(rows != () for rows in table.cases.values())


def test_no_table_is_for_a_provider_that_is_gone() -> None:
    """And no two rows have one name."""
    assert {table.provider for table in TABLES} == set(SETTINGS_OF)
    names = [name_of(*case) for case in CASES]
    assert sorted(names) == sorted(set(names))
