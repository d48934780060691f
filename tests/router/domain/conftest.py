"""Values that the domain's tests build from."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from channels.contract import Capabilities
from channels.messages import Address, Channel, InboundMessage, Matter
from health.report import EndpointId, Status
from router.domain.catalogues import packaged_catalogues
from router.domain.conversation import Binding, Leg
from router.domain.routing import EndpointView, RouteRequest
from router.domain.wording import Wording

NOW = 1_700_000_000.0
VALUES = {
    Channel.EMAIL: "ana@example.com",
    Channel.CHAT: "session-1",
    Channel.SMS: "+15550100",
    Channel.PHONE: "+15550100",
}


@pytest.fixture
def now() -> float:
    """The moment all these tests live in, Unix seconds."""
    return NOW


@pytest.fixture
def endpoint() -> Callable[..., EndpointView]:
    """Make an endpoint view: `endpoint("sms/one", status_out=Status.DOWN, price="0.05")`."""

    def make(name: str, **given: object) -> EndpointView:
        about = {key: given.pop(key) for key in tuple(given) if key in Capabilities.__dataclass_fields__}
        about["price"] = Decimal(str(about.get("price", 0)))
        about = {"text_max": 1600, "io_s": 5.0, "files_max_bytes": 0, **about}
        capabilities = Capabilities(channel=Channel(name.partition("/")[0]), provider="test", **about)
        given = {"status_out": Status.UP, "status_in": Status.UP, **given}
        return EndpointView(EndpointId(name), capabilities, **given)

    return make


@pytest.fixture
def binding() -> Callable[..., Binding]:
    """Make a verified binding: `binding("sms", order=1)`."""

    def make(channel: str, value: str = "", **given: object) -> Binding:
        address = Address(Channel(channel), value or VALUES[Channel(channel)])
        return Binding(address, **{"verified": True, **given})

    return make


@pytest.fixture
def leg() -> Callable[..., Leg]:
    """Make a leg at an endpoint."""

    def make(name: str, value: str = "") -> Leg:
        channel = Channel(name.partition("/")[0])
        return Leg(EndpointId(name), Address(channel, value or VALUES[channel]), since=NOW - 600, reason="opened")

    return make


@pytest.fixture
def request_for(binding: Callable[..., Binding]) -> Callable[..., RouteRequest]:
    """Make a route request of a customer with mail, SMS and phone, in this order."""

    def make(**given: object) -> RouteRequest:
        bindings = (binding("email", order=0), binding("sms", order=1), binding("phone", order=2))
        return RouteRequest(**{"conversation_id": "v0-A", "bindings": bindings, "now": NOW, **given})

    return make


@pytest.fixture
def inbound() -> Callable[..., InboundMessage]:
    """Make an inbound SMS."""

    def make(text: str = "hello", **given: object) -> InboundMessage:
        sms = {
            "endpoint": EndpointId("sms/one"),
            "vendor_id": "SM1",
            "sender": Address(Channel.SMS, "+15550100"),
            "text": text,
            "sent_at": NOW,
        }
        return InboundMessage(**{**sms, **given})

    return make


@pytest.fixture(scope="session")
def wording() -> Wording:
    """The packaged texts, checked."""
    wording = Wording(packaged_catalogues(), "Contoso Insurance")
    wording.check()
    return wording


@pytest.fixture
def matter() -> Callable[..., Matter]:
    """Make what may be said about a conversation."""

    def make(**given: object) -> Matter:
        return Matter(
            **{"organisation": "Contoso Insurance", "reference": "4F2K9", "locale": "en", "subject": "Parcel", **given}
        )

    return make
