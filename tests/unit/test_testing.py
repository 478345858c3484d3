"""Milter.testing: filters in memory, in a thread, as a program, somewhere; and what is asserted."""

from __future__ import annotations

import contextvars
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from mta_support import PATIENCE, C, Simple, packet
from testing_filters import Broken, Guard, Quiet

import Milter
from Milter import _programs, mta, testing

PROGRAM = [sys.executable, str(Path(__file__).with_name("testing_filters.py"))]
ROOT = str(Path(__file__).resolve().parents[2])
ENV = {"PYTHONPATH": ROOT, "PYTHONWARNINGS": "default"}

STARTS: dict[str, Callable[[], testing.Client]] = {
    "direct": lambda: testing.direct(Guard),
    "thread": lambda: testing.thread(Guard),
    "pool": lambda: testing.thread(Guard, threads=2),
    "tcp": lambda: testing.thread(Guard, "inet:0@127.0.0.1"),
    "command": lambda: testing.command([*PROGRAM, "{socket}"], env=ENV),
    "command on a path": lambda: testing.command([*PROGRAM, "{path}"], env=ENV),
    "command on a port": lambda: testing.command([*PROGRAM, "inet:{port}@127.0.0.1"], env=ENV),
}


@pytest.fixture
def client() -> Iterator[testing.Client]:
    """Guard, in memory."""
    with testing.direct(Guard) as client:
        yield client


def no_more_threads(before: list[threading.Thread]) -> None:
    """There are no others again; one whose work is done may need a moment to end.

    Nor need those from before be there still: one may have been an earlier test's.
    """

    def others() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before]

    deadline = time.monotonic() + PATIENCE
    while others() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert [] == others()


# -- ways to run a filter ------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS.values(), ids=list(STARTS))
def test_starts(start: Callable[[], testing.Client]) -> None:
    """However the filter runs, a client gets the same out of it, message by message."""
    with start() as client:
        report = client.send(macros={"{auth_authen}": "carol"})
        report.assert_accepted().assert_header("X-User", "carol")
        client.send(sender="bad@example.net").assert_rejected(550, "5.7.1", "go away")


@pytest.mark.parametrize("profile", ["postfix", "sendmail"])
def test_everything(profile: str) -> None:
    """Each modification of a filter is in the report, with either mail server."""
    with testing.direct(Guard, profile=profile) as client:
        report = client.send(body="one\ntwo\n")
        report.assert_accepted()
        report.assert_header("x-user", "nobody").assert_header("Subject", "[seen] test")
        report.assert_body("good\nbye\n").assert_body(b"good\r\nbye\r\n")
        report.assert_sender("bounces@example.org").assert_sender("<bounces@example.org>")
        report.assert_recipients("<copy@example.com>", "bob@example.com")
        report.assert_quarantined("to be looked at").assert_quarantined()
        report.assert_modifications(
            mta.AddHeader("X-User", "nobody"),
            mta.ChangeHeader(1, "Subject", "[seen] test"),
            mta.ReplaceBody(b"good\r\nbye\r\n"),
            mta.AddRecipient("<copy@example.com>"),
            mta.ChangeSender("<bounces@example.org>"),
            mta.Quarantine("to be looked at"),
        )
        assert b"one\r\ntwo\r\n" == report.original.body
        assert "[seen] test" == report.header("Subject")
        assert ["nobody"] == report.headers("X-User")
        assert report.header("X-Other") is None
        assert 250 == report.code


def test_outcomes(client: testing.Client) -> None:
    """Refusals of each kind are told apart, with replies of several lines."""
    client.send(sender="later@example.net").assert_tempfailed(451, "4.7.1", "but later")
    client.send(subject="spam").assert_discarded()
    report = client.send(to=["bad@example.com", "bob@example.com", "bad@example.org"])
    report.assert_accepted().assert_refused("bad@example.com", "<bad@example.org>")
    client.send(to="bad@example.com").assert_rejected().assert_refused("bad@example.com")
    with testing.direct(Quiet) as quiet:
        report = quiet.send()
        report.assert_accepted().assert_unchanged().assert_refused().assert_modifications()
        assert str(report).endswith("\n\nNo changes.")


@pytest.mark.parametrize(
    ("code", "lines", "texts", "others"),
    [
        (
            "5.7.1",
            ["not now", "but later"],
            ["not now\nbut later", "now but l"],
            ["but later\nnot"],
        ),
        (None, ["one", "", "two"], ["one\n\ntwo", "one  two"], ["one two"]),
        ("5.7.1", ["got", "2.0.0 bytes"], ["got 2.0.0 bytes", "550 5.7.1 2.0.0"], ["got bytes"]),
    ],
)
def test_text_across_lines(
    code: Optional[str], lines: list[str], texts: list[str], others: list[str]
) -> None:
    """The text of a reply is looked for across its lines, joined by a line feed or by a blank."""

    class Says(Milter.Base):
        def envfrom(self, sender: str, *params: str) -> int:
            self.setreply("550", code, *lines)
            return Milter.REJECT

    with testing.direct(Says) as client:
        report = client.send()
    for text in texts:
        report.assert_rejected(text=text)
    for text in others:
        with pytest.raises(testing.Failure):
            report.assert_rejected(text=text)


def test_objects(client: testing.Client) -> None:
    """The filter's own objects can be looked at, one for each connection; all have ended."""
    client.send()
    client.send(sender="bad@example.net")
    assert [["envfrom", "close"]] * 2 == [each.events for each in client.objects]


def test_session(client: testing.Client) -> None:
    """In one SMTP session, whole messages and single commands can be mixed."""
    with client.session(mta.SmtpClient("mx.example.net", "192.0.2.1"), "mx") as smtp:
        smtp.send(testing.mail()).assert_accepted()
        assert smtp.mail("<a@example.org>") is None
        reply = smtp.rcpt("<bad@example.com>")
        assert reply is not None
        assert 550 == reply.code
        smtp.reset()
        assert smtp.mail("<a@example.org>") is None
        assert smtp.rcpt("<b@example.com>") is None
        assert smtp.data() is None
        smtp.content(testing.mail(to="b@example.com")).assert_header("X-User", "nobody")
    assert 1 == len(client.objects)
    assert 2 == sum(isinstance(each, testing.Report) for each in client.trail)


def test_raw_session(client: testing.Client) -> None:
    """A connection can be played step by step, below what a mail server does."""
    with client.connect() as session:
        session.negotiate(version=6)
        session.mail("<bad@example.net>")
        assert mta.Kind.REJECT is session.mail("<bad@example.org>").kind
    assert ["mail", "mail"] == [each.name for each in client.trail if isinstance(each, mta.Step)]


def test_default_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a class it is Milter.factory that is tested, as a legacy script sets it."""
    monkeypatch.setattr(Milter, "factory", Guard)
    with testing.direct() as client:
        client.send().assert_header("X-User")


def test_context_variables() -> None:
    """Callbacks in memory see the test's context variables."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="lost")

    class Reads(Milter.Base):
        def eom(self) -> int:
            self.addheader("X-Variable", variable.get())
            return Milter.CONTINUE

    token = variable.set("seen")
    with testing.direct(Reads) as client:
        client.send().assert_header("X-Variable", "seen")
    variable.reset(token)


def test_chain() -> None:
    """Several filters in a row: the second sees what the first has made of the message."""

    class Tags(Milter.Base):
        def eom(self) -> int:
            self.addheader("X-User", "nobody")
            return Milter.ACCEPT

    class Copies(Milter.Base):
        def header(self, name: str, value: str) -> int:
            if name == "X-User":
                self.user = value
            return Milter.CONTINUE

        def eom(self) -> int:
            self.addheader("X-Copy", self.user)
            return Milter.CONTINUE

    with testing.direct(Tags) as first, testing.thread(Copies) as second:
        with testing.chain(first, second) as both:
            both.send().assert_header("X-User", "nobody").assert_header("X-Copy", "nobody")
        # It has not stopped what is not its own.
        second.filters[0].open(1).close()
        first.send().assert_no_header("X-Copy")


def test_at(tmp_path: Path) -> None:
    """A filter that is running already is tested by its socket, and left running."""
    replies = {"E": packet("h", b"X-Checked\0yes\0") + C}
    with Simple(tmp_path / "s", replies) as simple:
        for _ in range(2):
            with testing.at(simple.spec) as client:
                client.send().assert_modifications(mta.AddHeader("X-Checked", "yes"))
        assert 2 == simple.connections


def test_at_nowhere(tmp_path: Path) -> None:
    """A socket that is none is refused at once; one where nobody listens, in the test."""
    with pytest.raises(mta.SocketSpecError):
        testing.at("tcp:nowhere")
    with testing.at(f"unix:{tmp_path}/none") as client, pytest.raises(mta.ConnectError):
        client.send()


def test_stop_ends_connections() -> None:
    """stop() ends what is open, has the last callbacks called, and takes no new connections."""
    client = testing.direct(Guard)
    session = client.connect()
    session.negotiate()
    session.mail("<a@example.org>")
    client.stop()
    client.stop()
    assert ["envfrom", "close"] == client.objects[0].events
    session.close()
    with pytest.raises(mta.ConnectError):
        client.send()


@pytest.mark.parametrize("start", ["direct", "thread", "command"])
def test_stop_leaves_nothing(start: str) -> None:
    """After the block no thread, process or socket of the filter is left."""
    before = threading.enumerate()
    with STARTS[start]() as client:
        client.send()
        spec, filters = client.spec, client.filters
    no_more_threads(before)
    assert not any(each.process.poll() is None for each in filters if hasattr(each, "process"))
    if start != "direct":
        assert not Path(spec.partition(":")[2]).parent.exists()


# -- programs ------------------------------------------------------------------------------------


def test_command_output() -> None:
    """What a program prints is there to be read."""
    with testing.command([*PROGRAM, "{socket}"], env=ENV) as client:
        assert f"listening on {client.spec}\n" == client.output


def test_command_ends() -> None:
    """A program that ends before it listens is an error with its status and what it said."""
    with pytest.raises(testing.StartError) as caught:
        testing.command([*PROGRAM, "fail"], env=ENV)
    assert "(exit status 3) and said:\nbad configuration" in str(caught.value)


def test_command_killed() -> None:
    """For one that a signal ends, the signal is named."""
    with pytest.raises(testing.StartError, match=r"killed by SIGKILL\) and said nothing"):
        testing.command(["/bin/sh", "-c", "kill -9 $$"])


@pytest.mark.parametrize(
    ("program", "cwd", "expected"),
    [
        ("./nothere", None, "cannot start ./nothere: No such file or directory"),
        ("./nothere{port}", None, r"cannot start ./nothere\d+: No such file or directory"),
        ("/", None, "cannot start /: Permission denied"),
        ("/bin/sh", "/not/there", "cannot start /bin/sh: No such file or directory: /not/there"),
    ],
)
def test_command_cannot_start(program: str, cwd: Optional[str], expected: str) -> None:
    """A program that cannot be started is an error of one line that names it, and stands alone."""
    with pytest.raises(testing.StartError) as caught:
        testing.command([program, "{socket}"], cwd=cwd)
    assert re.fullmatch(expected, str(caught.value))
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


def test_command_does_not_listen() -> None:
    """A program that never listens is ended, and the error says so."""
    with pytest.raises(testing.StartError, match=r"does not listen within 0\.2 s"):
        testing.command([sys.executable, "-c", "import time; time.sleep(600)"], patience=0.2)


def test_command_words(tmp_path: Path) -> None:
    """The words stand for the socket in arguments, in the environment and in the spec."""
    code = (
        "import os, socket; s = socket.socket(); s.bind(('127.0.0.1', int(os.environ['P'])));"
        "s.listen(); print(os.getcwd(), flush=True); s.accept(); import time; time.sleep(600)"
    )
    with testing.command(
        [sys.executable, "-c", code], "inet:{port}@127.0.0.1", cwd=tmp_path, env={"P": "{port}"}
    ) as client:
        assert str(tmp_path.resolve()) == client.output.strip()
        assert client.spec.startswith("inet:")


def test_command_port() -> None:
    """A port that was chosen for a program is free, and no other process is given it by chance."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for _ in range(50):
        port = _programs._free_port()
        assert 1024 <= port < 65536
        # Where the system has taken nearly all of them for itself, there is no other.
        assert low < 2048 or not low <= port <= high
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_command_that_ignores_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not end at SIGTERM is killed."""
    monkeypatch.setattr(_programs, "_ENDING", 0.1)
    code = (
        "import signal, socket, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(600)"
    )
    with testing.command([sys.executable, "-c", code, "{path}"]) as client:
        pass
    assert -9 == client.filters[0].process.returncode


def test_foreign_program(tmp_path: Path) -> None:
    """A filter that shares nothing with this library is tested by its socket alone."""
    code = """
import socket, struct, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    peer, _ = listener.accept()
    with peer, peer.makefile("rwb", buffering=0) as file:
        while True:
            head = file.read(4)
            if len(head) < 4:
                break
            data = file.read(*struct.unpack("!I", head))
            letter = data[:1]
            if letter == b"Q":
                break
            if letter == b"O":
                file.write(bytes.fromhex("0000000d4f00000006000000 0100000000"))
            elif letter == b"E":
                file.write(b"\\0\\0\\0\\x07hX-A\\0b\\0" + b"\\0\\0\\0\\1c")
            elif letter not in b"DA":
                file.write(b"\\0\\0\\0\\1c")
"""
    program = tmp_path / "filter.py"
    program.write_text(code)
    with testing.command([sys.executable, str(program), "{path}"]) as client:
        client.send().assert_modifications(mta.AddHeader("X-A", "b"))


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [testing.direct, testing.thread])
@pytest.mark.parametrize(
    ("where", "error"), [("rcpt", LookupError), ("eom", KeyError), ("close", LookupError)]
)
def test_crash(
    start: Any, where: str, error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    """What a callback raises is raised in the test, with the line where it happened."""
    with start(Broken) as client:
        with pytest.raises(error) as caught:
            client.send(to=f"{where}@example.com")
        assert "testing_filters.py" == caught.traceback[-1].path.name
        # And not a second time.
        client.send().assert_accepted()
    assert "" == capsys.readouterr().err


def test_crash_unnoticed() -> None:
    """What is raised only when the filter is stopped comes out of the block."""
    client = testing.direct(Broken)
    session = client.connect()
    session.negotiate()
    session.mail("<a@example.org>")
    session.rcpt("<close@example.org>")
    session.close()
    with pytest.raises(LookupError), client:
        pass


@pytest.mark.parametrize("start", [testing.direct, testing.thread])
@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (None, "The envfrom callback must return int"),
        ("accept", "The envfrom callback must return int"),
        (99, "The envfrom callback returned 99, which is no verdict"),
    ],
)
def test_no_verdict(start: Any, verdict: Any, text: str) -> None:
    """A callback that forgets its verdict fails the test: in production the mail is not taken."""

    class Forgets(Milter.Base):
        def envfrom(self, sender: str, *params: str) -> int:
            result: int = verdict
            return result

    with start(Forgets) as client:
        with pytest.raises(Milter.error) as caught:
            client.send()
        assert text == str(caught.value)
        assert "tempfailed" == client.trail[-1].outcome.value


def test_crash_in_chain() -> None:
    """Also of a filter among several."""
    with testing.direct(Quiet) as first, testing.direct(Broken) as second:
        both = testing.chain(first, second)
        with pytest.raises(LookupError):
            both.send(to="rcpt@example.com")


def test_crash_answered() -> None:
    """On request a callback's exception is answered as in production, and kept."""
    with testing.direct(Broken, failures="answer") as client:
        client.send(to="eom@example.com").assert_tempfailed(451, "4.3.0")
        assert [KeyError] == [type(each) for each in client.crashes]


def test_protocol_error(tmp_path: Path) -> None:
    """A filter that breaks the protocol fails the test with the rule; or is gone without."""
    with Simple(tmp_path / "s", {"E": packet("z")}) as simple:
        with testing.at(simple.spec) as client, pytest.raises(mta.ProtocolError) as caught:
            client.send()
        assert caught.value.rule
        with testing.at(simple.spec, failures="answer", default_action="reject") as client:
            report = client.send().assert_rejected()
            assert [mta.ProtocolError] == [type(each) for each in report.errors]
            assert "error: the filter sent" in str(report)


def test_timeout() -> None:
    """A filter that does not answer fails the test in the time that was given."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        spec = f"inet:{server.getsockname()[1]}@127.0.0.1"
        client = testing.at(spec, timeouts=mta.Timeouts.all(0.1))
        with pytest.raises(mta.FilterTimeout):
            client.send()


def test_bad_options() -> None:
    """Options that do not exist are refused, and nothing is left running."""
    before = threading.enumerate()
    with pytest.raises(ValueError, match="it is 'raise' or 'answer'"):
        testing.thread(Guard, failures="ignore")
    with pytest.raises(ValueError, match="no profile"):
        testing.direct(Guard, profile="qmail")
    no_more_threads(before)


# -- assertions ----------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[testing.Report], Any], str]] = {
    "rejected": (
        lambda report: report.assert_rejected(),
        "expected: rejected\nbut was:  accepted: 250 2.0.0 Ok",
    ),
    "rejected with": (
        lambda report: report.assert_rejected(550, "5.7.1", "no"),
        "expected: rejected, with 550 5.7.1 'no'\nbut was:  accepted: 250",
    ),
    "tempfailed": (lambda report: report.assert_tempfailed(), "expected: tempfailed\n"),
    "discarded": (lambda report: report.assert_discarded(), "expected: discarded\n"),
    "refused": (
        lambda report: report.assert_refused("bob@example.com"),
        "expected: refused recipients bob@example.com\nbut was:  none",
    ),
    "quarantined": (
        lambda report: report.assert_quarantined("spam"),
        "expected: quarantined, as 'spam'\nbut was:  as 'to be looked at'",
    ),
    "unchanged": (
        lambda report: report.assert_unchanged(),
        "expected: no changes\nbut was:  add header X-User: nobody, ",
    ),
    "modifications": (
        lambda report: report.assert_modifications(mta.Quarantine("x")),
        "expected: quarantine: x\nbut was:  add header X-User: nobody, ",
    ),
    "header": (
        lambda report: report.assert_header("X-User", "carol", "dave"),
        "expected: X-User: carol\n          X-User: dave\nbut was:  X-User: nobody",
    ),
    "header there": (
        lambda report: report.assert_header("X-Spam"),
        "expected: a header X-Spam\nbut was:  no header X-Spam",
    ),
    "no header": (
        lambda report: report.assert_no_header("X-User"),
        "expected: no header X-User\nbut was:  X-User: nobody",
    ),
    "body": (
        lambda report: report.assert_body("good\nmorning\n"),
        "expected another body; as expected (-) and as it is (+):\n"
        "  @@ body\n   good\n  -morning\n  +bye\n",
    ),
    "message": (
        lambda report: report.assert_message(b"Subject: [seen] test\n\ngood\nbye\n"),
        "expected another message; as expected (-) and as it is (+):\n  @@ envelope and headers\n",
    ),
    "sender": (
        lambda report: report.assert_sender("alice@example.org"),
        "expected: sender <alice@example.org>\nbut was:  <bounces@example.org>",
    ),
    "recipients": (
        lambda report: report.assert_recipients("bob@example.com"),
        "expected: recipients bob@example.com\nbut was:  bob@example.com, copy@example.com",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_failures(client: testing.Client, case: str) -> None:
    """An assertion that does not hold says what was expected, and shows dialogue and diff."""
    report = client.send(body="one\n")
    check, text = WRONG[case]
    with pytest.raises(testing.Failure) as caught:
        check(report)
    assert str(caught.value).startswith(text)
    assert report is caught.value.report
    for line in (
        "  rcpt     continue   <bob@example.com>",
        "           add header X-User: nobody",
        "  accepted, with 6 changes, and quarantined: to be looked at: 250 2.0.0 Ok: queued as",
        "  -MAIL FROM:<alice@example.org>",
        "  +RCPT TO:<copy@example.com>",
        "  -Subject: test",
        "  +Subject: [seen] test",
        "  -one",
        "  +good",
    ):
        assert line in str(caught.value)


def test_failures_of_refused(client: testing.Client) -> None:
    """The other way round: a message that was refused is not accepted, nor quarantined."""
    report = client.send(sender="later@example.net")
    with pytest.raises(testing.Failure) as caught:
        report.assert_accepted()
    assert str(caught.value).startswith("expected: accepted\nbut was:  tempfailed: 451")
    assert "           451-4.7.1 not now\n" in str(caught.value)
    assert "but was:  tempfailed: 451-4.7.1 not now\n          451 4.7.1 but later\n" in str(
        caught.value
    )
    # Nobody gets it, so that there is nothing to compare.
    assert "From:" not in str(caught.value)
    with pytest.raises(testing.Failure, match="expected: quarantined\nbut was:  not quarantined"):
        report.assert_quarantined()
    with pytest.raises(testing.Failure, match="expected: tempfailed, with 450"):
        report.assert_tempfailed(450)
    with pytest.raises(testing.Failure, match=r"expected: tempfailed, with 4\.7\.2"):
        report.assert_tempfailed(enhanced="4.7.2")


def test_failures_are_not_endless() -> None:
    """Of large bodies the text shows so much as a human can read, and says that there is more."""

    class Fills(Milter.Base):
        def eom(self) -> int:
            self.replacebody(b"x" * 300000 + b"\r\n" + b"line\r\n" * 500)
            return Milter.ACCEPT

    with testing.direct(Fills) as client:
        text = str(client.send(body="one\n"))
    assert 20000 > len(text)
    assert f"  +{'x' * 196}...\n" in text
    assert re.search(r"\.\.\. and 30[0-9] lines more$", text)


def test_assert_message(client: testing.Client, tmp_path: Path) -> None:
    """A whole message can be compared with one in a file, which need not have an envelope."""
    report = client.send(b"Subject: hi\n\nhello\n")
    expected = tmp_path / "expected.eml"
    expected.write_bytes(b"Subject: [seen] test\r\nX-User: nobody\r\n\r\ngood\r\nbye\r\n")
    report.assert_message(expected).assert_message(str(expected))
    report.assert_message(expected.read_bytes())
    report.assert_message(mta.Message.from_file(expected))
    with testing.direct(Guard, directory=tmp_path) as beside:
        beside.send(b"Subject: hi\n\nhello\n").assert_message("expected.eml")


def test_kit(tmp_path: Path) -> None:
    """A kit starts filters of every kind, and stops them all."""
    (tmp_path / "hi.eml").write_bytes(b"Subject: hi\nTo: carol@example.com\n\nhello\n")
    before = threading.enumerate()
    with testing.Kit(tmp_path, tmp_path) as kit:
        first, second = kit(Guard), kit.thread(Guard)
        third = kit.command([*PROGRAM, "{socket}"], env=ENV)
        assert second.spec.startswith(f"unix:{tmp_path}") or len(str(tmp_path)) > 75
        fourth = kit.at(second.spec)
        for client in (first, second, third, fourth, kit.chain(first, second)):
            client.send("hi.eml").assert_recipients("carol@example.com", "copy@example.com")
        assert "listening on" in kit.output
        assert 5 == kit.story.count(": 250 2.0.0 Ok: queued as")
    no_more_threads(before)
    assert third.filters[0].process.poll() is not None
