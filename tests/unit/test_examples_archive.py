"""The example archive.py: what it keeps of each message, and what it does when it cannot."""

from __future__ import annotations

import concurrent.futures
import email
import mailbox
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples_support import Program, load, message

import Milter
from Milter import mta
from Milter.mta import Recipient

archive = load("archive")

CLIENT = mta.SmtpClient("mail.example.net", "192.0.2.1", 25)


class Archiver:
    """The program, and the maildir that it writes to."""

    def __init__(self, maildir: Path, *arguments: str) -> None:
        self.maildir = maildir
        self.program = Program("archive", "--maildir", maildir, *arguments)

    def kept(self) -> list[bytes]:
        """Return what is in the maildir, in any order, and empty it."""
        box = mailbox.Maildir(self.maildir, create=False)
        found = [box.get_bytes(key) for key in box.keys()]  # noqa: SIM118 (else: messages)
        box.clear()
        return found


@pytest.fixture(scope="module")
def archiver(waiting: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archiver]:
    """The program, with a maildir that was not there before."""
    archiver = Archiver(tmp_path_factory.mktemp("archive") / "kept")
    yield archiver
    archiver.program.stop()


def test_what_is_kept(archiver: Archiver) -> None:
    """The envelope above, the message below it byte for byte, with a maildir's line ends."""
    sent = message(
        [("Subject", "gr\udcfc\udcdfe\n\tfolded"), ("From", "a")],
        b"one\r\n\xff\r\n.\r\n\r\nno end",
        recipients=[Recipient("<bob@example.com>", ("NOTIFY=NEVER",)), "<carol@example.com>"],
    )
    sent.sender_params = ["SIZE=100", "BODY=8BITMIME"]
    result = archiver.program.send(sent, client=CLIENT)
    assert (mta.Outcome.ACCEPTED, ()) == (result.outcome, result.modifications)
    assert [
        b"X-Archive-Client: mail.example.net [192.0.2.1]\n"
        b"X-Archive-From: <alice@example.org> SIZE=100 BODY=8BITMIME\n"
        b"X-Archive-To: <bob@example.com> NOTIFY=NEVER\n"
        b"X-Archive-To: <carol@example.com>\n"
        b"X-Archive-Queue-Id: 4A5B6C0001\n"
        b"Subject: gr\xfc\xdfe\n\tfolded\nFrom: a\n\none\n\xff\n.\n\nno end"
    ] == archiver.kept()


def test_only_accepted_messages(archiver: Archiver) -> None:
    """A message that is given up leaves nothing, and nothing of it reaches the next."""
    with archiver.program.connect() as session:
        session.negotiate()
        session.connect("c", "192.0.2.1", 25)
        session.helo("c")
        session.mail("<a@example.org>")
        session.rcpt("<b@example.org>")
        session.data()
        session.header("Subject", " lost")
        session.eoh()
        session.body(b"x" * 1000)
        session.abort()
        session.send(message(body="kept\n"))
    (only,) = archiver.kept()
    assert only.endswith(b"\n\nkept\n")
    assert b"lost" not in only


def test_large_and_empty(archiver: Archiver) -> None:
    """A message that does not fit in memory, and one without a body, are kept whole."""
    large = b"0123456789abcdef\r\n" * (archive.MEMORY // 9)
    archiver.program.send(message(body=large))
    assert [large.replace(b"\r\n", b"\n")] == [
        kept.partition(b"\n\n")[2] for kept in archiver.kept()
    ]
    archiver.program.send(message(body=b""))
    assert [b""] == [kept.partition(b"\n\n")[2] for kept in archiver.kept()]


def test_at_once(archiver: Archiver) -> None:
    """Messages that end at the same time are all kept, each once."""

    def several(first: int) -> None:
        with archiver.program.connect() as session:
            for number in range(first, first + 10):
                session.send(message([("X-Number", str(number))]))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(several, range(0, 80, 10)))
    numbers = [int(email.message_from_bytes(data)["X-Number"]) for data in archiver.kept()]
    assert list(range(80)) == sorted(numbers)


def test_nobody_else_can_read_it(archiver: Archiver) -> None:
    """A maildir that the filter has made is open to its own user alone."""
    for path in (archiver.maildir, *archiver.maildir.iterdir()):
        assert 0o700 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.one_mode("it is about the start")
@pytest.mark.parametrize("made", [True, False])
def test_directory_that_is_there(made: bool, tmp_path: Path) -> None:
    """A directory that somebody else has made becomes a maildir; parents are made if need be."""
    path = tmp_path / "var" / "archive"
    if made:
        path.mkdir(parents=True)
    archiver = Archiver(path)
    try:
        assert mta.Outcome.ACCEPTED is archiver.program.send(message()).outcome
        assert 1 == len(archiver.kept())
    finally:
        archiver.program.stop()


def test_no_maildir(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be a maildir ends the program with 2 at the start, and it says why."""
    monkeypatch.setattr(Milter, "runmilter", lambda *_: pytest.fail("it was started"))
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(SystemExit) as caught:
        archive.main(["--maildir", str(tmp_path / "file")])
    assert 2 == caught.value.code
    assert ": error: no maildir: " in capsys.readouterr().err


def break_it(maildir: Path) -> None:
    """Put something in the way of the directory that files are made in."""
    (maildir / "tmp").rmdir()
    (maildir / "tmp").write_text("in the way")


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [((), mta.Outcome.TEMPFAILED), (("--best-effort",), mta.Outcome.ACCEPTED)],
)
def test_when_it_cannot_be_kept(
    waiting: str, tmp_path: Path, arguments: tuple[str, ...], outcome: mta.Outcome
) -> None:
    """Without --best-effort the client is told to try again; the filter goes on either way."""
    archiver = Archiver(tmp_path / "kept", *arguments)
    try:
        break_it(archiver.maildir)
        result = archiver.program.send(message())
        assert outcome is result.outcome
        if not arguments:
            assert "451 4.3.0 The message cannot be archived right now" == result.reply
        assert "not kept: " in archiver.program.log()
        (archiver.maildir / "tmp").unlink()
        (archiver.maildir / "tmp").mkdir()
        assert mta.Outcome.ACCEPTED is archiver.program.send(message()).outcome
        assert 1 == len(archiver.kept())
    finally:
        archiver.program.stop()


def test_nothing_but_the_copy_is_left_open(tmp_path: Path) -> None:
    """However a message ends, the file that it was collected in is closed."""
    for end in ("abort", "close", "eom"):
        mailbox.Maildir(tmp_path / end, create=True)
        instance: Any = archive.Archive()
        instance.directory = str(tmp_path / end)
        instance._ctx = type("Context", (), {"getsymval": staticmethod(lambda name: None)})()
        instance.envfrom("<a@example.org>")
        copy = instance.copy
        instance.data()
        getattr(instance, end)()
        assert copy.closed
        assert instance.copy is None
        instance.close()
