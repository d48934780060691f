"""Every provider there is: one union of their settings, one way to build an adapter."""

from collections.abc import Mapping
from typing import Annotated, assert_never

from pydantic import Field

from channels.chat.console import ConsoleAdapter, ConsoleSettings
from channels.chat.webchat import WebchatAdapter, WebchatSettings
from channels.contract import Adapter, EndpointSettings
from channels.messages import Channel
from channels.sms.twilio import TwilioSmsAdapter, TwilioSmsSettings
from channels.tools import Tools

AnyEndpointSettings = Annotated[
    ConsoleSettings | WebchatSettings | TwilioSmsSettings,
    Field(discriminator="provider"),
]
"""One `[[endpoints]]` table; its `provider` says which fields it has."""

SETTINGS_OF: Mapping[str, type[EndpointSettings]] = {
    "console": ConsoleSettings,
    "webchat": WebchatSettings,
    "twilio-sms": TwilioSmsSettings,
}
CHANNELS: Mapping[str, Channel] = {
    "console": Channel.CHAT,
    "webchat": Channel.CHAT,
    "twilio-sms": Channel.SMS,
}
"""Which channel a provider speaks; an endpoint's id begins with it."""


def build(settings: AnyEndpointSettings, tools: Tools) -> Adapter:
    """The adapter for one table. It opens no connection yet."""
    match settings:
        case ConsoleSettings():
            return ConsoleAdapter(settings, tools)
        case WebchatSettings():
            return WebchatAdapter(settings, tools)
        case TwilioSmsSettings():
            return TwilioSmsAdapter(settings, tools)
        case _:
            assert_never(settings)
