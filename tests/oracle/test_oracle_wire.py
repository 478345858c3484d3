"""The same scenario through pymilter on libmilter and through us: the wire and the callbacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable

import pytest
from scenarios import SCENARIOS, Scenario
from sidebyside import Side, names, their_side

pytestmark = pytest.mark.oracle

#: Words of a transcript that mean that something did not happen that had to.
WORDS_OF_FAILURE = frozenset({"-", "never-closed", "no-close-callback"})


def comparable(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without the reasons that our errors add after a colon."""
    for event in events:
        for call in event.get("calls", []):
            if call[1:2] == ["error"]:
                call[2] = call[2].partition(":")[0]
    return events


def without_locals(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without what they found in a threading.local."""
    return [{key: event[key] for key in event if key != "local"} for event in events]


Result = tuple[str, list[dict[str, Any]]]

#: How many filters are waited for at once where pymilter says nothing.
AT_ONCE = 16


def expected(scenario: Scenario, side: str) -> str:
    """Return the transcript of a deliberate difference, "" for others."""
    differs = scenario.differs
    if differs is None:
        return ""
    return differs.theirs if side == "theirs" else differs.ours


def silent(scenario: Scenario) -> bool:
    """Tell whether pymilter is waited for in vain."""
    return not {"-", "never-closed"}.isdisjoint(expected(scenario, "theirs").split())


def played(scenario: Scenario, side: Side) -> Result:
    """Play a scenario to a side; return the transcript and the callbacks."""
    process = scenario.kind
    if scenario.fresh:
        process += "-fresh"
    elif scenario.narrow:
        process += "-narrow"
    wire, events = side.play(
        process,
        scenario.behaviour,
        scenario.steps,
        side.name in scenario.closes.split(),
        expected(scenario, side.name),
    )
    if scenario.fresh:
        side.restart(process)
    return wire, comparable(events)


@pytest.fixture(scope="module")
def by_theirs(
    request: pytest.FixtureRequest, theirs: Side
) -> Iterator[Callable[[Scenario], Result]]:
    """What pymilter does, which is asked once, and compared with each way of waiting.

    Where it says nothing the waiting is done for all scenarios at once, each with filters of its
    own.
    """
    wanted: dict[str, Scenario] = {}
    for item in request.session.items:
        scenario = getattr(item, "callspec", None) and item.callspec.params.get("scenario")
        if isinstance(scenario, Scenario) and silent(scenario):
            wanted[scenario.name] = scenario
    sides: list[Side] = []
    mine = threading.local()

    def play(scenario: Scenario) -> Result:
        if not hasattr(mine, "side"):
            mine.side = their_side()
            sides.append(mine.side)
        return played(scenario, mine.side)

    known: dict[str, Result] = {}

    def result(scenario: Scenario) -> Result:
        if scenario.name in waited_for:
            return waited_for[scenario.name].result()
        if scenario.name not in known:
            known[scenario.name] = played(scenario, theirs)
        return known[scenario.name]

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waited_for: dict[str, Future[Result]] = {
                name: pool.submit(play, scenario) for name, scenario in wanted.items()
            }
            yield result
    finally:
        for side in sides:
            side.stop()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_side_by_side(
    waiting: str, scenario: Scenario, by_theirs: Callable[[Scenario], Result], ours: Side
) -> None:
    """Both do the same, or each does what the scenario says of a deliberate difference."""
    their_wire, their_events = by_theirs(scenario)
    our_wire, our_events = played(scenario, ours)
    if waiting == "pool":
        # What a threading.local holds is no promise of the pool's (docs/pool.md).
        their_events, our_events = without_locals(their_events), without_locals(our_events)
    differs = scenario.differs
    if differs is None:
        # A comparison of two failures would compare equal.
        assert set() == WORDS_OF_FAILURE & set(their_wire.split())
        assert their_wire == our_wire
        assert names(their_events) == names(our_events)
        assert their_events == our_events
        return
    assert differs.theirs == their_wire
    assert differs.ours == our_wire
    if differs.their_names is None or differs.our_names is None:
        assert names(their_events) == names(our_events)
    else:
        assert differs.their_names == names(their_events)
        assert differs.our_names == names(our_events)
    # A difference that is none any more is to be taken off the list.
    assert (their_wire, their_events) != (our_wire, our_events)


def test_names_are_unique() -> None:
    """No scenario hides another one of the same name."""
    seen = [scenario.name for scenario in SCENARIOS]
    assert len(set(seen)) == len(seen)


def test_differences_say_who_is_right() -> None:
    """Every deliberate difference gives its reason, where it is decided, and the right side."""
    for scenario in SCENARIOS:
        if scenario.differs is not None:
            assert scenario.differs.right in {"ours", "theirs", "either"}, scenario.name
            assert "(" in scenario.differs.why, scenario.name
