"""Where everything stands in Redis. Keys of one shard share its hash tag; the others stand in a slot of their own."""

from channels.messages import Address
from health.report import EndpointId

PLAN = "@plan"
"""The due set of sides that need a route decided."""


def shard(number: int) -> str:
    """The prefix of a shard, given to scripts as KEYS[1]."""
    return f"tl:{{s{number}}}:"


def bell(number: int) -> str:
    """The publish channel that wakes dispatchers; its messages are endpoint ids."""
    return f"{shard(number)}bell"


def address(of: Address, endpoint: EndpointId | None = None) -> str:
    """A hash: ids of the customers reachable there, by since when."""
    return f"tl:{{a:{place(of, endpoint)}}}"


def place(of: Address, endpoint: EndpointId | None = None) -> str:
    """An address as the records write it: channel-wide `sms:+15550100`, endpoint-bound `chat:abc@chat/web`."""
    return f"{of}@{endpoint}" if endpoint else str(of)


def reference(text: str) -> str:
    """A string: the conversation that owns this reference."""
    return f"tl:{{r:{text}}}"


def vendor_id(endpoint: EndpointId, identity: str) -> str:
    """A hash: `token` of the attempt a vendor calls so, or the receipt that came first."""
    return f"tl:{{i:{endpoint}|{identity}}}"


def adapter(endpoint: EndpointId, key: str) -> str:
    """An adapter's own store."""
    return f"tl:{{e:{endpoint}|{key}}}"


def canaries_asked(endpoint: EndpointId) -> str:
    """A list: canaries that a dispatcher is to send at this endpoint; in the first shard, which may be frozen."""
    return f"{shard(0)}ca:{endpoint}"


def version(number: int) -> str:
    """A string: the version of a shard's records; see `router.store.versions`."""
    return f"{shard(number)}rv"


def frozen(number: int) -> str:
    """A string: why nothing is sent from this shard; see `router.store.freezing`."""
    return f"{shard(number)}frozen"


def canary(token: str) -> str:
    """A string: this canary is awaited."""
    return f"tl:canary:{{{token}}}"


def canary_outcome(token: str) -> str:
    """A string: what came of sending it."""
    return f"{canary(token)}:outcome"


def canary_back(token: str) -> str:
    """A string: it was read back."""
    return f"{canary(token)}:back"


AGENTS = "tl:agents"
FAILOVERS = "tl:failovers"
BEAT = "tl:beat"
"""When a job of the clockwork last went through, Unix seconds."""
WENT_BACK = "tl:wentback"
"""A hash: when Redis came back older than it was, and how many messages were flagged; kept for a day."""
