"""What the monitor is told of each endpoint."""

from types import SimpleNamespace
from typing import Any, cast

from channels.contract import Capabilities
from channels.messages import Channel
from health.report import Direction, EndpointId
from router.supervisor import targets_of


def test_what_comes_in_is_watched_at_every_endpoint() -> None:
    """Else nobody notices a mailbox that fetches nothing any more, or webhooks that the vendor stopped calling."""
    mail, chat = EndpointId("email/support"), EndpointId("chat/web")
    adapters = {
        mail: SimpleNamespace(capabilities=Capabilities(Channel.EMAIL, "smtp", 100_000, 60.0)),
        chat: SimpleNamespace(capabilities=Capabilities(Channel.CHAT, "webchat", 10_000, 5.0)),
    }
    for target in targets_of(cast(Any, adapters)).values():
        assert target.silence and Direction.IN in target.directions
