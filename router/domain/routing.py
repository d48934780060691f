"""Choose the route: which endpoints a message may use now, in order, each taken or rejected with its reason."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from channels.contract import Capabilities
from channels.messages import Address, Channel
from health.report import EndpointId, Status
from router.domain.conversation import Binding, Leg, MessageClass
from router.domain.reasons import Reason
from router.domain.unverified import ANYTHING, Unverified, against_unverified

SHARE_STEPS = 10_000
"""How finely a rising share is cut: a hundredth of a percent."""


@dataclass(frozen=True, slots=True)
class EndpointView:
    """What routing needs to know of one endpoint, at one moment."""

    id: EndpointId
    capabilities: Capabilities
    status_out: Status = Status.UNKNOWN
    status_in: Status = Status.UNKNOWN
    gate_open: bool = True
    forced: Literal["up", "down"] | None = None
    """A forced failover's word; it overrides the statuses, never the gate, which is the store's truth."""
    share: float = 1.0
    """Of new conversations that a recovering endpoint takes, 0 to 1."""
    room: float = float("inf")
    """Messages a second it can still take beside its own traffic."""
    order: int = 0
    """Its place in the settings: of two alike, the first is used."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Where the person last wrote: there they expect the answer."""

    endpoint: EndpointId
    address: Address


@dataclass(frozen=True, slots=True)
class Policy:
    """What the organisation allows and prefers."""

    forbidden: Mapping[MessageClass, frozenset[Channel]] = field(default_factory=dict)
    """Channels that content of a class never uses."""
    verified_only: frozenset[MessageClass] = frozenset()
    """Classes that go only to verified addresses."""
    channel_order: tuple[Channel, ...] = (Channel.CHAT, Channel.SMS, Channel.EMAIL, Channel.PHONE)
    """Decides between bindings that the person gave the same order."""
    unverified: Unverified = ANYTHING
    """What holds for numbers that nobody has verified."""


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """Everything about one side, and what is to be said to it, that a route depends on."""

    conversation_id: str
    bindings: tuple[Binding, ...]
    now: float
    """Unix seconds."""
    message_class: MessageClass = MessageClass.NORMAL
    policy: Policy = field(default_factory=Policy)
    current: Leg | None = None
    wish: Wish | None = None
    own_channel: Channel | None = None
    """The channel a secret was made for; None: the current leg's, else the wish's."""
    new: bool = False
    """The conversation begins now: a recovering endpoint takes it only within its share."""
    notice_only: bool = False
    """Only a notice that names where to answer goes out: one-way endpoints will do."""
    text_length: int = 0
    """Characters, once rendered."""
    files_bytes: int = 0
    files_must_go: bool = False
    """The files are the point: an endpoint that cannot carry them is no route. Else a line says that they wait."""
    excluded: frozenset[tuple[EndpointId, Address]] = frozenset()
    """Where attempts at this very message already failed for good."""
    target: EndpointId | None = None
    """A forced failover sends everybody here who can be reached here."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One endpoint and binding, taken or not, and why."""

    endpoint: EndpointId
    address: Address | None
    """None only for `no_binding`."""
    taken: bool
    reason: Reason
    binding: int = -1
    """Its place in the request's bindings: what the journal keeps instead of the address."""


@dataclass(frozen=True, slots=True)
class Route:
    """All choices: the taken ones first, best first; then the rejected ones, by endpoint."""

    choices: tuple[Choice, ...]

    @property
    def taken(self) -> tuple[Choice, ...]:
        """The choices that may be used now, best first."""
        return tuple(choice for choice in self.choices if choice.taken)

    @property
    def best(self) -> Choice | None:
        """The choice to use now; None: there is no way."""
        return self.choices[0] if self.choices and self.choices[0].taken else None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A choice that nothing forbids, with what ranks it."""

    choice: Choice
    rank: tuple[object, ...]
    spared: Reason | None
    """Why a percentage would leave it out; None: nothing would."""


def choose_route(request: RouteRequest, endpoints: Sequence[EndpointView]) -> Route:
    """Judge every endpoint with every binding of its channel; an endpoint without one gets one `no_binding`.

    The best choice is first. Between allowed choices decide, in this order: a forced failover's target, a verified
    address, a status without suspicion, where the person last wrote, the current leg, the same channel, whether
    files can go, the person's own order, price, the settings' order, room.

    Consent, class and the gate are never overridden. What only a percentage would leave out (a recovering
    endpoint's share, its room) is used all the same when it is the person's last working path.
    """
    usable: list[_Candidate] = []
    spared: list[_Candidate] = []
    rejected: list[Choice] = []
    for endpoint in sorted(endpoints, key=lambda view: view.id):
        against_endpoint = _against_endpoint(request, endpoint)
        met = False
        for index, binding in enumerate(request.bindings):
            if binding.address.channel is not endpoint.capabilities.channel:
                continue
            met = True
            against = _against_binding(request, endpoint, binding) or against_endpoint
            if against is not None:
                rejected.append(Choice(endpoint.id, binding.address, False, against, index))
                continue
            candidate = _weigh(request, endpoint, index, binding)
            (usable if candidate.spared is None else spared).append(candidate)
        if not met:
            rejected.append(Choice(endpoint.id, None, False, Reason.NO_BINDING))
    return Route(_in_order(usable, spared) + tuple(rejected))


def takes_share(conversation_id: str, endpoint: EndpointId, share: float) -> bool:
    """Whether this conversation belongs to the first `share` (0 to 1) of all: always the same answer for the same ids,
    and a rising share only ever adds conversations."""
    digest = hashlib.blake2b(f"{endpoint}|{conversation_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SHARE_STEPS < share * SHARE_STEPS


def _against_binding(request: RouteRequest, endpoint: EndpointView, binding: Binding) -> Reason | None:
    """What speaks against this address, whatever the endpoint's health."""
    reason: Reason | None = None
    if binding.endpoint is not None and binding.endpoint != endpoint.id:
        reason = Reason.BOUND_ELSEWHERE
    elif not binding.consent:
        reason = Reason.NO_CONSENT
    elif not binding.verified and request.message_class in request.policy.verified_only:
        reason = Reason.NOT_VERIFIED
    elif (endpoint.id, binding.address) in request.excluded:
        reason = Reason.EXCLUDED_BY_ATTEMPT
    elif binding.unreachable_until > request.now:
        reason = Reason.ADDRESS_UNREACHABLE
    else:
        here = _is_current(request, endpoint.id, binding.address)
        reason = against_unverified(request.policy.unverified, binding, here=here)
    return reason


def _against_endpoint(request: RouteRequest, endpoint: EndpointView) -> Reason | None:
    """What speaks against this endpoint, whoever is to be reached; the most telling reason first."""
    capabilities = endpoint.capabilities
    trusted = endpoint.forced == "up"
    checks = (
        (_class_forbids(request, capabilities.channel), Reason.CLASS_FORBIDS),
        (endpoint.forced == "down", Reason.FORCED_DOWN),
        (not trusted and endpoint.status_out is Status.DOWN, Reason.STATUS_DOWN),
        (not trusted and not request.notice_only and endpoint.status_in is Status.DOWN, Reason.INBOUND_DOWN),
        (not endpoint.gate_open, Reason.GATE_CLOSED),
        (not request.notice_only and not capabilities.replyable, Reason.NOT_REPLYABLE),
        (request.text_length > capabilities.text_max, Reason.TEXT_TOO_LONG),
        (request.files_must_go and request.files_bytes > capabilities.files_max_bytes, Reason.FILES_NOT_CARRIED),
    )
    return next((reason for holds, reason in checks if holds), None)


def _class_forbids(request: RouteRequest, channel: Channel) -> bool:
    if channel in request.policy.forbidden.get(request.message_class, frozenset()):
        return True
    return request.message_class is MessageClass.SECRET and channel is not _own_channel(request)


def _own_channel(request: RouteRequest) -> Channel | None:
    """The channel that a secret may not leave. Unknown: no channel will do, because a guess could give it away."""
    if request.own_channel is not None:
        return request.own_channel
    if request.current is not None:
        return request.current.address.channel
    return request.wish.address.channel if request.wish is not None else None


def _weigh(request: RouteRequest, endpoint: EndpointView, index: int, binding: Binding) -> _Candidate:
    current = _is_current(request, endpoint.id, binding.address)
    wished = request.wish is not None and (request.wish.endpoint, request.wish.address) == (
        endpoint.id,
        binding.address,
    )
    aimed = request.target == endpoint.id
    unsure = not current and _unsure(request, endpoint, wished)
    familiar = current or wished
    anchor = _anchor(request)
    if aimed:
        nearness, reason = 0, Reason.FORCED_TARGET
    elif wished:
        nearness, reason = 0, Reason.CURRENT_LEG if current else Reason.WISH
    elif current:
        nearness, reason = 1, Reason.CURRENT_LEG
    elif anchor is not None and anchor.channel is binding.address.channel:
        nearness, reason = 2, Reason.SAME_CHANNEL
    else:
        nearness, reason = 3, Reason.OTHER_CHANNEL
    if not aimed and unsure:
        reason = Reason.SUSPECT
    elif not aimed and not binding.verified and not familiar:
        reason = Reason.UNVERIFIED
    rank = (
        not aimed,
        not binding.verified and not familiar,
        unsure and not aimed,
        nearness,
        binding.address != anchor,
        request.files_bytes > endpoint.capabilities.files_max_bytes,
        binding.order,
        _channel_place(request.policy, binding.address.channel),
        endpoint.capabilities.price,
        endpoint.order,
        -endpoint.room,
        endpoint.id,
        binding.address.value,
    )
    choice = Choice(endpoint.id, binding.address, True, reason, index)
    return _Candidate(choice, rank, None if current or aimed else _left_out_by_share(request, endpoint))


def _is_current(request: RouteRequest, endpoint: EndpointId, address: Address) -> bool:
    return request.current is not None and (request.current.endpoint, request.current.address) == (endpoint, address)


def _anchor(request: RouteRequest) -> Address | None:
    """The address whose channel we would rather not leave."""
    if request.wish is not None:
        return request.wish.address
    return request.current.address if request.current is not None and request.current.endpoint else None


def _unsure(request: RouteRequest, endpoint: EndpointView, wished: bool) -> bool:
    """Whether it ranks below every endpoint that is up. A suspicion alone moves nobody who is already there.

    A recovering endpoint takes new conversations by share; of the others, only those that wrote to it.
    """
    if endpoint.forced == "up":
        return False
    statuses = (endpoint.status_out,) if request.notice_only else (endpoint.status_out, endpoint.status_in)
    if Status.SUSPECT in statuses:
        return True
    return Status.RECOVERING in statuses and not request.new and not wished


def _left_out_by_share(request: RouteRequest, endpoint: EndpointView) -> Reason | None:
    if endpoint.room <= 0:
        return Reason.NO_ROOM
    if endpoint.forced == "up" or not request.new:
        return None
    if Status.RECOVERING not in (endpoint.status_out, endpoint.status_in):
        return None
    return None if takes_share(request.conversation_id, endpoint.id, endpoint.share) else Reason.RECOVERING_SHARE


def _channel_place(policy: Policy, channel: Channel) -> int:
    return policy.channel_order.index(channel) if channel in policy.channel_order else len(policy.channel_order)


def _in_order(usable: list[_Candidate], spared: list[_Candidate]) -> tuple[Choice, ...]:
    """Best first. If only percentages are against what is left, the best of it is the last working path."""
    usable.sort(key=_rank)
    # Waiting for room is worse than being early at an endpoint that recovers.
    spared.sort(key=lambda candidate: (candidate.spared is Reason.NO_ROOM, _rank(candidate)))
    taken = [candidate.choice for candidate in usable]
    if not taken and spared:
        taken.append(_renamed(spared.pop(0).choice, taken=True, reason=Reason.LAST_WORKING_PATH))
    elif taken and taken[0].reason is Reason.SUSPECT:
        taken[0] = _renamed(taken[0], taken=True, reason=Reason.LAST_WORKING_PATH)
    left_out = [
        _renamed(candidate.choice, taken=False, reason=candidate.spared)
        for candidate in spared
        if candidate.spared is not None
    ]
    return (*_with_preferred(taken), *left_out)


def _rank(candidate: _Candidate) -> tuple[object, ...]:
    return candidate.rank


def _with_preferred(taken: list[Choice]) -> list[Choice]:
    """Nothing came before it although it is no place they know: it is first by their own order."""
    if taken and taken[0].reason is Reason.OTHER_CHANNEL:
        taken[0] = _renamed(taken[0], taken=True, reason=Reason.PREFERRED)
    return taken


def _renamed(choice: Choice, *, taken: bool, reason: Reason) -> Choice:
    return Choice(choice.endpoint, choice.address, taken, reason, choice.binding)
