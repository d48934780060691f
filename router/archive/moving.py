"""How a closed conversation leaves Redis: into the archive first."""

from router.archive.archive import Archive
from router.audit.records import Page, SideRecord, read_page
from router.store.store import Store


async def archive_conversation(store: Store, archive: Archive, conversation_id: str) -> str:
    """Move one closed conversation from Redis to the archive, where it stands first.

    Answers `ok`; `open`, `busy` or `changed` (it stays); `missing` (gone; what an earlier run left is removed).
    """
    pages: list[Page] = []
    while not pages or (pages[-1].messages and pages[-1].end < pages[-1].length):
        page = await read_page(store, conversation_id, pages[-1].end if pages else 0)
        if page is None:
            return await store.forget(conversation_id, sequence="", closed_at="")
        pages.append(page)
    last = pages[-1]
    if last.fields.get("op") == "0" and any(_has_work(side) for side in last.sides):
        return "busy"
    if last.fields.get("op") != "0":
        return await store.forget(conversation_id, sequence="", closed_at="")
    await archive.keep(pages)
    answer = await store.forget(conversation_id, sequence=last.fields["sq"], closed_at=last.fields["ca"])
    if answer == "ok":
        await store.let_reference_go(last.fields["rf"])
    return answer


def _has_work(side: SideRecord) -> bool:
    return bool(side.queue or side.notice or side.number("l") or side.fields.get("dp"))
