"""The table of `cases`, played through each mail server over each kind of socket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from .cases import CASES, DISCARDED, NOTHING, Case, Kept, pick
from .conftest import Place
from .filters import Log, on_our_engine
from .mta import Stored
from .smtp import Transcript, expected_replies, kind, render


def rows() -> Iterator[Any]:
    """Yield the parameters: the cases of one endpoint together, so that few filters run at once."""
    for mta in ("postfix", "sendmail"):
        for endpoint in ("unix", "inet", "inet6"):
            for case in CASES:
                if mta in case.mtas and endpoint in case.endpoints:
                    yield pytest.param(
                        (mta, endpoint),
                        case,
                        id=f"{mta}-{endpoint}-{case.id}",
                        marks=[pytest.mark.integration, getattr(pytest.mark, mta)],
                    )


@pytest.mark.parametrize(("place", "case"), list(rows()), indirect=["place"])
def test_case(place: Place, case: Case) -> None:
    """The MTA replies, the callbacks come, and the message is stored as the row says."""
    if case.ours and not on_our_engine():
        pytest.skip(f"not here: {case.ours}")
    log = place.load({**case.script, "rules": list(case.rules)})
    content = render(place.token, case.headers, case.body)
    steps = pick(case.steps, place.mta.name)
    transcript = place.play(steps, content)
    log.wait_for_close()
    check_replies(transcript, dict(expected_replies(steps, pick(case.replies, place.mta.name))))
    check_callbacks(log, case, place.mta.name)
    check_stored(place, case, transcript)


def check_replies(transcript: Transcript, expected: dict[str, str]) -> None:
    """Compare the replies; where only a code is expected, the text is the MTA's own affair."""
    actual = {
        label: reply if len(expected.get(label, "")) > 3 else reply[:3]
        for label, reply in transcript.replies.items()
    }
    assert expected == actual
    assert transcript.closed == any(reply.startswith("421") for reply in expected.values())


def check_callbacks(log: Log, case: Case, mta: str) -> None:
    """Compare the callbacks, their order, and the arguments that the case looks at."""
    expected = pick(case.callbacks, mta)
    if expected is not None:
        assert list(expected) == [name for name in log.names() if name != "raised"]
    for name, calls in pick(case.calls, mta).items():
        wanted = [tuple(untoken(one) for one in call) for call in pick(calls, mta)]
        assert wanted == [tuple(untoken(one) for one in call[1:]) for call in log.calls(name)]
    raised = [tuple(call[1:]) for call in log.calls("raised")]
    assert [tuple(one) for one in pick(case.raised, mta)] == raised


def untoken(value: Any) -> Any:
    """Replace the test's own token in an argument, so that it can be compared."""
    if isinstance(value, str):
        return _untoken(value)
    if isinstance(value, dict):
        return {key: _untoken(text) for key, text in value.items()}
    return value


def _untoken(text: str) -> str:
    return re.sub(r"\bcase-\d+", "{token}", text)


def check_stored(place: Place, case: Case, transcript: Transcript) -> None:
    """Compare what the MTA has stored of each message with what the case wants."""
    mta = place.mta
    wanted = pick(case.stored, mta.name)
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
