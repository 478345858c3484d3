"""The PyPI package miltertest plays the mail server, against pymilter and against us."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from scenarios import ONE_OF_EACH, RAISE
from sidebyside import HERE, ORACLE_PYTHON, PATIENCE, Side, environment

pytestmark = pytest.mark.oracle


def play(side: Side, behaviour: dict[str, Any], scenario: str) -> list[Any]:
    """Play a scenario to a side and return the exchanges."""
    side.start("base")
    side.path("base", "behaviour").write_text(json.dumps(behaviour), encoding="utf-8")
    side.path("base", "out").write_text("", encoding="utf-8")
    done = subprocess.run(
        [str(ORACLE_PYTHON), str(HERE / "pypi_client.py"), str(side.path("base", "sock")),
         scenario],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=5 * PATIENCE, check=False, env=environment(ours=False),
    )  # fmt: skip
    text = done.stdout.decode("utf-8", "replace")
    assert 0 == done.returncode, text
    return [json.loads(line) for line in text.splitlines()]


def test_message(theirs: Side, ours: Side) -> None:
    """A whole message: every step continued, and the same to both."""
    played = play(ours, {}, "message")
    assert ["negotiate", "connect", "helo", "mail", "rcpt", "data", "headers", "eoh", "body",
            "eom", "end"] == [what for what, _ in played]  # fmt: skip
    assert play(theirs, {}, "message") == played


@pytest.mark.parametrize("scenario", ["message", "large"])
def test_modifications(theirs: Side, ours: Side, scenario: str) -> None:
    """Every modification is understood, in the same order, and the message ends."""
    # This client takes a change of the sender only with parameters, though they are optional, and
    # takes a quarantine for a verdict.
    calls = [
        [*call, "SIZE=1"] if call[0] == "chgfrom" else call
        for call in ONE_OF_EACH
        if call[0] != "quarantine"
    ]
    behaviour = {"calls": {"eom": calls}}
    played = play(ours, behaviour, scenario)
    assert ["h", "i", "m", "+", "2", "-", "b", "b", "e", "c"] == [
        reply[0] for reply in dict(played)["eom"]
    ]
    assert play(theirs, behaviour, scenario) == played


@pytest.mark.parametrize("verdict", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("step", ["connect", "hello", "envfrom", "envrcpt"])
def test_verdict(theirs: Side, ours: Side, step: str, verdict: int) -> None:
    """Every verdict of the envelope's steps is understood."""
    behaviour = {"returns": {step: verdict}}
    # After a verdict on MAIL, no reply to RCPT must come, so the client stops there.
    scenario = "mail" if step == "envfrom" else "envelope"
    played = play(ours, behaviour, scenario)
    name = {"hello": "helo", "envfrom": "mail", "envrcpt": "rcpt"}.get(step, step)
    assert "crdat"[verdict] == dict(played)[name][0]
    assert play(theirs, behaviour, scenario) == played


@pytest.mark.parametrize(
    "behaviour",
    [
        {"returns": {"envrcpt": 1}, "calls": {"envrcpt": [["setreply", "550", "5.7.1", "no"]]}},
        {"returns": {"envrcpt": 1},
         "calls": {"envrcpt": [["setreply", "550", "5.7.1", "a", "b", "c"]]}},
        {"returns": {"envrcpt": RAISE}},
    ],
    ids=["text", "lines", "exception"],
)  # fmt: skip
def test_reply_text(theirs: Side, ours: Side, behaviour: dict[str, Any]) -> None:
    """A reply with a text is understood as one."""
    played = play(ours, behaviour, "envelope")
    assert "y" == dict(played)["rcpt"][0]
    assert play(theirs, behaviour, "envelope") == played
