"""Every provider there is: one union of their settings, one way to build an adapter."""

from collections.abc import Mapping
from typing import Annotated, assert_never

from pydantic import Field

from channels.chat.console import ConsoleAdapter, ConsoleSettings
from channels.chat.webchat import WebchatAdapter, WebchatSettings
from channels.contract import Adapter, EndpointSettings
from channels.email.smtp import SmtpAdapter, SmtpSettings
from channels.messages import Channel
from channels.phone.twilio import TwilioVoiceAdapter, TwilioVoiceSettings
from channels.sms.smpp import SmppAdapter
from channels.sms.smpp_settings import SmppSettings
from channels.sms.twilio import TwilioSmsAdapter, TwilioSmsSettings
from channels.tools import Tools

AnyEndpointSettings = Annotated[
    SmtpSettings | WebchatSettings | ConsoleSettings | SmppSettings | TwilioSmsSettings | TwilioVoiceSettings,
    Field(discriminator="provider"),
]
"""One `[[endpoints]]` table; its `provider` says which fields it has."""

SETTINGS_OF: Mapping[str, type[EndpointSettings]] = {
    "smtp": SmtpSettings,
    "webchat": WebchatSettings,
    "console": ConsoleSettings,
    "smpp": SmppSettings,
    "twilio-sms": TwilioSmsSettings,
    "twilio-voice": TwilioVoiceSettings,
}
CHANNELS: Mapping[str, Channel] = {
    "smtp": Channel.EMAIL,
    "webchat": Channel.CHAT,
    "console": Channel.CHAT,
    "smpp": Channel.SMS,
    "twilio-sms": Channel.SMS,
    "twilio-voice": Channel.PHONE,
}
"""Which channel a provider speaks; an endpoint's id begins with it."""


def build(settings: AnyEndpointSettings, tools: Tools) -> Adapter:
    """The adapter for one table. It opens no connection yet."""
    match settings:
        case SmtpSettings():
            return SmtpAdapter(settings, tools)
        case WebchatSettings():
            return WebchatAdapter(settings, tools)
        case ConsoleSettings():
            return ConsoleAdapter(settings, tools)
        case SmppSettings():
            return SmppAdapter(settings, tools)
        case TwilioSmsSettings():
            return TwilioSmsAdapter(settings, tools)
        case TwilioVoiceSettings():
            return TwilioVoiceAdapter(settings, tools)
        case _:
            assert_never(settings)


def listens_on(settings: AnyEndpointSettings) -> tuple[str, int] | None:
    """The host and port that this endpoint's own listener takes on our machine; None: it has none."""
    if isinstance(settings, SmtpSettings) and settings.lmtp is not None and settings.lmtp.port:
        return settings.lmtp.host, settings.lmtp.port
    return None
