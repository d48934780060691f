"""A drill's report: when it was noticed, who moved where, what waited and why, what must not have happened."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from router.demo.screen import Screen, seconds
from router.domain.reasons import Cause
from router.drill.crowd import Crowd
from router.drill.findings import Course, Findings

NAMED_MAX = 8
"""Customers named one by one."""


def show_findings(screen: Screen, findings: Findings, crowd: Crowd, stuck: str) -> int:
    """Print it; the exit status. `stuck`: why it did not come to its end, or ''."""
    console = screen.console
    console.print()
    console.print(
        "What the stand-ins recorded; statuses are the router's own word. Times since the fault:", style="bold"
    )
    console.print(_times(findings))
    for line in report_lines(findings, crowd):
        console.print(Text(f"  {line}"), soft_wrap=not console.is_terminal)
    console.print()
    screen.counts(findings.verdict)
    console.print()
    faults = (*findings.faults, *([stuck] if stuck else []))
    for fault in faults:
        console.print(Text(f"  {fault}", "red"), soft_wrap=not console.is_terminal)
    if faults:
        screen.say(f"The drill failed: {faults[0].rstrip('.')}.", "bold red")
        return 1
    screen.say(
        "The drill succeeded: nothing was lost, doubled without a flag, or out of order.",
        "bold green",
    )
    return 0


def _times(findings: Findings) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("outage", "suspect", "down", "first moved", "last moved", "mended", "used again", "up"):
        table.add_column(name, justify="left" if name == "outage" else "right", min_width=7)
    for one in findings.courses:
        moves = (one.verdict.first_s, one.verdict.last_s)
        times = (one.suspect_s, one.down_s, *moves, one.mended_s, one.recovering_s, one.up_s)
        table.add_row(f"{one.endpoint} {one.verdict.outage.words}", *(seconds(each) for each in times))
    return table


def report_lines(findings: Findings, crowd: Crowd) -> list[str]:
    """The report's sentences, in the order they are printed."""
    lines: list[str] = []
    for one in findings.courses:
        lines += _lines_of(one)
    for why, count in sorted(findings.parked.items()):
        lines.append(f"{_count(count, 'answer')} parked for a while: {_words(why)}")
    if findings.parked == {}:
        lines.append("No answer was parked.")
    for state, count in sorted(findings.waiting.items()):
        lines.append(f"{_count(count, 'answer')} still {'waits' if count == 1 else 'wait'} in the router: {state}.")
    lines.append(_alone(findings, crowd))
    return lines


def _lines_of(course: Course) -> list[str]:
    moved = sum(course.moved_to.values())
    where = ", ".join(f"{count} to {endpoint}" for endpoint, count in sorted(course.moved_to.items()))
    lines = [f"{course.endpoint}: {_count(moved, 'answer')} moved" + (f": {where}." if where else ".")]
    if course.why:
        lines[0] += f" Down was settled by {course.why.replace('_', ' ')}."
    else:
        lines[0] += " It was never down, so nobody was led away."
    lines.append(
        f"{course.endpoint}: {_count(course.verdict.notices, 'customer')} told by a notice; "
        f"{_count(course.waited, 'answer')} waited until it was mended; "
        f"{_count(course.returned, 'customer')} wrote there again and had the answer there."
    )
    if course.down_s and not course.recovering_s:
        lines.append(f"{course.endpoint}: was not used again before the drill ended.")
    return lines


def _alone(findings: Findings, crowd: Crowd) -> str:
    if not findings.alone:
        return f"Each of the {findings.customers} customers had another way."
    people = {one.number: one for one in crowd.people}
    named = ", ".join(
        f"{number} ({people[number].channel} only)" if not people[number].others else str(number)
        for number in findings.alone[:NAMED_MAX]
    )
    more = f" and {len(findings.alone) - NAMED_MAX} more" if len(findings.alone) > NAMED_MAX else ""
    return (
        f"{len(findings.alone)} of {findings.customers} customers had no other way: {named}{more}. A second endpoint "
        "on their channel, or a second address that they agreed to, would help them."
    )


def _words(why: str) -> str:
    try:
        return Cause(why).words
    except ValueError:
        return f"{why.replace('_', ' ')}." if why else "no route."


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
