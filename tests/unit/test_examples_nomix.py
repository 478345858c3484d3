"""The example nomix.py: which mixtures of addresses are refused, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from examples_support import Program, load, message

from Milter import mta

nomix = load("nomix")

REPLY = "550 5.7.1 Internal and external addresses must not be mixed in one message"


@pytest.fixture(scope="module")
def program(waiting: str) -> Iterator[Program]:
    """The program, with the top-level domains that it has by default."""
    program = Program("nomix")
    yield program
    program.stop()


@pytest.mark.parametrize(
    ("sender", "recipients", "accepted"),
    [
        ("<a@sales.corp>", ["<b@hr.corp>"], True),
        ("<a@sales.corp>", ["<b@my.personal>"], True),
        ("<a@example.org>", ["<b@example.com>", "<c@example.net>"], True),
        ("<a@sales.corp>", ["<b@example.com>"], False),
        ("<a@example.org>", ["<b@hr.corp>"], False),
        ("<a@sales.corp>", ["<b@hr.corp>", "<c@example.com>"], False),
        ("<a@example.org>", ["<b@example.com>", "<c@corp>"], False),
        # The null sender, and an address without a domain, are neither inside nor outside.
        ("<>", ["<b@hr.corp>"], True),
        ("<>", ["<b@example.com>"], True),
        ("<>", ["<b@hr.corp>", "<b@example.com>"], False),
        ("<a@sales.corp>", ["<postmaster>"], True),
        # Only the last label counts, however it is written.
        ("<a@SALES.CORP>", ["<b@hr.corp.>"], True),
        ("<a@sales.corp>", ["<b@corp.example>"], False),
        ("<a@sales.corp>", ["<b@thecorp>"], False),
        ('<"x@example.org"@sales.corp>', ["<b@hr.corp>"], True),
    ],
)
def test_mixtures(program: Program, sender: str, recipients: list[str], accepted: bool) -> None:
    """All inside or all outside passes; anything else is refused before the content is sent."""
    result = program.send(message(sender=sender, recipients=recipients))
    assert () == result.modifications
    if accepted:
        assert mta.Outcome.ACCEPTED is result.outcome
    else:
        assert (mta.Outcome.REJECTED, REPLY) == (result.outcome, result.reply)
        assert "data" == result.steps[-1].name


def test_the_next_message(program: Program) -> None:
    """A refused message, and one that is given up, leave nothing behind."""
    with program.connect() as session:
        assert (
            mta.Outcome.REJECTED
            is session.send(message(sender="<a@x.corp>", recipients=["<b@example.org>"])).outcome
        )
        session.mail("<a@example.org>")
        session.rcpt("<b@example.org>")
        session.abort()
        assert (
            mta.Outcome.ACCEPTED
            is session.send(message(sender="<a@x.corp>", recipients=["<b@x.corp>"])).outcome
        )


def test_nothing_but_the_envelope_is_asked_for(program: Program) -> None:
    """Neither the client nor the content is told to the filter."""
    result = program.send(message())
    told = [step.name for step in result.steps if step.verdict.kind is not mta.Kind.NOT_SENT]
    assert ["mail", "rcpt", "data", "eom"] == told


def test_other_domains(waiting: str) -> None:
    """--internal takes the place of the default."""
    program = Program("nomix", "--internal", "Lan", "--internal", ".home")
    try:
        for sender, accepted in [("<a@x.lan>", True), ("<a@x.corp>", False)]:
            result = program.send(message(sender=sender, recipients=["<b@x.home>"]))
            assert accepted is (result.outcome is mta.Outcome.ACCEPTED)
    finally:
        program.stop()


@pytest.mark.parametrize(
    ("address", "inside"),
    [("<a@corp>", True), ("<a@b.PERSONAL>", True), ("<a@b.org>", False), ("<>", None),
     ("<a>", None), ("<a@>", None)],
)  # fmt: skip
def test_is_inside(address: str, inside: bool | None) -> None:
    """An address is inside, outside, or without a domain."""
    assert inside is nomix.NoMix().is_inside(address)
