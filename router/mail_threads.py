"""Which conversations a mail stands in, by its Message-ID: whoever answers it is filed where it is."""

from health.report import EndpointId
from router.core import Core

KEPT_S = 180 * 24 * 3600
"""After a mail came in; whoever answers an older one has a newer one of the thread to refer to, or a reference."""
CONVERSATIONS_MAX = 5
"""Of one Message-ID: it is written by its sender, so strangers may use one again; more than one decides nothing."""


async def remember_mail(core: Core, endpoint: EndpointId, message_id: str, conversation_id: str) -> None:
    """Say that a mail stands in a conversation; as often as one likes. Raises StoreUnavailable."""
    key = _key(endpoint, message_id)
    if int(await core.store.redis.call("SCARD", key)) < CONVERSATIONS_MAX:
        await core.store.redis.call("SADD", key, conversation_id)
    await core.store.redis.call("EXPIRE", key, KEPT_S)


async def conversation_of_mail(core: Core, endpoint: EndpointId, message_id: str) -> str:
    """The one conversation a mail stands in, or '': it is in none, or somebody else used its Message-ID, too."""
    found = await core.store.redis.call("SMEMBERS", _key(endpoint, message_id))
    return str(next(iter(found))) if len(found) == 1 else ""


def _key(endpoint: EndpointId, message_id: str) -> str:
    return f"tl:{{mi:{endpoint}|{message_id}}}"
