"""Milter.mta against real filters: the same filter on our package and on pymilter on libmilter.

What must come out is written by hand and the same for both, so that neither side of our own codec
can be wrong unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from mta_support import PATIENCE

from Milter import mta

ROOT = Path(__file__).resolve().parents[2]
# As scripts/setup-oracle makes it, or another interpreter that has pymilter.
ORACLE = Path(os.environ.get("ORACLE_PYTHON") or ROOT / ".cache" / "oracle" / "bin" / "python")

EML = b"Subject: hi\r\nX-Gone: a\r\nx-gone:b\r\nX-Folded:  a\r\n\tb\r\n\r\nhello\r\n"

Connect = Callable[[str], mta.Session]


class Filters:
    """Filters of all kinds on one interpreter, started as they are asked for."""

    def __init__(self, python: Path, folder: Path, ours: bool) -> None:
        self.python = python
        self.folder = folder
        self.ours = ours
        self.environment = dict(os.environ)
        self.environment.pop("PYTHONPATH", None)
        if ours:
            self.environment["PYTHONPATH"] = str(ROOT)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def connect(self, kind: str) -> mta.Session:
        """Connects to a filter of this kind."""
        path = self.folder / kind
        if kind not in self.running:
            script = "sample.py" if kind == "sample" else "tests/unit/mta_filter.py"
            # Copied, so that what lies beside it does not hide the package to be used.
            copy = shutil.copy(ROOT / script, self.folder)
            arguments = ["--socket", str(path)] if kind == "sample" else [str(path), kind]
            with open(self.folder / f"{kind}.log", "wb") as log:
                self.running[kind] = subprocess.Popen(
                    [str(self.python), copy, *arguments],
                    cwd=self.folder,
                    env={**self.environment, "TMPDIR": str(self.folder)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        deadline = time.monotonic() + 3 * PATIENCE
        while True:
            try:
                return mta.connect(path, timeouts=mta.Timeouts.all(PATIENCE))
            except mta.ConnectError:
                log_text = (self.folder / f"{kind}.log").read_text(errors="replace")
                assert self.running[kind].poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.05)

    def stop(self) -> None:
        """Ends them all."""
        for process in self.running.values():
            # libmilter takes five seconds to stop.
            process.terminate() if self.ours else process.kill()
        for process in self.running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module", params=["ours", pytest.param("pymilter", marks=pytest.mark.oracle)])
def connect(request: Any, tmp_path_factory: Any) -> Iterator[Connect]:
    """Connects to a filter, of either side."""
    ours = request.param == "ours"
    if not ours and not ORACLE.exists():
        pytest.skip("no pymilter on libmilter: run scripts/setup-oracle")
    python = Path(sys.executable) if ours else ORACLE
    filters = Filters(python, tmp_path_factory.mktemp(request.param), ours)
    yield filters.connect
    filters.stop()


def message(data: bytes = EML) -> mta.Message:
    """A message from a@b.example to c@d.example."""
    return mta.Message.from_bytes(data, "<a@b.example>", ["<c@d.example>"])


def client(name: str) -> mta.SmtpClient:
    """A client whose name tells the filter what to do."""
    return mta.SmtpClient(f"{name}.example", "192.0.2.1", 25)


REPLIES = {
    "CONTINUE": (mta.Outcome.ACCEPTED, "250 2.0.0 Ok: queued as 4A5B6C0001"),
    "ACCEPT": (mta.Outcome.ACCEPTED, "250 2.0.0 Ok: queued as 4A5B6C0001"),
    "DISCARD": (mta.Outcome.DISCARDED, "250 2.0.0 Ok: queued as 4A5B6C0001"),
    "REJECT": (mta.Outcome.REJECTED, "550 5.7.1 Command rejected"),
    "TEMPFAIL": (mta.Outcome.TEMPFAILED, "451 4.7.1 Service unavailable - try again later"),
    "REPLY": (mta.Outcome.REJECTED, "554 5.7.1 100% no"),
    "LINES": (mta.Outcome.TEMPFAILED, "451-4.3.0 not\r\n451 4.3.0 now"),
}
STEPS = ["connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "eom"]


@pytest.mark.parametrize("verdict", REPLIES)
@pytest.mark.parametrize("step", STEPS)
def test_verdicts(connect: Connect, step: str, verdict: str) -> None:
    """Every verdict at every step decides what it should, and the message stops there."""
    with connect("plain") as session:
        session.protocol.strict = verdict != "DISCARD"  # which is an error where it is ignored
        result = session.send(message(), client=client(f"{step}-{verdict}"))
    ignored = verdict == "CONTINUE" or (verdict == "DISCARD" and step in ("connect", "helo"))
    assert REPLIES["CONTINUE" if ignored else verdict] == (result.outcome, result.reply)
    names = [each.name for each in result.steps if each.name != "abort"]
    assert ("eom" if ignored else step) == names[-1]
    decided = next(each.verdict for each in result.steps if each.name == step)
    kind = {"REPLY": "REJECT", "LINES": "TEMPFAIL"}.get(verdict, verdict)
    assert mta.Kind[kind] is decided.kind
    assert (step in ("connect", "helo") and not ignored) == result.session_over


def test_all_modifications(connect: Connect) -> None:
    """Every modification, in the order of the calls, and the message that comes of it."""
    with connect("plain") as session:
        assert session.negotiate().actions == 0x1FF
        result = session.send(message(), client=client("modify"))
    assert (
        mta.AddHeader("X-Added", "one"),
        mta.InsertHeader(0, "X-First", "two"),
        mta.ChangeHeader(1, "Subject", "three\n\tfolded"),
        mta.DeleteHeader(1, "X-Gone"),
        mta.DeleteHeader(5, "X-None"),
        mta.AddRecipient("<added@example.net>"),
        mta.AddRecipient("<par@example.net>", "NOTIFY=NEVER"),
        mta.DeleteRecipient("<c@d.example>"),
        mta.ChangeSender("<new@example.org>"),
        mta.ChangeSender("<newer@example.org>", "RET=HDRS"),
        mta.ReplaceBody(b"x" * 65535),
        mta.ReplaceBody(b"y\r\n"),
        mta.Quarantine("why not"),
    ) == result.modifications
    assert 2 == result.steps[-1].answer.progress
    assert "why not" == result.quarantine
    after = result.message
    assert (
        b"X-First: two\r\nSubject: three\r\n\tfolded\r\nx-gone:b\r\nX-Folded:  a\r\n\tb\r\n"
        b"X-Added: one\r\n\r\n" + b"x" * 65535 + b"y\r\n"
    ) == after.as_bytes()
    assert ("<newer@example.org>", ["RET=HDRS"]) == (after.sender, after.sender_params)
    assert [
        mta.Recipient("<added@example.net>"),
        mta.Recipient("<par@example.net>", ("NOTIFY=NEVER",)),
    ] == after.recipients


def test_actions_that_were_not_offered(connect: Connect) -> None:
    """The filter sees what was offered, and cannot want more."""
    with connect("plain") as session:
        options = session.negotiate(actions=0x1)
        assert 0x1 == options.actions
        result = session.send(message())
    assert mta.Outcome.ACCEPTED is result.outcome


@pytest.mark.parametrize("version", [2, 3, 4, 6])
def test_older_versions(connect: Connect, version: int) -> None:
    """The filter speaks the version that it is offered, and gets the steps of that."""
    protocol = {2: 0x7F, 3: 0x17F, 4: 0x37F, 6: 0x1FFFFF}[version]
    with connect("plain") as session:
        options = session.negotiate(version, 0x3F, protocol)
        assert version == options.version
        result = session.send(message())
        unknown = session.unknown("FOO").kind
    sent = {step.name: step.verdict.kind for step in result.steps}
    assert mta.Outcome.ACCEPTED is result.outcome
    assert (version < 4) == (sent["data"] is mta.Kind.NOT_SENT)
    assert (version < 3) == (unknown is mta.Kind.NOT_SENT)


def test_macro_lists(connect: Connect) -> None:
    """A filter that asks for macros gets those and no others (2.5)."""
    with connect("lists") as session:
        options = session.negotiate()
        assert {2: ("{mail_addr}", "j"), 5: ("i",), 6: ("i",)} == options.macro_lists
        result = session.send(message())
    seen = ["a@b.example", "mta.example.org", None]
    version = result.message.get_all("X-Macros")[0].decode()
    # v goes with CONNECT, where nothing was asked for.
    assert version.startswith(repr(seen)[:-1] + ", 'pymilter-cffi ")
    assert version.endswith("', '4A5B6C0001']")


def test_leading_space_and_rejected_recipients(connect: Connect) -> None:
    """HDR_LEADSPC and RCPT_REJ are negotiated and honoured (2.4)."""
    with connect("extras") as session:
        options = session.negotiate()
        assert options.leading_space
        assert options.rejected_recipients
        rejected = [mta.RejectedRecipient("x@y.example", "5.1.1", "Who?")]
        result = session.send(message(), rejected=rejected)
    assert mta.Outcome.ACCEPTED is result.outcome
    seen = ["Subject: hi", "X-Gone: a", "x-gone:b", "X-Folded:  a|\tb"]
    assert [
        (b"X-Seen", b" " + repr(seen).encode()),
        (b"X-Rejected", b"tight:" + repr(["<x@y.example>", "5.1.1", "Who?"]).encode()),
    ] == result.message.headers[-2:]


def test_no_leading_space(connect: Connect) -> None:
    """Where HDR_LEADSPC and RCPT_REJ are not offered, neither is used."""
    with connect("extras") as session:
        options = session.negotiate(protocol=0x7FF)
        assert not options.leading_space
        rejected = [mta.RejectedRecipient("x@y.example")]
        result = session.send(message(), rejected=rejected)
    seen = ["Subject:hi", "X-Gone:a", "x-gone:b", "X-Folded: a|\tb"]
    assert [b" " + repr(seen).encode(), b"tight:[]"] == [
        *result.message.get_all("X-Seen"),
        *result.message.get_all("X-Rejected"),
    ]
    assert [mta.Kind.CONTINUE, mta.Kind.NOT_SENT] == [
        step.verdict.kind for step in result.steps if step.name == "rcpt"
    ]


def test_no_replies(connect: Connect) -> None:
    """A filter that answers only at the end is waited for only there (2.3)."""
    with connect("noreply") as session:
        assert 0xFF080 == session.negotiate().protocol & 0xFF080
        results = [session.send(message(), client=client("eom-REPLY")) for _ in range(2)]
        assert mta.Kind.NO_REPLY is session.unknown("FOO").kind
    for result in results:
        assert REPLIES["REPLY"][0] is result.outcome
        kinds = {step.verdict.kind for step in result.steps[:-1]}
        assert {mta.Kind.NO_REPLY} == kinds


def test_no_replies_where_they_are_not_offered(connect: Connect) -> None:
    """The same filter answers every step where the MTA insists."""
    with connect("noreply") as session:
        assert 0 == session.negotiate(protocol=0x37F).protocol & 0xFF080
        result = session.send(message())
    assert {mta.Kind.CONTINUE} == {step.verdict.kind for step in result.steps}


def test_steps_that_are_not_wanted(connect: Connect) -> None:
    """A filter that wants only the end gets only that (2.2)."""
    with connect("nocallback") as session:
        assert 0x37F == session.negotiate().protocol & 0x37F
        result = session.send(message())
    assert [mta.Kind.NOT_SENT] * 11 + [mta.Kind.CONTINUE] == [
        step.verdict.kind for step in result.steps
    ]
    assert [b"seen"] == result.message.get_all("X-End")


def test_skipped_body(connect: Connect) -> None:
    """After SKIP the rest of the body is kept back (2.4)."""
    with connect("plain") as session:
        assert session.negotiate().protocol & 0x400
        sent = message(EML + b"x" * 200000)
        result = session.send(sent, client=client("body-SKIP"))
        again = session.send(sent)
    for each in (result, again):
        bodies = [step.verdict.kind for step in each.steps if step.name == "body"]
        assert [mta.Kind.SKIP] == bodies
        assert mta.Outcome.ACCEPTED is each.outcome


def test_large_message(connect: Connect) -> None:
    """Four pieces of body, two hundred headers."""
    data = b"".join(b"X-%d: %s\r\n" % (n, b"v" * n) for n in range(200)) + b"\r\n" + bytes(200000)
    with connect("plain") as session:
        result = session.send(message(data))
    assert mta.Outcome.ACCEPTED is result.outcome
    counts = [[step.name for step in result.steps].count(name) for name in ("header", "body")]
    assert [200, 4] == counts


def test_steps_one_by_one(connect: Connect) -> None:
    """A dialogue of one's own: aborts, unknown commands, several messages, another session over
    the same connection."""
    going_on = mta.Verdict(mta.Kind.CONTINUE)
    with connect("plain") as session:
        session.negotiate()
        for name in ("first.example", "second.example"):
            assert going_on == session.connect(name, "::1", 25)
            assert going_on == session.helo("h")
            assert going_on == session.mail("<a@b>")
            session.abort()
            session.abort()
            assert going_on == session.mail("<a@b>", "SIZE=3")
            assert going_on == session.rcpt("<c@d>")
            assert going_on == session.helo("again")
            assert going_on == session.mail("<>")
            assert going_on == session.rcpt("<c@d>")
            assert going_on == session.rcpt("<e@f>")
            assert going_on == session.data()
            assert going_on == session.header("X", " y")
            assert going_on == session.eoh()
            assert going_on == session.body(b"z" * 70000)
            assert mta.Answer(going_on) == session.eom()
            assert going_on == session.unknown("FOO")
            session.quit_nc()


def test_early_end(connect: Connect) -> None:
    """QUIT at any moment: the filter closes, which the end of the block waits for."""
    for steps in range(4):
        with connect("plain") as session:
            plays: list[Callable[[], Any]] = [
                session.negotiate,
                session.connect,
                lambda: session.mail("<>"),
                lambda: session.rcpt("<>"),
            ]
            for play in plays[: steps + 1]:
                play()
        assert session.protocol.closed


# -- the example filter --------------------------------------------------------------------------


def test_sample_accepts(connect: Connect) -> None:
    """The example filter lets a message pass as it is."""
    data = b"Subject: Lunch\r\n\r\n" + b"x" * 70000 + b"\r\n"
    with connect("sample") as session:
        result = session.send(message(data))
    assert (mta.Outcome.ACCEPTED, ()) == (result.outcome, result.modifications)


def test_sample_takes_an_attachment_out(connect: Connect) -> None:
    """The example filter replaces a bad attachment by a warning, in pieces for a large message."""
    good = b"--x\r\n\r\n" + b"0123456789\r\n" * 2000 + b"\r\n"
    bad = b'--x\r\nContent-Disposition: attachment; filename="a.exe"\r\n\r\nevil\r\n--x--\r\n'
    head = b"Subject: Lunch\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    with connect("sample") as session:
        result = session.send(message(head + good + bad))
    assert mta.Outcome.ACCEPTED is result.outcome
    assert {mta.ReplaceBody} == {type(change) for change in result.modifications}
    assert len(result.modifications) > 2
    assert result.message.body.startswith(good)
    assert b"evil" not in result.message.body
    assert b"a.exe" in result.message.body


def test_sample_rejects(connect: Connect) -> None:
    """The example filter refuses by a header's rule, and goes on with the next message."""
    with connect("sample") as session:
        result = session.send(message(b"Subject: ADV: buy\r\n\r\nnow\r\n"))
        assert (mta.Outcome.REJECTED, "554 5.7.1 No advertising here") == (
            result.outcome,
            result.reply,
        )
        assert "header" == result.steps[-1].name
        assert mta.Outcome.ACCEPTED is session.send(message()).outcome


def test_command_line(connect: Connect, tmp_path: Path) -> None:
    """The command plays a message through the example filter."""
    # The socket stands in the address of who is connected to it.
    with connect("sample") as session:
        spec = session._socket.getpeername()
    path = tmp_path / "m.eml"
    path.write_bytes(b"To: x@y\nSubject: $$$\n\nhello\n")
    done = subprocess.run(
        [sys.executable, "-m", "Milter", "send", "--socket", spec, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (1, "") == (done.returncode, done.stderr)
    assert "rejected: 554 5.7.1 No get-rich-quick schemes here" == done.stdout.splitlines()[-1]
