"""Every operation of the OpenAPI document, with good and bad requests: no fault of ours, answers as promised."""

import os
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
STREAM = "/v1/events"
"""Never ends: it is listened to by tests of its own."""
CHECKS = [
    checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture
def schema(fortress: Any) -> Any:
    """The document as the router serves it, read by an independent client."""
    found = schemathesis.openapi.from_url(f"{fortress.url}/openapi.json", config=SchemathesisConfig())
    found.config.update(base_url=fortress.url)
    return found


@pytest.fixture
def http() -> Iterator[requests.Session]:
    """One client, which keeps its connections."""
    with requests.Session() as session:
        yield session


@pytest.fixture
def known(fortress: Any) -> dict[str, list[str]]:
    """Path parameters that lead somewhere."""
    conversation = fortress.hear("Where is my card?")
    desk = fortress.runtime.switchboard
    view = fortress.run(desk.conversation(conversation))
    message = fortress.run(desk.transcript(conversation))[0].id
    failover = fortress.run(
        desk.start_failover(scope=("sms/twilio",), target=None, who="a test", why="a test", expires_in_s=3600)
    )
    return {
        "conversation_id": [conversation, view.conversation.reference],
        "customer_id": [view.customer.id],
        "message_id": [message],
        "failover_id": [failover.id],
        "incident_id": [],
        "sha256": ["0" * 64],
        "channel": ["sms"],
        "name": ["twilio"],
    }


def _operations(schema: Any) -> list[Any]:
    found = [one.ok() for one in schema.get_all_operations()]
    assert len(found) > 30
    return [one for one in found if one.path != STREAM]


@pytest.mark.timeout(60 + 10 * EXAMPLES)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_makes_us_fail_and_answers_are_what_was_promised(
    fortress: Any, schema: Any, http: requests.Session, known: dict[str, list[str]], mode: GenerationMode
) -> None:
    """Whatever an admin's key may send: no 5xx, the promised schema and media type, and nothing bad is accepted."""
    wrong: list[str] = []

    def look(case: Any, real: Callable[[str, Any], Any]) -> None:
        for name in case.path_parameters or {}:
            case.path_parameters[name] = real(name, case.path_parameters[name])
        response = case.call(session=http, headers=fortress.bearer("admin"), timeout=10, allow_redirects=False)
        sent = parse_qs(urlsplit(response.request.url).query, keep_blank_values=True)
        # An empty list has no form in a query: what would have made it bad was never sent.
        all_sent = {str(name) for name in case.query or {}} <= sent.keys()
        checked = CHECKS if all_sent else [one for one in CHECKS if one is not negative_data_rejection]
        try:
            case.validate_response(response, checks=checked)
        except* AssertionError as found:
            wrong.append(f"{case.method} {case.path}: {[str(one)[:700] for one in found.exceptions]}")
            raise

    for operation in _operations(schema):
        try:
            _examine(operation, mode, known, look)
        except AssertionError as failure:
            wrong.append(f"{operation.label}: {failure}"[:500])
        except ExceptionGroup:
            continue
    assert not wrong, "\n".join(wrong)


def _examine(
    operation: Any, mode: GenerationMode, known: dict[str, list[str]], look: Callable[[Any, Any], None]
) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)
    except Exception as error:
        if "impossible" in str(error).lower() or type(error).__name__ in {"Unsatisfiable", "SkipTest", "Skipped"}:
            return
        raise

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, chance=st.randoms(use_true_random=False))
    def examine(case: Any, chance: Any) -> None:
        def real(name: str, made: Any) -> Any:
            choices = known.get(name, [])
            return chance.choice(choices) if choices and chance.random() < 0.7 else made

        look(case, real)

    examine()
