"""Judges a run by the journals of vendors and clients alone; it never reads our store."""

from collections import defaultdict

from tests.simulation.people import Said, Talk
from tests.simulation.server import Begun
from tests.simulation.vendors import Taken
from tests.simulation.world import World

VISIBLY_ENDED = frozenset({"failed", "expired", "undelivered", "cancelled", "unconfirmed"})


def judge(world: World) -> list[str]:
    """Everything that must not have happened; empty: the run was good."""
    wrong = list(dict.fromkeys(world.wrong))
    if world.loop.given_up:
        return wrong
    taken = sorted((one for vendor in world.vendors.values() for one in vendor.journal), key=lambda one: one.at)
    by_message: dict[str, list[Taken]] = defaultdict(list)
    for one in taken:
        by_message[one.message_id].append(one)
    begun = {one.token: one for one in world.server.begun.values()}
    for talk in world.talks:
        for said in talk.said:
            wrong += _promise_kept(said, by_message.get(said.message_id, []), talk, world)
        for side in ("c", "a"):
            wrong += _in_order([one for one in talk.said if one.to == side], by_message, begun)
            wrong += _behind_each_other([one for one in talk.said if one.to == side])
        wrong += _consented(talk, world)
        wrong += _nothing_late(talk, world)
    for message_id, takes in by_message.items():
        wrong += _flagged(message_id, takes, begun)
    wrong += [f"left over: {one}" for one in world.left()]
    return wrong


def _promise_kept(said: Said, takes: list[Taken], talk: Talk, world: World) -> list[str]:
    """Every acknowledged accept is delivered, or visibly ended."""
    if said.answer in {"conversation_closed", "unknown_conversation", "queue_full"}:
        return []
    if said.spooled and said.state == "missing" and f'"{said.key}"' in world.set_aside and talk.closed:
        return []  # its conversation was closed before Redis was back
    if not said.message_id:
        return [f"{said.key} was never answered"]
    if said.state == "missing":
        return [f"{said.key} ({said.message_id}) was accepted and is gone"]
    if any(said.key not in one.text for one in takes):
        return [f"{said.key} ({said.message_id}) was said in other words"]
    strangers = [one for one in takes if not _theirs(one, said, talk)]
    if strangers:
        return [f"{said.key} was said to {strangers[0].place} over {strangers[0].endpoint}, a stranger"]
    if said.state in {"delivered", "read"}:
        return [] if any(one.delivered for one in takes) else [f"{said.key} is {said.state}, but nobody delivered it"]
    if any(one.told for one in takes):
        return [f"{said.key} ({said.message_id}) is {said.state}, although its vendor told us that it was delivered"]
    if said.state == "sent":
        return [] if takes else [f"{said.key} ({said.message_id}) is sent, but no vendor ever took it"]
    if said.state in VISIBLY_ENDED:
        return [] if said.reason or said.state in {"expired", "cancelled"} else [f"{said.key} ended without a reason"]
    if said.state in {"parked", "queued", "unknown"} and world.lookout.excuses(said):
        return []
    return [f"{said.key} ({said.message_id}) is {said.state} {said.reason} after everything is quiet"]


def _theirs(one: Taken, said: Said, talk: Talk) -> bool:
    if said.to == "a":
        agent = [str(binding.address) for binding in talk.agent.bindings] if talk.agent else []
        return one.place in {"chat:console", *agent}
    return one.place in {str(binding.address) for binding in talk.bindings}


def _in_order(said: list[Said], by_message: dict[str, list[Taken]], begun: dict[str, Begun]) -> list[str]:
    """Who heard what first, in the order that was promised."""
    wrong = []
    latest, before = 0.0, None
    for one in sorted((one for one in said if one.message_id), key=lambda one: one.sequence):
        takes = [take for take in by_message.get(one.message_id, []) if not _belated(take, begun)]
        if not takes:
            continue
        first = min(take.at for take in takes)
        if first < latest and before is not None:
            wrong.append(f"{one.key} (#{one.sequence}) was taken before {before.key} (#{before.sequence})")
        if first > latest:
            latest, before = first, one
    return wrong


def _behind_each_other(said: list[Said]) -> list[str]:
    """What was promised before something else was asked has its place before it.

    A spool gives no place: behind what it promised stands what was asked of the same process alone.
    """
    placed = [one for one in said if one.sequence]
    return [
        f"{later.key} (#{later.sequence}) was asked after {one.key} (#{one.sequence}) was promised"
        for one in placed
        for later in placed
        if one.answered_at < later.asked_at
        and one.sequence > later.sequence
        and (not one.spooled or (one.doors == later.doors and len(one.doors) == 1 and one.where == later.where))
    ]


def _belated(take: Taken, begun: dict[str, Begun]) -> bool:
    """Written after its lease by a process that was stopped right at the commit point: no protocol could prevent it."""
    one = begun.get(take.token)
    return one is not None and take.at > one.at_s + (one.deadline_ms - one.at_ms) / 1000


def _flagged(message_id: str, takes: list[Taken], begun: dict[str, Begun]) -> list[str]:
    """Of what was taken twice, whatever was begun later carried the flag."""
    takes = [one for one in takes if one.shown]
    takes = sorted(takes, key=lambda one: begun[one.token].fence if one.token in begun else 0)
    if len(takes) > 1 and takes[0].kind == "notice":
        return [f"notice {message_id} was taken {len(takes)} times"]
    return [
        f"{message_id} was taken at {takes[0].endpoint} and again at {one.endpoint} ({one.token}), unflagged"
        for one in takes[1:]
        if not one.flagged
    ]


def _consented(talk: Talk, world: World) -> list[str]:
    """Nothing is begun at an address after its owner was told that it will not be."""
    wrong = []
    for one in world.server.begun.values():
        since = talk.refused.get(one.place)
        if since is not None and one.side == f"{talk.conversation_id}:c" and one.at_s > since:
            wrong.append(f"{one.token} begun at {one.place}, which was refused {one.at_s - since:.1f} s before")
    return wrong


def _nothing_late(talk: Talk, world: World) -> list[str]:
    expires = {one.message_id: one.expires_at for one in talk.said if one.message_id and one.expires_at}
    return [
        f"{one.token} begun {one.at_ms / 1000 - expires[one.message_id]:.1f} s after it expired"
        for one in world.server.begun.values()
        if one.message_id in expires and one.at_ms >= int(expires[one.message_id] * 1000)
    ]
