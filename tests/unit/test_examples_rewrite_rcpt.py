"""The example rewrite_rcpt.py: its map, and what becomes of recipients and their parameters."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples_support import Program, load, message

from Milter import mta
from Milter.mta import AddRecipient, DeleteRecipient, Recipient

rewrite_rcpt = load("rewrite_rcpt")

RULES = """\
# who                  gets it instead
bob@example.org        robert@example.com
Bob+X@Example.ORG      x@example.com      # more precise than the line before
all@example.org        alice@example.net, robert@example.com
copy@example.org       copy@example.org keep@example.com
alice@example.org      bob2@example.org
bob2@example.org       carol@example.org

@old.example           @new.example
@catch.example         one@example.com @new.example
"""


@pytest.fixture
def rules(tmp_path: Path) -> Any:
    """The rules above, read from a file."""
    (tmp_path / "map").write_text(RULES, encoding="utf-8")
    return rewrite_rcpt.Map(tmp_path / "map")


@pytest.mark.parametrize(
    ("address", "new"),
    [
        ("bob@example.org", ["robert@example.com"]),
        ("BOB@EXAMPLE.ORG", ["robert@example.com"]),
        ("bob+lists@example.org", ["robert+lists@example.com"]),
        ("bob+a+b@example.org", ["robert+a+b@example.com"]),
        ("bob+@example.org", ["robert+@example.com"]),
        ("bob+x@example.org", ["x@example.com"]),
        ("all@example.org", ["alice@example.net", "robert@example.com"]),
        ("all+y@example.org", ["alice+y@example.net", "robert+y@example.com"]),
        ("Bob@old.example", ["Bob@new.example"]),
        ("Bob+x@old.example", ["Bob+x@new.example"]),
        ('"a b@c"@old.example', ['"a b@c"@new.example']),
        ("x+y@catch.example", ["one@example.com", "x+y@new.example"]),
        # No rule: as it was, to the letter.
        ("Eve@Example.org", ["Eve@Example.org"]),
        ("bob@sub.example.org", ["bob@sub.example.org"]),
        ("bobby@example.org", ["bobby@example.org"]),
        ("postmaster", ["postmaster"]),
        ("", [""]),
    ],
)
def test_rewrite(rules: Any, address: str, new: list[str]) -> None:
    """The whole address, the one without extension, then the domain; the extension is carried."""
    assert new == rules.rewrite(address)


@pytest.mark.parametrize(
    "line",
    [
        "alone@example.org",
        "bob@example.org robert",
        "bob x@example",
        "b\xf6b@example.org x@example",
    ],
)
def test_a_bad_map_is_not_taken(rules: Any, line: str) -> None:
    """A line that is no rule is an error that names it, and the old rules stay."""
    Path(rules.path).write_text(f"x@y z@y # b\xf6b\n{line}\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"map, line 2: "):
        rules.read()
    rules.reload()
    assert ["robert@example.com"] == rules.rewrite("bob@example.org")


@pytest.fixture(scope="module")
def program(waiting: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program with the rules above."""
    path = tmp_path_factory.mktemp("rewrite") / "map"
    path.write_text(RULES, encoding="utf-8")
    program = Program("rewrite_rcpt", "--map", path)
    yield program
    program.stop()


def changes(program: Program, *recipients: str | Recipient) -> list[mta.Modification]:
    """Send a message to these recipients; return what was changed."""
    result = program.send(message(recipients=recipients))
    assert mta.Outcome.ACCEPTED is result.outcome
    return list(result.modifications)


def test_over_the_wire(program: Program) -> None:
    """A recipient becomes another one, or several, and those without a rule are left alone."""
    assert [
        DeleteRecipient("<bob+l@example.org>"),
        DeleteRecipient("<all@example.org>"),
        AddRecipient("<robert+l@example.com>"),
        AddRecipient("<alice@example.net>"),
        AddRecipient("<robert@example.com>"),
    ] == changes(program, "<bob+l@example.org>", "<eve@example.org>", "<all@example.org>")


def test_nothing_to_do(program: Program) -> None:
    """Without a rule for any recipient, nothing is changed."""
    assert [] == changes(program, "<eve@example.org>", "<mallory@example.org>")


def test_who_stays_is_not_touched(program: Program) -> None:
    """One who gets it before and after is neither deleted nor added, however he gets it."""
    assert [AddRecipient("<keep@example.com>")] == changes(program, "<copy@example.org>")
    # alice becomes bob2, and bob2 becomes carol.
    assert [
        DeleteRecipient("<alice@example.org>"),
        AddRecipient("<carol@example.org>"),
    ] == changes(program, "<alice@example.org>", "<bob2@example.org>")


def test_the_same_twice(program: Program) -> None:
    """A recipient that is named twice stays, and one that two become is added once."""
    assert [] == changes(program, "<eve@example.org>", "<eve@example.org>")
    assert [AddRecipient("<robert@example.com>")] == [
        change
        for change in changes(program, "<bob@example.org>", "<all@example.org>")
        if isinstance(change, AddRecipient) and "robert" in change.address
    ]


def test_parameters(program: Program) -> None:
    """What the sender wants to be told goes with the new address, other parameters do not."""
    recipient = Recipient(
        "<bob@example.org>",
        ("NOTIFY=NEVER", "RRVS=2026-01-01T00:00:00Z", "orcpt=rfc822;bob@example.org"),
    )
    assert AddRecipient(
        "<robert@example.com>", "NOTIFY=NEVER orcpt=rfc822;bob@example.org"
    ) == changes(program, recipient)[-1]  # fmt: skip


def test_parameters_need_the_mail_server(program: Program) -> None:
    """A mail server that takes none gets none, and the recipient all the same."""
    with program.connect() as session:
        session.negotiate(actions=mta.DEFAULT_ACTIONS & ~0x80)  # SMFIF_ADDRCPT_PAR
        recipient = Recipient("<bob@example.org>", ("NOTIFY=NEVER",))
        result = session.send(message(recipients=[recipient]))
    assert AddRecipient("<robert@example.com>") == result.modifications[-1]


def test_two_messages(program: Program) -> None:
    """Nothing of one message's recipients reaches the next, whether it was finished or not."""
    with program.connect() as session:
        session.send(message(recipients=["<bob@example.org>"]))
        session.mail("<a@example.org>")
        session.rcpt("<all@example.org>")
        session.abort()
        result = session.send(message(recipients=["<x@old.example>"]))
    assert [DeleteRecipient("<x@old.example>"), AddRecipient("<x@new.example>")] == list(
        result.modifications
    )


def test_sighup_reads_the_map(waiting: str, tmp_path: Path) -> None:
    """SIGHUP has the map read anew, and the filter goes on; a bad map leaves the old one."""
    path = tmp_path / "map"
    path.write_text("a@example.org b@example.org\n", encoding="utf-8")
    program = Program("rewrite_rcpt", "--map", path)
    try:
        path.write_text("a@example.org c@example.org\n", encoding="utf-8")
        program.signal(signal.SIGHUP)
        program.wait_for("1 rules")
        assert AddRecipient("<c@example.org>") == changes(program, "<a@example.org>")[-1]
        path.write_text("nonsense\n", encoding="utf-8")
        program.signal(signal.SIGHUP)
        program.wait_for("the old rules stay: ")
        assert AddRecipient("<c@example.org>") == changes(program, "<a@example.org>")[-1]
    finally:
        program.stop()


def test_a_bad_map_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a map that can be read the program ends with 2 and says why."""
    for path in (tmp_path / "none", tmp_path / "bad"):
        (tmp_path / "bad").write_text("nonsense\n", encoding="utf-8")
        with pytest.raises(SystemExit) as caught:
            rewrite_rcpt.main(["--map", str(path)])
        assert 2 == caught.value.code
        assert str(path) in capsys.readouterr().err
