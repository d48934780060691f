"""Every provider there is: one union of their settings, one way to build an adapter."""

from typing import Annotated

from pydantic import Field

from channels.chat.console import ConsoleAdapter, ConsoleSettings
from channels.contract import Adapter
from channels.tools import Tools

AnyEndpointSettings = Annotated[ConsoleSettings, Field()]


def build(settings: AnyEndpointSettings, tools: Tools) -> Adapter:
    return ConsoleAdapter(settings, tools)
