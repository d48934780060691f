"""`make chaos`: the real process tree under load, one fault after the other; then a verdict."""

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from router.demo.people import PeopleStopped, introduce
from router.demo.stage import clear, forget_environment, make_folder
from router.process_tree import TreeStopped
from tests.chaos.disk import enter_namespace, mount, unmount
from tests.chaos.faults import Fault, plan
from tests.chaos.load import ask, begin, speak
from tests.chaos.pages import Pages
from tests.chaos.stores import STORES
from tests.chaos.verdict import DRAIN_S, allowed_s, drained, verdict
from tests.chaos.world import World, open_world

BREATH_S = 4.0
"""Between two faults: the next one strikes while the last is still being mended."""
TALKING = 50
"""Of the pages that are only open, how many say something now and then."""


async def watch(world: World) -> None:
    """Without the tree there is nothing left to break. Raises TreeStopped."""
    await asyncio.wait({world.playing})
    world.playing.result()
    raise TreeStopped("The process tree was stopped.")


async def play(
    faults: Sequence[Fault], pages: Pages, arguments: argparse.Namespace, folder: Path, disk: Path, *, store_kind: str
) -> bool:
    """One run over one kind of store; whether all went well."""
    url = ""
    async with open_world(arguments.customers, folder, disk, store_kind=store_kind) as world:
        url = world.settings.public_url.replace("http", "ws", 1) + "/chat/ws"
        async with pages.opened(url, arguments.sockets, min(TALKING, arguments.sockets)), asyncio.TaskGroup() as group:
            background = [group.create_task(one.run()) for one in world.customers.browsers.values()]
            background.append(group.create_task(watch(world)))
            await introduce(world.api, world.people)
            await begin(world)
            await pages.until_open(60.0)
            world.say(f"{len(world.people)} customers have a conversation; agents speak, customers ask, faults begin")
            load = [group.create_task(work(world, person)) for person in world.people for work in (speak, ask)]
            for fault in faults:
                await asyncio.sleep(BREATH_S)
                world.say(fault.name)
                await fault.strike(world)
            world.say("The last fault is over; everybody finishes their sentence")
            world.silence.set()
            since, allowed = time.monotonic(), allowed_s(world)
            await asyncio.wait(load, timeout=DRAIN_S)
            took_s = time.monotonic() - since + await drained(world, allowed)
            wrong = await verdict(world, took_s, allowed) + await judge_pages(world, await pages.report())
            for task in [*load, *background]:
                task.cancel()
    for line in wrong:
        world.say(line)
    world.say("Failed." if wrong else "Nothing acknowledged was lost, doubled without a flag, or out of order.")
    return not wrong


async def judge_pages(world: World, told: dict[str, Any]) -> list[str]:
    """Whatever a page was told is taken stands in a transcript, once."""
    wrong: list[str] = list(told["wrong"][:8]) if not world.gaps else []
    found: Counter[str] = Counter()
    gone = 0
    seen: set[str] = set()
    for said, message in told["taken"].items():
        try:
            row = await world.api.get(f"/v1/messages/{message}")
        except PeopleStopped:
            gone += 1
            continue
        if row["conversation_id"] not in seen:
            seen.add(row["conversation_id"])
            rows = (await world.api.get(f"/v1/conversations/{row['conversation_id']}/messages?limit=200"))["items"]
            found.update(one["text"] for one in rows)
        if found[f"Say {said}."] > 1:
            wrong.append(f"a page's {said} was taken twice")
    world.say(
        f"{told['pages']} pages, {told['open']} open, {told['tries']} connections, {told['resumed']} resumed; "
        f"{len(told['taken'])} sentences of theirs taken, {gone} gone"
    )
    if gone and not world.gaps:
        wrong.append(f"{gone} sentences of pages were taken and are gone")
    return wrong + ([] if told["open"] == told["pages"] else [f"only {told['open']} pages are open"])


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=24)
    parser.add_argument("--sockets", type=int, default=1000, help="chat pages that are open beside them")
    parser.add_argument("--short", action="store_true", help="5 s stops, one vendor: about five minutes")
    parser.add_argument("--long", action="store_true", help="also stops of 60 s")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="these faults, * for any; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="only say the faults' names")
    arguments = parser.parse_args()
    enter_namespace()
    forget_environment()
    folder = make_folder("chaos")
    status = 1
    try:
        status = run(arguments, folder)
    finally:
        if status == 0:
            clear(folder)
        else:
            print(f"Logs and the vendors' journals are in {folder}")
    return status


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Each kind of store, one after the other; the exit status."""
    pages = Pages()
    went_well = True
    for kind in STORES:
        place = folder / kind
        place.mkdir()
        disk = place / "disk"
        small = mount(disk)
        chosen = [
            one
            for one in plan(short=arguments.short, long=arguments.long, disk=disk if small else None, pages=pages)
            if one.store == kind and (not arguments.only or any(fnmatch(one.name, name) for name in arguments.only))
        ]
        if arguments.list:
            print("\n".join(one.name for one in chosen))
            chosen = []
        if not small and kind == "private":
            print("disk-full is left out: this machine lets us mount no disk of our own")
        if chosen:
            well = False
            try:
                well = asyncio.run(play(chosen, pages, arguments, place, disk, store_kind=kind))
            finally:
                if not well and small:  # the disk goes with us
                    shutil.copytree(disk, place / "kept", ignore=shutil.ignore_patterns("*.sock"))
            went_well = went_well and well
        if small:
            unmount(disk)
    return 0 if went_well else 1


if __name__ == "__main__":
    sys.exit(main())
