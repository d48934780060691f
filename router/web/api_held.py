"""Serve `/v1/held`."""

from router.web.models_held import Held, HeldFiled, HeldFiling, HeldPage, HeldQuery
from router.web.models_people import Nothing
from router.web.routes import Call


async def held(call: Call[Nothing, HeldQuery]) -> HeldPage:
    """What waits for proof, who waits longest first."""
    page = await call.switchboard.held(cursor=call.query.cursor, limit=call.query.limit)
    items = tuple(Held.of(view, private=call.private) for view in page.items)
    return HeldPage(items=items, next_cursor=page.next_cursor, total=await call.switchboard.held_count())


async def dismiss_held(call: Call[Nothing, Nothing]) -> Held:
    """It is nobody's."""
    view = await call.switchboard.dismiss_held(call.path["held_id"], who=call.key.author)
    return Held.of(view, private=call.private)


async def file_held(call: Call[HeldFiling, Nothing]) -> HeldFiled:
    """File it in a conversation."""
    filed = await call.switchboard.file_held(call.path["held_id"], call.body.conversation_id, who=call.key.author)
    return HeldFiled(conversation_id=filed.conversation_id, messages=filed.count)
