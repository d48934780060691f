"""Why an endpoint is taken or rejected, why a side waits or stays: every reason with the sentence people read."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Reason(StrEnum):
    """Why a choice was made; machine-readable, also a metric label."""

    # Taken.
    FORCED_TARGET = "forced_target"  # a forced failover sends everybody here
    CURRENT_LEG = "current_leg"  # the conversation is already here
    WISH = "wish"  # the person last wrote here
    SAME_CHANNEL = "same_channel"  # another endpoint or address of the channel they use
    PREFERRED = "preferred"  # first by the person's own order
    OTHER_CHANNEL = "other_channel"  # further down the person's order
    UNVERIFIED = "unverified"  # allowed, but nobody proved that the address is theirs: after all others
    SUSPECT = "suspect"  # allowed, but suspect or still recovering: after those that are up
    LAST_WORKING_PATH = "last_working_path"  # a percentage was against it, but it is all they have
    # Rejected.
    NO_BINDING = "no_binding"  # the person has no address on this channel
    BOUND_ELSEWHERE = "bound_elsewhere"  # the address belongs to another endpoint: a chat session
    NO_CONSENT = "no_consent"  # they said STOP, or never agreed
    COUNTRY_NOT_ALLOWED = "country_not_allowed"  # an unverified number of a country that is not written to unverified
    UNVERIFIED_LIMIT = "unverified_limit"  # as many unverified numbers as an hour may have were begun with
    NOT_VERIFIED = "not_verified"  # this content goes to verified addresses only
    ADDRESS_UNREACHABLE = "address_unreachable"  # the provider said lately that nobody is there
    EXCLUDED_BY_ATTEMPT = "excluded_by_attempt"  # this very message was already refused there
    CLASS_FORBIDS = "class_forbids"  # a one-time code off its channel
    FORCED_DOWN = "forced_down"  # a forced failover leads away from here
    STATUS_DOWN = "status_down"  # it does not take messages
    INBOUND_DOWN = "inbound_down"  # it takes messages, but answers would not reach us
    GATE_CLOSED = "gate_closed"  # nothing may begin there now
    NOT_REPLYABLE = "not_replyable"  # one-way: nobody could answer
    TEXT_TOO_LONG = "text_too_long"  # the text does not fit one message there
    FILES_NOT_CARRIED = "files_not_carried"  # the files are the point, and it cannot carry them
    RECOVERING_SHARE = "recovering_share"  # it recovers and takes only part of the new conversations
    NO_ROOM = "no_room"  # its own traffic already fills it

    @property
    def words(self) -> str:
        """The sentence that people read."""
        return WORDS[self]


WORDS: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.FORCED_TARGET: "A forced failover sends everybody here.",
        Reason.CURRENT_LEG: "The conversation is already here, and it works.",
        Reason.WISH: "The person last wrote here.",
        Reason.SAME_CHANNEL: "It is the channel the person already uses.",
        Reason.PREFERRED: "It comes first in the person's own order.",
        Reason.OTHER_CHANNEL: "It works and comes later in the person's own order.",
        Reason.UNVERIFIED: "Nobody has proved that the address is theirs, so it comes after all others.",
        Reason.SUSPECT: "It is in doubt or has yet to prove itself, so it comes after those that are up.",
        Reason.LAST_WORKING_PATH: "Nothing better is left, and nobody loses their last working path.",
        Reason.NO_BINDING: "The person has no address on this channel.",
        Reason.BOUND_ELSEWHERE: "The address belongs to another endpoint.",
        Reason.NO_CONSENT: "The person did not agree to be written to here.",
        Reason.COUNTRY_NOT_ALLOWED: "Nobody has verified the number, and its country is not in unverified_countries.",
        Reason.UNVERIFIED_LIMIT: "This hour's unverified numbers are used up (unverified_per_hour).",
        Reason.NOT_VERIFIED: "This kind of content goes to verified addresses only.",
        Reason.ADDRESS_UNREACHABLE: "The provider said lately that nobody is reachable at this address.",
        Reason.EXCLUDED_BY_ATTEMPT: "This message was already refused here.",
        Reason.CLASS_FORBIDS: "This kind of content may not go over this channel.",
        Reason.FORCED_DOWN: "A forced failover leads away from here.",
        Reason.STATUS_DOWN: "The endpoint is down: it takes no messages.",
        Reason.INBOUND_DOWN: "Answers from here would not reach us.",
        Reason.GATE_CLOSED: "The gate is closed: nothing may begin here now.",
        Reason.NOT_REPLYABLE: "Nobody can answer over this endpoint.",
        Reason.TEXT_TOO_LONG: "The text is longer than one message may be here.",
        Reason.FILES_NOT_CARRIED: "The files cannot go over this endpoint.",
        Reason.RECOVERING_SHARE: "It is recovering and takes only a share of the new conversations yet.",
        Reason.NO_ROOM: "Its own traffic leaves no room now.",
    }
)

TAKEN = frozenset(
    {
        Reason.FORCED_TARGET,
        Reason.CURRENT_LEG,
        Reason.WISH,
        Reason.SAME_CHANNEL,
        Reason.PREFERRED,
        Reason.OTHER_CHANNEL,
        Reason.UNVERIFIED,
        Reason.SUSPECT,
        Reason.LAST_WORKING_PATH,
    }
)
"""The reasons of choices that may be used; every other one is a rejection."""


class Cause(StrEnum):
    """Why a side is parked or stays; machine-readable, also a metric label."""

    NO_ROUTE = "no_route"  # every endpoint was rejected; the route says why
    PACED = "paced"  # the targets are full; its turn comes at the time shown
    MOVED_LATELY = "moved_lately"  # it already moved within the last minute
    BULK_WAITS = "bulk_waits"  # bulk does not spend the room that others need
    FROZEN = "frozen"  # most providers seem to fail at once, so it seems to be us
    IDLE = "idle"  # nothing pending, nobody waiting
    WORKS_HERE = "works_here"  # its present leg is the best there is
    AT_HOME = "at_home"  # there is nowhere to go back to
    FAILBACK_SUPPRESSED = "failback_suppressed"  # home went up and down too often
    HOME_NOT_READY = "home_not_ready"  # home is not up both ways, or was rejected
    MID_TURN = "mid_turn"  # something is queued or on its way, or somebody waits for an answer
    JUST_WROTE = "just_wrote"  # the customer may still be there
    PINNED = "pinned"  # the customer wrote somewhere else than home
    RETURNED_OFTEN = "returned_often"  # it already went home three times in an hour

    @property
    def words(self) -> str:
        """The sentence that people read."""
        return CAUSE_WORDS[self]


CAUSE_WORDS: Mapping[Cause, str] = MappingProxyType(
    {
        Cause.NO_ROUTE: "No endpoint can be used for this person now.",
        Cause.PACED: "The endpoints it could use are full; its turn comes at the time shown.",
        Cause.MOVED_LATELY: "It moved within the last minute and does not move again so soon.",
        Cause.BULK_WAITS: "Bulk messages wait, so that conversations get the room.",
        Cause.FROZEN: "Most providers seem to fail at once, so it seems to be us, and nothing is moved for now.",
        Cause.IDLE: "Nothing is pending and nobody waits.",
        Cause.WORKS_HERE: "Where it is now is the best there is.",
        Cause.AT_HOME: "It is where the customer came in, or that is gone.",
        Cause.FAILBACK_SUPPRESSED: "Its home went up and down too often to be trusted yet.",
        Cause.HOME_NOT_READY: "Its home is not up in both directions, or cannot be used for it.",
        Cause.MID_TURN: "Something is on its way, or somebody waits for an answer.",
        Cause.JUST_WROTE: "The customer wrote a short while ago and may still be there.",
        Cause.PINNED: "The customer chose to write here.",
        Cause.RETURNED_OFTEN: "It already went home as often as it may in an hour.",
    }
)
