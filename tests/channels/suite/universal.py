"""Cases that are the same for every provider, and from which none is exempt."""

import math
from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from channels.registry import CHANNELS, SETTINGS_OF
from tests.channels.suite.rows import Check, Must, Row
from tests.channels.suite.secrecy import search, secrets_of
from tests.channels.suite.stage import SETTINGS, Stage


async def _check_capabilities(stage: Stage) -> None:
    provider = stage.table.provider
    able = stage.make({"rate_per_s": 3.5, "hold_s": 7.0}).capabilities
    assert able.channel is CHANNELS[provider]
    assert stage.table.endpoint.startswith(f"{able.channel}/")
    assert able.provider == provider
    assert (able.rate_per_s, able.hold_s) == (3.5, 7.0), "what the settings say holds"
    able = stage.make().capabilities
    assert 0 < able.io_s <= 75, "the design's longest is mail: 10 s to the final dot, 60 s after it"
    assert 100 <= able.text_max <= 1_000_000
    assert 0 < able.rate_per_s <= 10_000
    assert 0 <= able.hold_s <= 3_600
    assert 0 < able.probe_s <= 300
    assert 0 <= able.files_max_bytes <= 100_000_000
    assert able.price >= 0
    assert able.listens_in in ("", "web", "dispatch")
    assert bool(able.listens_in) == hasattr(stage.adapter, "listen")
    assert able.receipt_due_s is None or (able.receipts and 0 < able.receipt_due_s < math.inf)
    assert able == stage.adapter.capabilities, "they do not change"


async def _check_close(stage: Stage) -> None:
    adapter = stage.make()
    await adapter.close()  # before anything was opened
    adapter = await stage.open()
    await stage.send(stage.message())
    await adapter.close()
    await adapter.close()


async def _check_settings(stage: Stage) -> None:
    stage.make()
    table = dict(stage.table.settings(stage))
    secrets = list(secrets_of(stage.settings[-1]))
    assert SETTINGS_OF[stage.table.provider] is type(stage.settings[-1])
    wrong: list[Mapping[str, object]] = [
        {"no_such_field": 1},
        {"id": "pigeon/loft"},
        {"id": "Email Account"},
        {"provider": "no-such"},
        {"rate_per_s": 0},
        {"price": -1},
    ]
    if "host" in table:
        wrong.append({"host": "mail.example.org", "tls": "nowhere"})
    provider = SETTINGS_OF[stage.table.provider]
    for changes in wrong:
        with pytest.raises(ValidationError):
            SETTINGS.validate_python({**table, **changes})
    refused = 0
    beside: list[Mapping[str, object]] = []
    for name, secret in table.items():
        if secret in secrets:
            beside += [{name: [secret]}, {name: str(secret) * 200}]
    for changes in wrong + beside:
        try:
            provider.model_validate({**table, **changes})
        except ValidationError as error:
            refused += 1
            search("a refusal of settings", [str(error), repr(error)], secrets)
    assert refused >= len(wrong)
    with pytest.raises(ValidationError):
        stage.settings[-1].id = "email/other"  # type: ignore[misc]  # frozen, which is what is shown


COMMON: Mapping[Must, Row] = {
    Must.CAPABILITIES: Check(_check_capabilities),
    Must.CLOSED_TWICE: Check(_check_close),
    Must.SETTINGS: Check(_check_settings),
}
