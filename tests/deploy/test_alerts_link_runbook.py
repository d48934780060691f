"""Alert rules: each links a page that says what to do, and asks for metrics that exist."""

import re
from pathlib import Path

import pytest

from router import gauges, telemetry

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = (DEPLOY / "prometheus/alerts.yaml").read_text()
PAGES = {page.name: page.read_text() for page in (DEPLOY / "runbook").glob("*.md")}
ALERTS = {rule.split("\n")[0].strip(): rule for rule in RULES.split("- alert: ")[1:]}
SOURCE = Path(telemetry.__file__).read_text() + Path(gauges.__file__).read_text()


def test_there_are_alerts() -> None:
    """What is asked of them below is asked of something."""
    assert {"EndpointDown", "RedisDown", "DispatcherSilent", "SupervisorAbsent", "MessagesParked"} < set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_each_links_a_page_that_is_there(name: str) -> None:
    """Whoever is woken finds what to do."""
    (page,) = re.findall(r"runbook: deploy/runbook/(\S+\.md)", ALERTS[name])
    assert page in PAGES


@pytest.mark.parametrize("name", ALERTS)
def test_each_asks_for_metrics_that_exist(name: str) -> None:
    """A misspelt metric never fires."""
    rule = ALERTS[name].split("expr:")[1].split("\n")[0]
    asked = re.findall(r"throughline_[a-z_]+", rule)
    assert asked or 'up{job="throughline"}' in rule
    for metric in asked:
        assert f'"{metric.removesuffix("_total")}"' in SOURCE, metric


@pytest.mark.parametrize("name", ALERTS)
def test_each_says_what_it_means(name: str) -> None:
    """A summary, a description and a severity."""
    for part in ("summary:", "description:", "severity:"):
        assert part in ALERTS[name]


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"README.md"}))
def test_each_page_is_listed(page: str) -> None:
    """The runbook's first page is its table of contents."""
    assert f"({page})" in PAGES["README.md"]


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """No dead end at three in the morning."""
    for target in re.findall(r"\]\(([^)]+\.md)\)", PAGES[page]):
        assert target in PAGES


@pytest.mark.parametrize("page", sorted(PAGES))
def test_commands_on_a_page_exist(page: str) -> None:
    """Every `throughline COMMAND` can be typed."""
    from router.cli.app import throughline

    commands = re.findall(r"(?m)(?:`|^    )throughline ([a-z]+)", PAGES[page])
    assert commands, "whoever was woken can do something"
    for command in commands:
        assert command in throughline.commands


ON_SCREEN = [
    (page, words)
    for page, text in PAGES.items()
    for part in re.split(r"\n\n|\n- ", text)
    for words in re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", part.partition("console")[2])
]
"""What a page tells somebody to look for in the console."""


def test_pages_send_people_to_the_console() -> None:
    """Else nothing would be looked for below."""
    assert {page for page, _ in ON_SCREEN} >= {"held-messages.md", "force-a-failover.md", "read-an-incident.md"}


@pytest.mark.parametrize(("page", "words"), ON_SCREEN)
def test_what_a_page_finds_in_the_console_is_there(page: str, words: str) -> None:
    """Whoever was woken looks for these words on the screen."""
    files = (Path(gauges.__file__).parent / "web/console").glob("*.js")
    screens = "".join(file.read_text() for file in files if file.name != "vendor.js")
    assert words.replace("...", "…") in screens, page
