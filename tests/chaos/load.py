"""Who speaks during a chaos run: agents over `/v1`, customers over their channels; and what stands in transcripts."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp

from channels.messages import Channel
from router.demo.judge import Marker, answer, read_question
from router.demo.people import PeopleStopped, Person
from tests.chaos.world import World, own

SPEAK_EVERY_S = {Channel.EMAIL: 2.0, Channel.CHAT: 1.0, Channel.SMS: 1.0, Channel.PHONE: 20.0}
"""How often an agent says something to one customer; a call takes its time."""
ASK_EVERY_S = {Channel.EMAIL: 5.0, Channel.CHAT: 4.0, Channel.SMS: 4.0, Channel.PHONE: 30.0}
PATIENCE_S = 600.0


async def insist(world: World, work: Callable[[], Awaitable[dict[str, object]]]) -> dict[str, object]:
    """Ask again until it is acknowledged, as a client with an Idempotency-Key may. Raises TimeoutError after 10 min."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await work()
        except (aiohttp.ClientError, ConnectionError, TimeoutError, PeopleStopped) as error:
            words = str(error)
            world.refused["503" if " 503" in words else type(error).__name__] += 1
            if isinstance(error, PeopleStopped) and " 503" not in words:
                raise
            if time.monotonic() > deadline:
                raise TimeoutError("never acknowledged") from error
            await asyncio.sleep(0.5)


async def pause(world: World, seconds: float) -> None:
    """Say nothing for a while, unless it is over."""
    try:
        async with asyncio.timeout(seconds):
            await world.silence.wait()
    except TimeoutError:
        return


async def speak(world: World, person: Person) -> None:
    """An agent's answers to one customer, each after the one before was acknowledged."""
    turn = 0
    await asyncio.sleep(person.number * 0.1)
    while not world.silence.is_set():
        turn += 1
        marker = (person.number, turn)
        path = f"/v1/conversations/{world.conversations[person.number]}/messages"

        async def post(path: str = path, marker: Marker = marker) -> dict[str, object]:
            return await world.api.post(path, {"text": answer(marker)}, key=f"answer-{marker[0]}-{marker[1]}")

        sent = await insist(world, post)
        if sent.get("durable") == "spool":
            world.spooled.add(marker)
        world.acknowledged[marker] = (time.time(), own(person))
        await pause(world, SPEAK_EVERY_S[person.channel])


async def ask(world: World, person: Person) -> None:
    """One customer's questions over their own channel."""
    turn = 1
    while not world.silence.is_set():
        turn += 1
        await write(world, person, turn)
        await pause(world, ASK_EVERY_S[person.channel])


async def write(world: World, person: Person, turn: int) -> None:
    """One question; a vendor brings it in its own time, a browser says it until it is taken."""
    taken = False
    while not taken:
        try:
            await world.customers.ask(turn, [person], own, 0.0)
            taken = True
        except* (PeopleStopped, ConnectionError, aiohttp.ClientError):
            await asyncio.sleep(0.5)
    world.asked[person.number, turn] = time.time()


async def begin(world: World) -> None:
    """Everybody has a conversation before anything breaks."""
    async with asyncio.TaskGroup() as group:
        for person in world.people:
            group.create_task(write(world, person, 1))
    deadline = time.monotonic() + 60
    while len(world.conversations) < len(world.people):
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(world.conversations)} conversations have begun")
        for conversation, marker in await heard(world):
            world.conversations[marker[0]] = conversation
        await asyncio.sleep(0.5)


async def heard(world: World) -> list[tuple[str, Marker]]:
    """Every question as it stands in a transcript, with its conversation."""
    found, cursor = [], ""
    while True:
        page = await world.api.get(f"/v1/conversations?limit=100{cursor}")
        for conversation in page["items"]:
            after = 0
            while True:
                path = f"/v1/conversations/{conversation['id']}/messages?limit=200&after={after}"
                rows = (await world.api.get(path))["items"]
                for row in rows:
                    marker = read_question(row["text"]) if row["to"] == "agent" else None
                    if marker is not None:
                        found.append((conversation["id"], marker))
                if len(rows) < 200:
                    break
                after = rows[-1]["sequence"]
        if not page["next_cursor"]:
            return found
        cursor = f"&cursor={page['next_cursor']}"
