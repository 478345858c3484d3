"""Filters that are stopped, killed and started again while the mail server runs.

What must hold whatever happens: no message is lost. Either the client is told to try again, or the
message is stored with all that the filter did to it.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from .cases import POSTFIX_TEMPFAIL, RECEIVED, SENDMAIL_TEMPFAIL, By, Kept, eom, pick
from .checks import check_stored, compare, tempfailed_or_whole
from .conftest import Place
from .filters import listening_address, on_our_engine
from .mta import answers, wait_until
from .smtp import (
    EHLO,
    GREETING,
    HEADERS,
    QUIT,
    STANDARD,
    Client,
    Flow,
    Say,
    Transcript,
    on_the_wire,
    render,
)
from .smtp import message_steps as message

PLACES = [
    pytest.param((mta, endpoint), id=f"{mta}-{endpoint}", marks=getattr(pytest.mark, mta))
    for mta in ("postfix", "sendmail")
    for endpoint in ("solo-unix", "solo-inet")
]
pytestmark = [pytest.mark.integration, pytest.mark.parametrize("solo", PLACES, indirect=True)]

TEMPFAIL = By(POSTFIX_TEMPFAIL, SENDMAIL_TEMPFAIL)

CHANGES: list[list[Any]] = [
    ["addheader", "X-Added", "v"],
    ["chgheader", "Subject", 1, "Changed"],
    ["replacebody", "another body\r\n"],
]
CHANGED = Kept(
    headers=(
        RECEIVED,
        *((name, "Changed" if name == "Subject" else value) for name, value in HEADERS),
        ("X-Added", "v"),
    ),
    body="another body\n",
)


class Session:
    """An SMTP session that is played in parts, so that things can happen in between."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.client = Client(place.address)
        self.flow = Flow()
        self.transcript = Transcript()
        self.content = on_the_wire(render(place.token))
        self._thread: threading.Thread | None = None

    def say(self, *steps: Say) -> None:
        """Say what is worth saying of these steps."""
        for step in steps:
            if self.flow.wants(step.label):
                reply = self.client.say(step, self.content)
                self.transcript.replies[step.label] = reply
                self.flow.saw(step.label, reply[:3])

    def begin(self, *steps: Say) -> None:
        """Say these steps in a thread, so that the test can act meanwhile."""
        self._thread = threading.Thread(target=self.say, args=steps)
        self._thread.start()

    def finish(self) -> None:
        """Wait for what `begin` began."""
        assert self._thread is not None
        self._thread.join(60)
        assert not self._thread.is_alive(), "the SMTP session hangs"

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


def start_patient(place: Place) -> None:
    """Start a filter that waits for open messages, when it stops, as long as a slow machine takes.

    pymilter cannot be told.
    """
    place.filter.start(*(["drain=60"] if on_our_engine() else []))


def refuses_connections(place: Place) -> bool:
    """Tell whether nobody listens on the filter's socket any more."""
    return not answers(listening_address(place.filter.spec))


def plain_message(place: Place, expected: Any) -> None:
    """Send a message and check what became of it: a `Kept`, or the reply of a tempfail."""
    place.begin()
    log = place.load({"rules": [eom(*CHANGES)]})
    transcript = place.play()
    if isinstance(expected, Kept):
        log.wait_for_close()
        check_stored(place, expected, transcript)
    else:
        assert expected == transcript.replies["mail"]
        assert not place.mta.holds(place.token)


def test_filter_stopped_and_started_again(solo: Place) -> None:
    """Without its filter the MTA says try again; with it back, mail is filtered as before."""
    tempfail = pick(TEMPFAIL, solo.mta.name)
    plain_message(solo, tempfail)
    for _ in range(2):
        solo.filter.start()
        plain_message(solo, CHANGED)
        solo.filter.signal(signal.SIGTERM)
        assert solo.filter.wait() == 0
        plain_message(solo, tempfail)


def test_filter_killed_and_started_again(solo: Place) -> None:
    """What a killed filter leaves behind, a socket file that nobody answers, is no hindrance."""
    solo.filter.start()
    plain_message(solo, CHANGED)
    solo.filter.signal(signal.SIGKILL)
    solo.filter.wait()
    address = listening_address(solo.filter.spec)
    assert not isinstance(address, str) or os.path.exists(address)
    plain_message(solo, pick(TEMPFAIL, solo.mta.name))
    solo.filter.start()
    plain_message(solo, CHANGED)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_with_nothing_open(solo: Place, number: signal.Signals) -> None:
    """Each of the three signals ends an idle filter in order; our socket file goes with it."""
    solo.filter.start()
    plain_message(solo, CHANGED)
    solo.filter.signal(number)
    assert solo.filter.wait() == 0
    address = listening_address(solo.filter.spec)
    if isinstance(address, str) and on_our_engine():
        assert not os.path.exists(address)


#: Where the session is when the signal comes: the last step said, and the steps that follow.
MOMENTS = {
    "ehlo": (STANDARD[:2], STANDARD[2:]),
    "mail": (STANDARD[:3], STANDARD[3:]),
    "rcpt": (STANDARD[:5], STANDARD[5:]),
    "data": (STANDARD[:6], STANDARD[6:]),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_between_two_commands(solo: Place, moment: str) -> None:
    """A filter told to stop lets an open message finish; no message is lost in any case."""
    before, after = MOMENTS[moment]
    start_patient(solo)
    log = solo.load({"rules": [eom(*CHANGES)]})
    session = Session(solo)
    try:
        session.say(*before)
        log.wait_for("hello")
        solo.filter.signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(solo), "the filter does not listen any more")
        session.say(*after)
    finally:
        session.close()
    outcome = tempfailed_or_whole(solo, session.transcript, CHANGED)
    if on_our_engine():
        # Nothing was open after EHLO, so that session is not waited for.
        assert outcome == ("tempfailed" if moment == "ehlo" else "whole")
    assert solo.filter.wait() == 0


@pytest.mark.parametrize("step", ["envfrom", "envrcpt", "data", "header", "eoh", "body", "eom"])
def test_sigterm_in_a_callback(solo: Place, step: str) -> None:
    """A callback that runs when the signal comes is not interrupted, nor is the message."""
    start_patient(solo)
    gate = solo.mta.directory / f"{solo.token}.gate"
    rule: dict[str, Any] = {"on": step, "nth": 1, "gate": str(gate)}
    rules = [{**eom(*CHANGES), **rule}] if step == "eom" else [rule, eom(*CHANGES)]
    log = solo.load({"rules": rules})
    session = Session(solo)
    try:
        session.begin(*STANDARD)
        log.wait_for("waiting")
        solo.filter.signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(solo), "the filter does not listen any more")
        gate.touch()
        session.finish()
    finally:
        gate.touch()
        session.close()
    outcome = tempfailed_or_whole(solo, session.transcript, CHANGED)
    if on_our_engine():
        assert outcome == "whole"
    assert solo.filter.wait() == 0


def test_sigterm_between_two_messages(solo: Place) -> None:
    """The message that is open is finished; the next one on the same connection is put off."""
    start_patient(solo)
    log = solo.load({"rules": [eom(*CHANGES)]})
    session = Session(solo)
    try:
        session.say(GREETING, EHLO, *message("1-")[:3])
        log.wait_for("envrcpt", 2)
        solo.filter.signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(solo), "the filter does not listen any more")
        session.say(*message("1-")[3:])
        first = session.transcript.replies.get("1-content", "")
        assert solo.filter.wait() == 0
        session.say(Say("2-rset", "RSET"), *message("2-"), QUIT)
    finally:
        session.close()
    replies = session.transcript.replies
    if on_our_engine():
        assert first[:3] == "250"
    if first[:3] == "250":
        stored = solo.mta.stored(first)
        assert stored is not None
        compare(CHANGED, stored, solo)
    refused = [
        reply for label, reply in replies.items() if label.startswith("2-") and reply[:1] in "45"
    ]
    assert refused, replies
    assert refused[-1][:1] == "4", replies


def test_sigterm_without_drain(solo: Place) -> None:
    """With drain=0 nobody is waited for, and still no message is lost."""
    if not on_our_engine():
        pytest.skip("not here: drain= is not pymilter's")
    solo.filter.start("drain=0")
    gate = solo.mta.directory / f"{solo.token}.gate"
    log = solo.load({"rules": [{**eom(*CHANGES), "gate": str(gate)}]})
    session = Session(solo)
    try:
        session.begin(*STANDARD)
        log.wait_for("waiting")
        solo.filter.signal(signal.SIGTERM)
        # The gate stays shut: the filter is gone while its callback still waits.
        solo.filter.wait()
        session.finish()
    finally:
        gate.touch()
        session.close()
    assert tempfailed_or_whole(solo, session.transcript, CHANGED) == "tempfailed"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_drain(solo: Place, second: signal.Signals) -> None:
    """A second signal does not wait for open messages; they are put off, not lost."""
    if not on_our_engine():
        pytest.skip("not here: pymilter has no drain that could be ended")
    # A drain longer than the test waits, so that only the second signal can have ended it.
    solo.filter.start("drain=600")
    gate = solo.mta.directory / f"{solo.token}.gate"
    log = solo.load({"rules": [{**eom(*CHANGES), "gate": str(gate)}]})
    session = Session(solo)
    try:
        session.begin(*STANDARD)
        log.wait_for("waiting")
        solo.filter.signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(solo), "the filter does not listen any more")
        solo.filter.signal(second)
        solo.filter.wait()
        session.finish()
    finally:
        gate.touch()
        session.close()
    assert tempfailed_or_whole(solo, session.transcript, CHANGED) == "tempfailed"


@pytest.mark.parametrize("step", ["envrcpt", "header", "eom"])
def test_filter_killed_in_a_callback(solo: Place, step: str) -> None:
    """A filter that dies in the middle of a message, half of its changes made, loses nothing."""
    solo.filter.start()
    gate: Path = solo.mta.directory / f"{solo.token}.gate"
    rule: dict[str, Any] = {"on": step, "gate": str(gate)}
    if step == "eom":
        # progress pushes out what was said before it.
        rule["do"] = [*CHANGES, ["progress"]]
    log = solo.load({"rules": [rule]})
    session = Session(solo)
    try:
        session.begin(*STANDARD)
        log.wait_for("waiting")
        solo.filter.signal(signal.SIGKILL)
        solo.filter.wait()
        session.finish()
    finally:
        session.close()
    assert tempfailed_or_whole(solo, session.transcript, CHANGED) == "tempfailed"
    solo.filter.start()
    plain_message(solo, CHANGED)
