"""The agents' console as an endpoint: the transcript is what it shows, so a message that is stored is delivered."""

from typing import Literal

from channels.contract import Capabilities, EndpointSettings
from channels.errors import MessageRejected, WebhookRefused
from channels.messages import Channel, Matter, OutboundMessage, Receipt, ReceiptState, Received, Reply, Webhook
from channels.tools import Tools
from health.report import EndpointId

CONSOLE = EndpointId("chat/console")
"""The one console endpoint; it is there even when no table configures it."""
TEXT_MAX = 100_000
"""Characters: whatever a customer may say, the console can show."""
IO_S = 1.0
RATE_PER_S = 1000.0


class ConsoleSettings(EndpointSettings):
    """The `[[endpoints]]` table of the console: nothing to set but its id."""

    provider: Literal["console"] = "console"
    id: Literal["chat/console"] = "chat/console"


class ConsoleAdapter:
    """Shows agents what they are told. There is no vendor and no wire: the store that holds the transcript is both."""

    def __init__(self, settings: ConsoleSettings, tools: Tools) -> None:
        self.settings = settings
        self._tools = tools
        self.capabilities = Capabilities(
            channel=Channel.CHAT,
            provider=settings.provider,
            text_max=TEXT_MAX,
            io_s=IO_S,
            files_max_bytes=100_000_000,
            threads=True,
            idempotent=True,
            rate_per_s=settings.rate_per_s or RATE_PER_S,
            hold_s=settings.hold_s or 0.0,
        )

    async def send(self, message: OutboundMessage) -> Receipt:
        """Deliver it: it stands in the transcript already, so saying it twice shows it once.

        Raises:
            MessageRejected: longer than `TEXT_MAX`.
        """
        if len(message.content.text) > TEXT_MAX:
            raise MessageRejected("too_long", f"the console shows at most {TEXT_MAX} characters")
        return Receipt(vendor_ids=(message.message_id,), state=ReceiptState.DELIVERED)

    async def receive(self, webhook: Webhook) -> Received:
        """Refuse: agents speak through the API, never through a webhook.

        Raises:
            WebhookRefused: always, with 404.
        """
        raise WebhookRefused(404, f"{self._tools.endpoint} takes no webhooks; {webhook.method} was refused")

    def answer(self, received: Received, matter: Matter | None) -> Reply:
        """Answer nothing, for nothing is ever received here."""
        del received, matter
        return Reply(status=404)

    async def probe(self) -> None:
        """Return once the store answers: nothing else stands between a message and the console's page."""
        await self._tools.store.get("probe")

    async def close(self) -> None:
        """Let go of nothing."""
