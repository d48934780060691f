"""Erasing a customer over HTTP: for admins, with a reason, said in the journal."""

from typing import Any


async def erase(face: Any, customer: str, role: str = "admin", **query: str) -> tuple[int, dict[str, Any]]:
    async with face.client.delete(f"/v1/customers/{customer}", params=query, headers=getattr(face, role)) as response:
        return response.status, await response.json()


async def test_an_admin_erases_a_customer(face: Any) -> None:
    """Open conversations stand in the way unless they are to end; afterwards there is no such customer."""
    conversation = await face.hear("Where is my parcel?")
    customer = (await face.runtime.switchboard.conversation(conversation)).customer.id
    status, body = await erase(face, customer, why="asked for it")
    assert (status, body["reason"]) == (409, "conversations_open")
    status, body = await erase(face, customer, why="asked for it", close="true")
    assert status == 200
    assert body == {
        "customer_id": customer, "aliases": [], "conversations": 1, "archived": 0, "files": 0, "spooled": 0,
    }  # fmt: skip
    assert (await erase(face, customer, why="asked for it"))[0] == 404
    async with face.client.get(f"/v1/conversations/{conversation}", headers=face.agent) as response:
        assert response.status == 404
    rows = [row for _, row in await face.runtime.store.journal_last(0, 20)]
    (line,) = [row["f"] for row in rows if row["k"] == "customer.erased"]
    assert "asked for it" in line and '"who":"key:' in line


async def test_nobody_else_may_and_not_without_a_reason(face: Any) -> None:
    """Nor with one that names them."""
    conversation = await face.hear("Where is my parcel?")
    customer = (await face.runtime.switchboard.conversation(conversation)).customer.id
    for role in ("agent", "ops"):
        assert (await erase(face, customer, role, why="asked for it", close="true"))[0] == 403
    assert (await erase(face, customer, close="true"))[0] == 422
    status, body = await erase(face, customer, why="Ada Fischer asked", close="true")
    assert (status, body["reason"]) == (422, "why_names_them")
    assert await face.runtime.store.conversation(conversation) is not None
