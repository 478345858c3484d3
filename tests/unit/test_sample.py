"""The example filter sample.py: its rules, each verdict, what it takes out, what it keeps."""

from __future__ import annotations

import email
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples_support import Program, load, message

import Milter
from harness import Peer, packet, packets
from Milter import mta
from Milter.mta import AddHeader, DeleteHeader, ReplaceBody

sample = load("sample")

# -- messages: what is in the attachments is harmless ----------------------------------------------

MIXED = ("Content-Type", 'multipart/mixed; boundary="xx"')
GOOD_PART = "Content-Type: text/plain\n\nSee the attachment.\n"
BAD_PART = (
    "Content-Type: application/octet-stream\n"
    'Content-Disposition: attachment; filename="invoice.pdf.exe"\n\n'
    "not a program\n"
)
HTML_PART = "Content-Type: text/html\n\n<p>hi</p><script>evil()</script><p>there</p>\n"


def multipart(*parts: str) -> str:
    """Put parts together to a body."""
    return "".join(f"--xx\n{part}" for part in parts) + "--xx--\n"


class FakeContext:
    """What the library's context offers, writing down what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.macros: dict[str, str] = {"i": "4ABC"}

    def setpriv(self, value: object) -> None:
        self.priv = value

    def getsymval(self, name: str) -> str | None:
        return self.macros.get(name)

    def setreply(self, *args: Any) -> None:
        self.calls.append(("setreply", *args))

    def addheader(self, *args: Any) -> None:
        self.calls.append(("addheader", *args))

    def chgheader(self, *args: Any) -> None:
        self.calls.append(("chgheader", *args))

    def replacebody(self, data: bytes) -> None:
        self.calls.append(("replacebody", data))

    def body(self) -> bytes:
        """Return the new body."""
        return b"".join(call[1] for call in self.calls if call[0] == "replacebody")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that files are made in."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def filter_(kept: Path) -> Any:
    """Return a filter object that is connected to a FakeContext; no file of it must be left."""
    instance = sample.sampleMilter()
    instance._setctx(FakeContext())
    assert Milter.CONTINUE == instance.connect("client.example.org", 2, ("192.0.2.1", 4711))
    assert Milter.CONTINUE == instance.hello("client.example.org")
    yield instance
    instance.close()
    assert instance.copy is None
    assert instance.path is None


def begin(instance: Any, *recipients: str) -> None:
    """Play a message's envelope."""
    assert Milter.CONTINUE == instance.envfrom("<alice@example.org>", "SIZE=10")
    for recipient in recipients or ("<bob@example.com>",):
        assert Milter.CONTINUE == instance.envrcpt(recipient)


def play(instance: Any, headers: list[tuple[str, str]], body: str = "", piece: int = 65535) -> Any:
    """Play a message's content to the end, as from the wire; return the last verdict."""
    for name, value in headers:
        assert Milter.CONTINUE == instance.header_bytes(
            name, value.encode("utf-8", "surrogateescape")
        )
    assert Milter.CONTINUE == instance.eoh()
    data = body.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
    for start in range(0, len(data), piece):
        assert Milter.CONTINUE == instance.body(data[start : start + piece])
    return instance.eom()


# -- the envelope ----------------------------------------------------------------------------------


def test_who_has_logged_in(filter_: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The user is the macro that was asked for; None for a client that has not logged in."""
    caplog.set_level(logging.INFO, logger="sample")
    begin(filter_)
    assert (None, None) == (filter_.user, filter_.auth_type)
    filter_._ctx.macros.update({"{auth_authen}": "alice", "{auth_type}": "PLAIN"})
    begin(filter_)
    assert ("alice", "PLAIN") == (filter_.user, filter_.auth_type)
    lines = [record.getMessage() for record in caplog.records if "authent" in record.getMessage()]
    assert [f"[{filter_.id}] authenticated as 'alice' by 'PLAIN'"] == lines


def test_the_macro_is_asked_for() -> None:
    """One macro is asked for at MAIL (API spec 5)."""
    assert ("{auth_authen}",) == sample.sampleMilter.envfrom._symlist


@pytest.mark.parametrize("recipient", ["<MAILER-DAEMON@example.org>", "<Mailer-Daemon@x>"])
def test_mail_to_a_mailer_daemon(filter_: Any, kept: Path, recipient: str) -> None:
    """A message to a mailer daemon is thrown away, and nothing of it kept."""
    begin(filter_)
    copy = filter_.copy
    assert Milter.DISCARD == filter_.envrcpt(recipient)
    assert copy.closed
    assert [] == list(kept.iterdir())


def test_other_recipients(filter_: Any) -> None:
    """A name that only contains that of a mailer daemon is a recipient as any other."""
    begin(filter_, "<my-mailer-daemon@example.org>", "<mailer-daemon>", "<bob@mailer-daemon@x>")


# -- the rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Subject", "=?big5?B?p9o=?="),
        ("Subject", "=?ISO-2022-JP?B?GyRC?="),
        ("subject", "make $$$ fast"),
        ("SUBJECT", "XXX"),
        ("Subject", "buy now!!!"),
        ("Subject", "for FREE"),
        ("Subject", "folded\n\tfor FREE"),
        ("Subject", "ADV: buy"),
        ("Subject", "adv. buy"),
        ("Subject", "cheap ViAgRa"),
        ("Subject", "gr\udcfc\udcdfe for FREE"),
        ("X-Mailer", "Super Mail Bomber 3"),
        ("X-Mailer", "Direct Email"),
        ("x-mailer", "Calypso Version 3"),
        ("Message-ID", "<a>"),
        ("Message-ID", ""),
        ("Message-Id", "\n <"),
    ],
)
def test_header_refused(filter_: Any, name: str, value: str) -> None:
    """A header against a rule refuses the message, with a text, and nothing of it is kept."""
    begin(filter_)
    copy = filter_.copy
    assert Milter.REJECT == filter_.header_bytes(name, value.encode("utf-8", "surrogateescape"))
    assert [("setreply", "554", "5.7.1")] == [call[:3] for call in filter_._ctx.calls]
    assert filter_.copy is None
    assert copy.closed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Subject", "Lunch"),
        ("Subject", "Re: =?big5?B?p9o=?="),
        ("Subject", "advice: read"),
        ("Subject", "my adv: none"),
        ("Subject", "freedom, xxx, $$ !!"),
        ("Comments", "adv: $$$ FREE"),
        ("X-Mailer", "Mutt"),
        ("Message-ID", "<1@a>"),
        ("Message-ID", "1234"),
        ("Subject", "latin \udce9"),
    ],
)
def test_header_accepted(filter_: Any, name: str, value: str) -> None:
    """Another value, or the value in another header, is let through."""
    begin(filter_)
    value_bytes = value.encode("utf-8", "surrogateescape")
    assert Milter.CONTINUE == filter_.header_bytes(name, value_bytes)
    assert [] == filter_._ctx.calls


def test_headers_without_a_sender(filter_: Any, kept: Path) -> None:
    """A message that never began is put off; should its end be told all the same, it passes."""
    assert Milter.CONTINUE == filter_.header("Subject", b"x")
    assert Milter.TEMPFAIL == filter_.eoh()
    assert Milter.CONTINUE == filter_.body(b"x")
    assert Milter.ACCEPT == filter_.eom()
    assert [] == list(kept.iterdir())


# -- the content -----------------------------------------------------------------------------------


def test_copy_is_the_message(filter_: Any, kept: Path) -> None:
    """The copy is byte for byte what came, also where it is not UTF-8; from eoh on in a file."""
    begin(filter_)
    filter_.header("Subject", b"gr\xfcn")
    assert [] == list(kept.iterdir())
    filter_.eoh()
    filter_.body(b"\xff\r\n")
    filter_.body(b"more")
    filter_.copy.flush()
    (path,) = kept.iterdir()
    assert ".defang" == path.suffix
    assert b"Subject: gr\xfcn\n\n\xff\r\nmore" == path.read_bytes()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("Subject", "Lunch")], "at noon?\n"),
        ([("Subject", "Lunch")], ""),
        ([], "no header\n"),
        ([MIXED], multipart(GOOD_PART, GOOD_PART)),
        ([MIXED], multipart(BAD_PART.replace(".exe", ""))),
        ([MIXED], multipart(HTML_PART.replace("script", "b"))),
        ([("Content-Type", "text/plain; charset=utf-8")], "caf\u00e9, \udcff\n"),
        ([MIXED], "no part at all\n"),
    ],
)
def test_harmless_messages(
    filter_: Any, kept: Path, headers: list[tuple[str, str]], body: str
) -> None:
    """A message with nothing to object to is accepted unchanged, and its copy is gone."""
    begin(filter_)
    assert Milter.ACCEPT == play(filter_, headers, body)
    assert [] == filter_._ctx.calls
    assert [] == list(kept.iterdir())


def test_a_bad_attachment(filter_: Any, kept: Path) -> None:
    """It is replaced by a warning that names it, its copy is kept, the other part stays."""
    begin(filter_)
    body = multipart(GOOD_PART, BAD_PART)
    assert Milter.ACCEPT == play(filter_, [("Subject", "invoice"), MIXED], body, piece=7)
    assert {"replacebody"} == {call[0] for call in filter_._ctx.calls}
    new = filter_._ctx.body()
    assert b"not a program" not in new
    assert new.startswith(b"--xx\r\n" + GOOD_PART.replace("\n", "\r\n").encode() + b"--xx\r\n")
    assert b"invoice.pdf.exe" in new
    (path,) = kept.iterdir()
    assert str(path).encode() in new
    assert b"not a program" in path.read_bytes()
    # Line ends as they are in mail.
    assert new.count(b"\n") == new.count(b"\r\n") == new.count(b"\r")


def test_a_script(filter_: Any, kept: Path) -> None:
    """A script is cut out of HTML, and what is around it stays."""
    begin(filter_)
    assert Milter.ACCEPT == play(filter_, [MIXED], multipart(HTML_PART))
    # Without the soft line breaks of quoted-printable (RFC 2045 section 6.7).
    new = filter_._ctx.body().replace(b"=\r\n", b"")
    assert b"evil" not in new
    assert b"<p>hi</p>" in new
    assert b"<p>there</p>" in new
    assert 1 == len(list(kept.iterdir()))


def test_a_message_that_is_the_attachment(filter_: Any) -> None:
    """Its own headers change: all of one name are deleted, the last first, before the body."""
    begin(filter_)
    headers = [
        ("Subject", "invoice"),
        ("Content-Type", 'application/octet-stream; name="invoice.exe"'),
        ("Content-Disposition", "attachment"),
        ("content-disposition", "attachment"),
        ("Content-Transfer-Encoding", "base64"),
    ]
    assert Milter.ACCEPT == play(filter_, headers, "bm90IGEgcHJvZ3JhbQ==\n")
    calls = filter_._ctx.calls
    names = [call[0] for call in calls]
    assert names.index("replacebody") > max(n for n, name in enumerate(names) if "header" in name)
    deleted = [call[1:] for call in calls if call[0] == "chgheader"]
    assert {
        ("content-type", 1, ""),
        ("content-disposition", 1, ""),
        ("content-disposition", 2, ""),
        ("content-transfer-encoding", 1, ""),
    } == {(name.lower(), index, value) for name, index, value in deleted}
    numbers = [index for name, index, _ in deleted if name.lower() == "content-disposition"]
    assert [2, 1] == numbers
    ((name, value, _),) = [call[1:] for call in calls if call[0] == "addheader"]
    assert "content-type" == name.lower()
    assert value.startswith("text/plain")
    assert b"bm90" not in filter_._ctx.body()


def test_pieces(filter_: Any) -> None:
    """A large new body is handed over in pieces, in order, none of them empty."""
    begin(filter_)
    long = "".join(f"line {number}\n" for number in range(10000))
    text = f"Content-Type: text/plain\n\n{long}"
    assert Milter.ACCEPT == play(filter_, [MIXED], multipart(text, BAD_PART))
    pieces = [call[1] for call in filter_._ctx.calls]
    assert len(pieces) > 10
    assert {8192} == {len(piece) for piece in pieces[:-1]}
    assert 0 < len(pieces[-1]) <= 8192
    assert long.replace("\n", "\r\n").encode() in b"".join(pieces)


def test_second_message(filter_: Any, kept: Path) -> None:
    """Nothing of a defanged message reaches the next, and its original stays."""
    begin(filter_)
    assert Milter.ACCEPT == play(filter_, [MIXED], multipart(BAD_PART))
    filter_._ctx.calls.clear()
    begin(filter_)
    assert Milter.ACCEPT == play(filter_, [("Subject", "Lunch")], "noon\n")
    assert [] == filter_._ctx.calls
    assert 5 + 1 == filter_.size
    assert 1 == len(list(kept.iterdir()))


@pytest.mark.parametrize("end", ["abort", "close", "envfrom"])
@pytest.mark.parametrize("late", [False, True])
def test_copy_is_dropped(filter_: Any, kept: Path, end: str, late: bool) -> None:
    """However a message ends before its time, the copy of it is closed and its file gone."""
    begin(filter_)
    if late:
        filter_.eoh()
    filter_.body(b"x")
    copy = filter_.copy
    args = ("<next@example.org>",) if end == "envfrom" else ()
    assert Milter.CONTINUE == getattr(filter_, end)(*args)
    assert copy.closed
    assert filter_.copy is not copy
    assert [] == list(kept.iterdir())


def test_abort_and_close_without_a_message(filter_: Any) -> None:
    """Both may come when there is no message, and twice."""
    for _ in range(2):
        assert Milter.CONTINUE == filter_.abort()
        assert Milter.CONTINUE == filter_.close()


# -- the log ---------------------------------------------------------------------------------------


def test_log_lines_bear_the_connection(filter_: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Each line has the connection's number first, and stays one line whatever comes."""
    caplog.set_level(logging.INFO, logger="sample")
    filter_.hello("evil\nline")
    filter_.envfrom("<a\n@b>", "X=\n")
    filter_.envrcpt("<c\n@d>", "Y=\n")
    play(filter_, [("Subject", "x\n y"), ("X-Mailer", "z\n y")], "x")
    filter_.abort()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) > 7
    assert [] == [line for line in lines if not line.startswith(f"[{filter_.id}] ")]
    assert [] == [line for line in lines if "\n" in line]
    assert f"[{filter_.id}] abort after 1 bytes" == lines[-1]


def test_connections_have_different_numbers() -> None:
    """Two objects never share a number."""
    assert sample.sampleMilter().id != sample.sampleMilter().id


# -- as pymilter's own suite has it (API spec 7) ---------------------------------------------------

SINGLE = 'Content-Type: application/octet-stream; name="plan.scr"\n\nnot a program\n'
#: Message; what stands in its last part in place of what was taken out, None: it stays as it is;
#: whether headers change.
SUITE = {
    "attachment": ("Content-Type: multipart/mixed; boundary=xx\n\n"
                   + multipart(GOOD_PART, BAD_PART), "invoice.pdf.exe", False),
    "html": ("Content-Type: multipart/mixed; boundary=xx\n\n"
             + multipart(GOOD_PART, HTML_PART), "<!--", False),
    "no end": ("Content-Type: multipart/mixed; boundary=xx\n\n"
               + multipart(GOOD_PART, BAD_PART).replace("--xx--\n", ""), "invoice.pdf.exe", False),
    "single": (SINGLE, "plan.scr", True),
    "harmless": ("Content-Type: multipart/mixed; boundary=xx\n\n"
                 + multipart(GOOD_PART, GOOD_PART), None, False),
    "utf-8": ("Subject: caf\u00e9\nContent-Type: text/plain; charset=utf-8\n\ncaf\u00e9\n",
              None, False),
}  # fmt: skip


@pytest.fixture
def _suite(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    """What importing Milter.test does to the process, for one test."""
    monkeypatch.setattr(Milter, "NOREPLY", Milter.CONTINUE)


@pytest.mark.parametrize("name", SUITE)
@pytest.mark.usefixtures("_suite")
def test_with_testbase(name: str, tmp_path: Path) -> None:
    """Mixed with TestBase: what is replaced, and that what comes out is a message."""
    from Milter.test import TestBase

    class Mixed(TestBase, sample.sampleMilter):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            TestBase.__init__(self, str(tmp_path / "milter.log"))
            sample.sampleMilter.__init__(self)

    text, instead, changed = SUITE[name]
    filter_ = Mixed()
    filter_.setsymval("{auth_authen}", "batman")
    filter_.setsymval("j", "mailhost")
    assert Milter.CONTINUE == filter_.connect()
    assert Milter.ACCEPT == filter_.feedFile(io.BytesIO(text.encode()))
    assert "batman" == filter_.user
    assert (instead is not None, changed) == (filter_._bodyreplaced, filter_._headerschanged)
    filter_._body.seek(0)
    check(filter_._body.read(), instead)


@pytest.mark.parametrize("name", SUITE)
@pytest.mark.usefixtures("_suite")
def test_with_testctx(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Driven by TestCtx: the same; and a macro that was not asked for is not seen."""
    from Milter.testctx import TestCtx

    monkeypatch.setattr(Milter, "factory", sample.sampleMilter)
    text, instead, changed = SUITE[name]
    context = TestCtx()
    context._setsymval("{auth_authen}", "batman")
    context._setsymval("{auth_type}", "batcomputer")
    context._setsymval("j", "mailhost")
    assert Milter.CONTINUE == context._connect()
    assert Milter.ACCEPT == context._feedFile(io.BytesIO(text.encode()))
    filter_ = context.getpriv()
    assert ("batman", None) == (filter_.user, filter_.auth_type)
    assert (instead is not None, changed) == (context._bodyreplaced, context._headerschanged)
    context._body.seek(0)
    check(context._body.read(), instead)
    context._close()


def check(data: bytes, instead: str | None) -> None:
    """What came out can be parsed, and its last part is what it is to be."""
    assert b"not a program" not in data
    assert b"evil" not in data
    arrived = email.message_from_bytes(data)
    part = arrived.get_payload(1) if arrived.is_multipart() else arrived
    if instead is not None:
        assert instead in part.get_payload()


# -- the program -----------------------------------------------------------------------------------


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    """--help exits with 0 and names --socket and --timeout."""
    with pytest.raises(SystemExit) as caught:
        sample.main(["--help"])
    assert 0 == caught.value.code
    text = capsys.readouterr().out
    assert "--socket" in text
    assert "--timeout" in text


def test_main_runs_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """main() hands the class, the flags, the socket and the time-out to the library."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Milter, "factory", None)
    monkeypatch.setattr(Milter, "set_flags", lambda flags: calls.append(("flags", flags)))
    monkeypatch.setattr(Milter, "set_exception_policy", lambda p: calls.append(("policy", p)))
    monkeypatch.setattr(Milter, "runmilter", lambda *args: calls.append(("run", *args)))
    sample.main(["--socket", "unix:/nowhere/x", "--timeout", "5"])
    assert [
        ("flags", Milter.CHGBODY | Milter.CHGHDRS | Milter.ADDHDRS),
        ("policy", Milter.TEMPFAIL),
        ("run", "sample", "unix:/nowhere/x", 5),
    ] == calls
    assert Milter.factory is sample.sampleMilter


@pytest.fixture(scope="module")
def program(waiting: str) -> Iterator[Program]:
    """The program, running."""
    program = Program("sample")
    yield program
    program.stop()


def test_over_the_wire(waiting: str) -> None:
    """The program asks for one macro, refuses a header, accepts a message, and stops."""
    program = Program("sample")
    try:
        peer = Peer(program.socket)
        # All actions, as offered; neither DATA nor unknown commands; skip; no reply to connect,
        # HELO and MAIL; and at MAIL (stage 2) one macro.
        peer.send(packets.OFFER)
        peer.expect(
            bytes.fromhex("0000001F 4F 00000006 000001FF 00007700 00000002") + b"{auth_authen}\0"
        )
        peer.send(packets.C, packets.H, packets.M, packets.R, packet("L", b"Subject\0ADV: buy\0"))
        peer.expect(packets.CONTINUE, packet("y", b"554 5.7.1 No advertising here\0"))
        peer.send(packets.M, packets.R, packets.L, packets.N, packets.B, packets.E)
        peer.expect(*[packets.CONTINUE] * 4, packet("a"))
        peer.send(packets.Q)
        peer.expect_close()
        peer.close()
    finally:
        program.stop()


def test_a_bad_attachment_over_the_wire(program: Program) -> None:
    """The message that arrives has the good part, a warning, and its headers as they were."""
    sent = message([("Subject", "invoice"), MIXED], multipart(GOOD_PART, BAD_PART))
    result = program.send(sent)
    assert mta.Outcome.ACCEPTED is result.outcome
    assert {ReplaceBody} == {type(change) for change in result.modifications}
    assert sent.headers == result.message.headers
    arrived = email.message_from_bytes(result.message.as_bytes(b"\n"))
    good, warning = arrived.get_payload()
    assert "See the attachment." == good.get_payload()
    assert "text/plain" == warning.get_content_type()
    assert "invoice.pdf.exe" in warning.get_payload()
    (original,) = program.temporary.iterdir()
    original.unlink()


def test_a_message_that_is_the_attachment_over_the_wire(program: Program) -> None:
    """What arrives is a text, with one Content-Type and without an encoding."""
    headers = [
        ("Content-Type", 'application/octet-stream; name="invoice.exe"'),
        ("Content-Transfer-Encoding", "base64"),
    ]
    result = program.send(message(headers, "bm90IGEgcHJvZ3JhbQ==\n"))
    assert {DeleteHeader, AddHeader, ReplaceBody} == {type(each) for each in result.modifications}
    (content_type,) = result.message.get_all("Content-Type")
    assert content_type.startswith(b"text/plain")
    assert [] == result.message.get_all("Content-Transfer-Encoding")
    assert b"invoice.exe" in result.message.body
    (original,) = program.temporary.iterdir()
    original.unlink()


def test_harmless_over_the_wire(program: Program) -> None:
    """Several messages in one session pass unchanged and leave no file."""
    with program.connect() as session:
        for _ in range(3):
            result = session.send(message())
            assert (mta.Outcome.ACCEPTED, ()) == (result.outcome, result.modifications)
    assert [] == list(program.temporary.iterdir())


def test_a_full_disk_over_the_wire(waiting: str) -> None:
    """A message that cannot be copied is put off, and the next one is served."""
    program = Program("sample")
    try:
        # Now it has chosen its directory.
        assert mta.Outcome.ACCEPTED is program.send(message()).outcome
        program.temporary.rmdir()
        assert mta.Outcome.TEMPFAILED is program.send(message()).outcome
        program.temporary.mkdir()
        assert mta.Outcome.ACCEPTED is program.send(message()).outcome
    finally:
        program.stop(faults=True)
