"""What is compared: replies, callbacks, and the message as it is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .cases import DISCARDED, FULL, NOTHING, Kept, pick
from .conftest import Place
from .filters import Log, on_our_engine
from .mta import Stored
from .smtp import Transcript, kind

#: What a scripted filter logs that is a callback.
KNOWN = frozenset((*FULL, "unknown", "abort"))


def check_replies(transcript: Transcript, expected: dict[str, str]) -> None:
    """Compare the replies; where only a code is expected, the text is the MTA's own affair."""
    actual = {
        label: reply if len(expected.get(label, "")) > 3 else reply[:3]
        for label, reply in transcript.replies.items()
    }
    assert expected == actual
    assert transcript.closed == any(reply.startswith("421") for reply in expected.values())


def check_order(log: Log, expected: Any) -> None:
    """Compare the callbacks and their order; None: not looked at."""
    if expected is None:
        return
    names = [name for name in log.names() if name in KNOWN]
    if not on_our_engine():
        # Postfix says abort twice, and libmilter may pass both on (wire spec 3.3, Q4 and Q9).
        names = [
            name for n, name in enumerate(names) if name != "abort" or names[n - 1 : n] != ["abort"]
        ]
    assert list(expected) == names


def check_calls(log: Log, expected: Mapping[str, Any], mta: str) -> None:
    """Compare the arguments of the callbacks that are named."""
    for name, calls in expected.items():
        wanted = [tuple(untoken(one) for one in call) for call in pick(calls, mta)]
        assert wanted == [tuple(untoken(one) for one in call[1:]) for call in log.calls(name)]


def check_raised(log: Log, expected: Any) -> None:
    """Compare what the script's own calls raised: method, type, and the text before any colon."""
    raised = [
        (method, kind, text.partition(":")[0]) for _, method, kind, text in log.calls("raised")
    ]
    assert [tuple(one) for one in expected] == raised


def untoken(value: Any) -> Any:
    """Replace the test's own token in an argument, so that it can be compared."""
    if isinstance(value, str):
        return _untoken(value)
    if isinstance(value, dict):
        return {key: _untoken(text) for key, text in value.items()}
    if isinstance(value, (tuple, list)):
        return [untoken(one) for one in value]
    return value


def _untoken(text: str) -> str:
    return re.sub(r"\bcase-\d+", "{token}", text)


def check_stored(place: Place, wanted: Any, transcript: Transcript) -> None:
    """Compare what the MTA has stored of each message with what is wanted; None: not looked at.

    *wanted* is for the label "content" if it is not a mapping of labels.
    """
    mta = place.mta
    if wanted is None:
        return
    if not isinstance(wanted, dict):
        wanted = {} if wanted is NOTHING else {"content": wanted}
    accepted = {
        label: reply
        for label, reply in transcript.replies.items()
        if kind(label) == "content" and reply.startswith("250")
    }
    assert set(wanted) == set(accepted)
    for label, reply in accepted.items():
        stored = mta.stored(reply)
        if pick(wanted[label], mta.name) is DISCARDED:
            assert stored is None
        else:
            assert stored is not None, "accepted, but not stored"
            compare(pick(wanted[label], mta.name), stored, place)
    if not accepted:
        assert not mta.holds(place.token), "refused, but stored"


def compare(wanted: Kept, stored: Stored, place: Place) -> None:
    """Compare one stored message, part by part."""
    mta = place.mta.name
    assert pick(wanted.sender, mta) == stored.sender
    assert sorted(pick(wanted.recipients, mta)) == stored.recipients
    headers = [
        (name, value.replace("{token}", place.token)) for name, value in pick(wanted.headers, mta)
    ]
    assert headers == list(shown(stored))
    body = pick(wanted.body, mta)
    assert (body.encode() if isinstance(body, str) else body) == stored.body
    assert pick(wanted.quarantine, mta) == stored.quarantine
    notify = pick(wanted.notify, mta)
    if notify is not None:
        assert notify == {address: stored.notify.get(address) for address in notify}


def shown(stored: Stored) -> Iterator[tuple[str, str]]:
    """Yield the headers as cases write them: one blank less, the MTA's own lines normalised."""
    for name, value in stored.headers:
        if name == "Received":
            yield (name, "*")
        elif name != "Return-Path":  # Sendmail's place-holder for the delivery agent
            yield (name, value[1:] if value.startswith(" ") else value)


def tempfailed_or_whole(place: Place, transcript: Transcript, wanted: Kept) -> str:
    """Check that the message was not lost; return "tempfailed" or "whole".

    Either the client was told to try again and nothing is stored, or the message was accepted and
    is stored with all that the filter did to it.
    """
    content = transcript.replies.get("content", "")
    if content.startswith("250"):
        stored = place.mta.stored(content)
        assert stored is not None, "accepted, but not stored"
        compare(wanted, stored, place)
        return "whole"
    bad = [reply for reply in transcript.replies.values() if reply[:1] in "45"]
    assert bad, f"neither accepted nor refused: {transcript.replies}"
    assert all(reply.startswith("4") for reply in bad), f"refused for good: {bad}"
    assert not place.mta.holds(place.token), "refused, but stored"
    return "tempfailed"
