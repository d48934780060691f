"""Incidents open, gather, and close by themselves."""

from health.incident import (
    TIMELINE_MAX,
    IncidentEvent,
    IncidentState,
    acknowledge,
    append,
    find_incident,
    from_json,
    open_incident,
    resolve,
    take_in,
    to_json,
    withdraw,
)
from health.report import Direction, EndpointId, Status, Transition


def went(name, after, at, before=Status.UP, direction=Direction.OUT):
    return Transition(EndpointId(name), direction, before, after, at, "five_in_a_row", f"{name} is {after}.")


def test_endpoints_that_go_down_within_a_minute_share_an_incident():
    """Later ones get their own, unless the same provider runs them."""
    first = open_incident("inc-1", went("sms/acme", Status.DOWN, 100), "acme")
    assert find_incident([first], went("email/post", Status.DOWN, 150), "post") is first
    assert find_incident([first], went("email/post", Status.DOWN, 170), "post") is None
    assert find_incident([first], went("phone/acme", Status.DOWN, 900), "acme") is first
    assert find_incident([first], went("email/post", Status.SUSPECT, 110), "post") is None


def test_it_resolves_itself_once_everything_is_up():
    """Recovering is not up; one of two is not everything."""
    incident = open_incident("inc-1", went("sms/acme", Status.DOWN, 100))
    incident = take_in(incident, went("email/post", Status.DOWN, 130))
    incident = take_in(incident, went("sms/acme", Status.RECOVERING, 200))
    incident = take_in(incident, went("sms/acme", Status.UP, 320))
    assert incident.state is IncidentState.OPEN
    incident = take_in(incident, went("email/post", Status.UP, 400))
    assert (incident.state, incident.resolved_at) == (IncidentState.RESOLVED, 400)
    assert [event.kind for event in incident.timeline] == [
        "went_down", "went_down", "recovering", "came_up", "came_up", "resolved",
    ]  # fmt: skip
    assert "over after 5 min" in incident.title


def test_both_directions_of_an_endpoint_must_be_up():
    """It can be down one way and up the other."""
    incident = open_incident("inc-1", went("sms/acme", Status.DOWN, 100))
    incident = take_in(incident, went("sms/acme", Status.DOWN, 101, direction=Direction.IN))
    assert take_in(incident, went("sms/acme", Status.UP, 300)).state is IncidentState.OPEN


def test_a_person_acknowledges_once():
    """The first one stands; a resolved incident is not reopened by it."""
    incident = acknowledge(open_incident("inc-1", went("sms/acme", Status.DOWN, 100)), "Ada", 110)
    assert acknowledge(incident, "Bob", 120) is incident
    assert (incident.state, incident.acknowledged_by) == (IncidentState.ACKNOWLEDGED, "Ada")
    over = resolve(incident, 200, "Done.", "Ada")
    assert acknowledge(over, "Bob", 210) is over
    assert resolve(over, 220, "Again.") is over


def test_an_endpoint_that_is_no_longer_configured_does_not_keep_it_open():
    """Nothing would ever say that it is up."""
    incident = open_incident("inc-1", went("sms/acme", Status.DOWN, 100))
    assert withdraw(incident, EndpointId("sms/other"), 150) is incident
    assert withdraw(incident, EndpointId("sms/acme"), 150).state is IncidentState.RESOLVED
    both = take_in(incident, went("email/post", Status.DOWN, 130))
    assert withdraw(both, EndpointId("sms/acme"), 150).state is IncidentState.OPEN


def test_the_timeline_is_bounded_and_keeps_how_it_began():
    """500 events, the middle let go and counted."""
    incident = open_incident("inc-1", went("sms/acme", Status.DOWN, 100))
    for number in range(700):
        incident = append(incident, IncidentEvent(101 + number, "note", f"note {number} " + "x" * 1000))
    assert len(incident.timeline) == TIMELINE_MAX
    assert incident.timeline[0].kind == "went_down"
    assert incident.timeline[-1].words.startswith("note 699 ")
    assert incident.dropped == 201
    assert max(len(event.words) for event in incident.timeline) == 400


def test_it_is_read_back_as_it_was_stored():
    """JSON and back."""
    incident = acknowledge(open_incident("inc-1", went("sms/acme", Status.DOWN, 100), "acme"), "Ada", 110)
    assert from_json(to_json(incident)) == incident
