"""What the tests of the router share: an empty folder to work in, and the use cases over stand-in vendors."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import structlog

from health.report import EndpointId
from router.runtime import Runtime, open_runtime
from router.settings import Settings, load_settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("THROUGHLINE_"):
            monkeypatch.delenv(name)
    yield tmp_path
    # Commands send logs to the standard error of their own run, which is gone by now.
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


@pytest.fixture
def folder_with_redis(folder: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with an empty Redis in the settings."""
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    return folder


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """The use cases over stand-in vendors; nobody dispatches or supervises, so what is to be said stays queued."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    monkeypatch.setenv("THROUGHLINE_BROKER_URL", "redis://127.0.0.1:1/1")  # nobody waits for Celery here
    async with open_runtime(load_settings(), "web") as opened:
        yield opened


@pytest.fixture
def open_over(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractAsyncContextManager[Runtime]]:
    """Opens a router over these adapters, in the place of any that settings name; more is told to `open_runtime`."""

    def open_one(adapters: Mapping[EndpointId, Any], role: str, **more: Any) -> AbstractAsyncContextManager[Runtime]:
        monkeypatch.setattr("router.runtime._adapters", lambda *_: adapters)
        return open_runtime(Settings(redis_url=redis_url, data_dir=tmp_path, secret="s" * 40), role, **more)

    return open_one
