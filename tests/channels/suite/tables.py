"""Every provider's table."""

from collections.abc import Iterator

from tests.channels.suite import console, smpp, smtp, twilio_sms, twilio_voice, webchat
from tests.channels.suite.rows import Exempt, Must, Row, Table
from tests.channels.suite.universal import COMMON

TABLES = (smtp.TABLE, webchat.TABLE, console.TABLE, smpp.TABLE, twilio_sms.TABLE, twilio_voice.TABLE)


def cases_of(table: Table) -> Iterator[tuple[Must, Row | Exempt]]:
    """Each row of a table with the case it stands for, those of all providers included."""
    for must, rows in {**table.cases, **COMMON}.items():
        for row in rows if isinstance(rows, tuple) else (rows,):
            yield must, row


def name_of(table: Table, must: Must, row: Row | Exempt) -> str:
    """The test's name: provider, case and label, or the reason of an exemption."""
    if isinstance(row, Exempt):
        return f"{table.provider}-{must}-exempt({row.reason})"
    return f"{table.provider}-{must}" + (f"-{row.label}" if row.label else "")
