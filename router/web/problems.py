"""Problem answers: every error of the HTTP face as RFC 9457 `application/problem+json`."""

import errno
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog
from aiohttp import web
from pydantic import ValidationError

from channels.errors import LocalFault
from router.api_keys import KeysUnavailable
from router.settings_faults import say_form
from router.switchboard import (
    REDIS_AWAY,
    ArchiveUnavailable,
    Conflict,
    Invalid,
    NotFound,
    StoreUnavailable,
    SwitchboardError,
)

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
RETRY_AFTER_S = 2
"""What we ask clients to wait when Redis cannot take it now."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""Our disk does not take it now: nothing was accepted, and the same can be asked again."""
AWAY = (StoreUnavailable, LocalFault, KeysUnavailable, *REDIS_AWAY)
"""We cannot take or read it now; neither the caller's fault nor a defect."""
FAULTS_MAX = 20
"""Field faults named in one answer."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FieldFault:
    """What is wrong with one field; never what stood in it."""

    field: str
    words: str


@dataclass(slots=True)
class Problem(Exception):
    """An answer that is an error. `reason` is machine-readable, `words` are for people."""

    status: int
    reason: str
    words: str
    faults: Sequence[FieldFault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


REASONS: Mapping[str, str] = {
    "agents_address": "The address is an agent's; a customer needs one of their own.",
    "already_begun": "The message has been begun to be said; it cannot be taken back any more.",
    "already_filed": "What was held waits no more: it was filed, or its sender said where it belongs.",
    "already_merged": "One of the two customers is merged already; undo that first, or merge into its customer.",
    "archive_unavailable": "The archive does not answer; what is not archived goes on.",
    "bad_character": "The text holds a NUL character, which no channel carries.",
    "bad_cursor": "The cursor is not one that we gave; begin again without one.",
    "bad_expiry": "A forced failover lasts between 60 seconds and 7 days.",
    "bad_idempotency_key": "The Idempotency-Key is empty or too long.",
    "bad_json": "The body is not JSON.",
    "bad_mailbox": "The address is no mail address.",
    "bad_name": "The name is empty, too long, or not on one line.",
    "bad_number": "The address is no phone number; write it with its country, as in +12025550123.",
    "bad_request": "The request is malformed.",
    "bad_session": "The address is no chat session.",
    "bad_subject": "The subject holds a line break; write it on one line.",
    "being_filed": "Somebody files this in this very moment; look again.",
    "being_said": "Something is being said to the customer in this moment; ask again shortly.",
    "chat_needs_endpoint": "A chat session belongs to one endpoint; name it.",
    "console_token": "A request with the console's cookie lacks its X-CSRF-Token.",
    "conversation_archived": "The conversation is archived: it can be read, and nothing else.",
    "conversation_closed": "The conversation is closed: it takes no more messages until the customer writes again.",
    "conversations_open": "Conversations of the customer are open; close them, or ask again with `close`.",
    "customers_address": "The address is a customer's, and verified; remove it there first, if it is the agent's.",
    "empty_message": "The message is empty; write something, or attach a file.",
    "file_too_large": "One file is larger than a message may carry.",
    "files_too_large": "There are more files, or larger ones together, than a message may carry.",
    "idempotency_key_missing": "This request needs an Idempotency-Key header.",
    "internal": "Our fault; the request id finds it in the log.",
    "invalid": "One or more fields are wrong; `errors` names them.",
    "is_alias": "The customer is merged into another; name that one, or undo the merge first.",
    "key_reused": "The Idempotency-Key was used for something else; use a new one.",
    "media_type": "The body must be application/json, uncompressed.",
    "method_not_allowed": "This path does not take that method; `Allow` says which it takes.",
    "moved_meanwhile": "The conversation moved in this very moment; look again, then decide.",
    "no_binding": "The customer agreed to no address; add a binding with consent first.",
    "no_reason": "A reason is needed: it stands in the journal.",
    "no_route": "The endpoint cannot carry this conversation; `detail` says why.",
    "no_scope": "No endpoint is named to lead away from; name at least one.",
    "not_found": "There is no such thing.",
    "not_merged": "The customer is not merged into another; there is nothing to undo.",
    "origin": "This page may not embed the chat; name its origin in the endpoint's `allowed_origins`.",
    "queue_full": "Too many messages wait in the conversation; take some back, or wait.",
    "role": "The key's role does not allow this.",
    "same_customer": "A customer cannot be merged into itself; name two.",
    "spool_holds": "Something of the customer's waits on disk for Redis; ask again in a minute.",
    "store_unavailable": "Nothing was accepted; ask again after `Retry-After` seconds.",
    "target_in_scope": "The target is one of the endpoints that are left; name another.",
    "text_too_long": "The text is longer than a message may be; `detail` says how long it may be.",
    "too_large": "The body is larger than this path takes.",
    "too_many_bindings": "The customer would have more addresses than one may have; remove some first.",
    "too_many_chats": "Too many chats are open; try again after `Retry-After` seconds.",
    "too_many_failovers": "Too many forced failovers hold at once; stop those that are not needed.",
    "too_many_fields": "There are too many fields of one's own, or a value is too long.",
    "too_many_streams": "There are too many open event streams; ask again later.",
    "too_slow": "The body did not arrive in time.",
    "unauthenticated": "There is no key, or it is unknown or revoked.",
    "unknown_agent": "There is no such agent; a conversation is assigned to one by id, or with an empty id to nobody.",
    "unknown_binding": "The customer has no such address.",
    "unknown_conversation": "There is no such conversation.",
    "unknown_customer": "There is no such customer.",
    "unknown_endpoint": "There is no such endpoint.",
    "unknown_failover": "There is no such failover; it may have ended.",
    "unknown_file": "There is no such file.",
    "unknown_held": "Nothing is held under this id.",
    "unknown_id": "There is nothing with this id.",
    "unknown_incident": "There is no such incident.",
    "unknown_message": "There is no such message.",
    "webhook_refused": "The webhook is not signed, stale or malformed; nothing was accepted.",
    "why_names_them": "The reason names the customer, and it stays in the journal; say it without.",
    "writes_on": "The customer writes again and again while they are erased; ask again in a minute.",
    "wrong_channel": "The endpoint does not carry the channel of this address.",
}
"""Every reason an answer may have, this face's own and the switchboard's, for the page that `type` leads to."""


def problem_response(problem: Problem, request_id: str) -> web.Response:
    """The answer on the wire."""
    body: dict[str, object] = {
        "type": f"/docs#problem-{problem.reason}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.words,
        "reason": problem.reason,
        "instance": f"urn:request:{request_id}",
    }
    if problem.faults:
        body["errors"] = [{"field": fault.field, "detail": fault.words} for fault in problem.faults[:FAULTS_MAX]]
    return web.Response(
        status=problem.status,
        body=json.dumps(body, ensure_ascii=False).encode(),
        content_type="application/problem+json",
        headers=dict(problem.headers),
    )


def faults_of(error: ValidationError) -> list[FieldFault]:
    """A validation error as field faults, without the values: they may be anything, and private."""
    return [
        FieldFault(
            ".".join(str(part) for part in fault["loc"]) or "body",
            say_form(fault["ctx"]["pattern"]) if fault["type"] == "string_pattern_mismatch" else fault["msg"],
        )
        for fault in error.errors(include_input=False, include_url=False)
    ]


def invalid(error: ValidationError) -> Problem:
    """A 422 that names each field."""
    faults = faults_of(error)
    named = ", ".join(dict.fromkeys(fault.field for fault in faults[:5]))
    return Problem(422, "invalid", f"Please correct: {named}.", faults)


def problem_of(error: SwitchboardError) -> Problem:
    """The switchboard's error as an answer."""
    statuses: tuple[tuple[type[SwitchboardError], int], ...] = (
        (NotFound, 404),
        (Conflict, 409),
        (Invalid, 422),
        (ArchiveUnavailable, 503),
    )
    status = next((status for kind, status in statuses if isinstance(error, kind)), 500)
    return Problem(status, error.reason, error.words)


@web.middleware
async def answer_problems(request: web.Request, handler: Serve) -> web.StreamResponse:
    """Turn whatever went wrong into one problem answer; a defect is logged and told without details."""
    request_id = request[REQUEST_ID]
    try:
        return await handler(request)
    except Problem as problem:
        return problem_response(problem, request_id)
    except SwitchboardError as error:
        return problem_response(problem_of(error), request_id)
    except AWAY:
        return problem_response(_unavailable(), request_id)
    except web.HTTPException as answer:
        return _of_aiohttp(answer, request_id)
    except ConnectionResetError:
        raise  # the caller hung up; there is nobody to answer
    except OSError as error:
        if error.errno not in NO_ROOM:
            return _defect(request, request_id)
        log.exception("disk.not_written", route=request.match_info.route.name or "")
        return problem_response(_unavailable(), request_id)
    except Exception:  # noqa: BLE001 - the rim of the face: any defect becomes a 500 that tells but its request id
        return _defect(request, request_id)


def _defect(request: web.Request, request_id: str) -> web.Response:
    """Called while it is being caught."""
    log.exception("request.failed", route=request.match_info.route.name or "")
    words = f"Something went wrong on our side. Please tell us this id: {request_id}."
    return problem_response(Problem(500, "internal", words), request_id)


def _unavailable() -> Problem:
    words = "The router cannot take this now. Nothing was accepted; please try again."
    return Problem(503, "store_unavailable", words, headers={"Retry-After": str(RETRY_AFTER_S)})


def _of_aiohttp(answer: web.HTTPException, request_id: str) -> web.StreamResponse:
    if answer.status < 400:
        raise answer
    reasons = {403: "origin", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 503: "too_many_chats"}
    reason = reasons.get(answer.status, "bad_request")
    headers = {name: answer.headers[name] for name in ("Allow", "Retry-After") if name in answer.headers}
    return problem_response(Problem(answer.status, reason, REASONS[reason], headers=headers), request_id)
