"""The example filter sample.py: its rules, each verdict, and that nothing of a message is left."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import Milter
from harness import Peer, packet, packets

PATIENCE = 20.0
PATH = Path(__file__).resolve().parents[2] / "sample.py"


def load() -> Any:
    """Import sample.py from its path, whatever else is called sample."""
    spec = importlib.util.spec_from_file_location("sample_under_test", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sample = load()


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


@pytest.fixture
def filter_() -> Any:
    """Return a filter object that is connected to a FakeContext."""
    instance = sample.sampleMilter()
    instance._setctx(FakeContext())
    instance.connect("client.example.org", 2, ("192.0.2.1", 4711))
    yield instance
    instance.close()


def begin(instance: Any, *recipients: str) -> None:
    """Play a message's envelope."""
    assert Milter.CONTINUE == instance.envfrom("<alice@example.org>", "SIZE=10")
    for recipient in recipients or ("<bob@example.com>",):
        assert Milter.CONTINUE == instance.envrcpt(recipient)
    assert Milter.CONTINUE == instance.data()


@pytest.mark.parametrize(
    "name",
    ["mail.example.org", "localhost", "a-b.example", "with_underscore.example", "example.org.",
     "[192.0.2.1]", "[IPv6:2001:db8::1]", "[ipv6:::1]", "1.2.3.4", "x" * 63 + ".example"],
)  # fmt: skip
def test_helo_accepted(filter_: Any, name: str) -> None:
    """A host name and an address literal are let through, without a reply text."""
    assert Milter.CONTINUE == filter_.hello(name)
    assert [] == filter_._ctx.calls


@pytest.mark.parametrize(
    "name",
    ["", ".", "-a.example", "a-.example", "a..example", "two words", "mail.example.org\n",
     "b\udcfccher", "[192.0.2.1", "[192.0.2.256]", "[IPv6:zz]", "[2001:db8::1]", "x" * 64,
     "a." * 128, "<x>"],
)  # fmt: skip
def test_helo_refused(filter_: Any, name: str) -> None:
    """What is neither is refused, with a text."""
    assert Milter.REJECT == filter_.hello(name)
    assert [("setreply", "550", "5.7.1")] == [call[:3] for call in filter_._ctx.calls]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Subject", "ADV: buy"),
        ("subject", "  adv. buy"),
        ("SUBJECT", "make $$$ fast"),
        ("X-Mailer", "Super Mail Bomber 3"),
        ("Message-ID", "<a>"),
        ("Message-ID", ""),
    ],
)
def test_header_refused(filter_: Any, name: str, value: str) -> None:
    """A header against a rule refuses the message, with a text, and nothing of it is kept."""
    begin(filter_)
    copy = filter_.copy
    assert Milter.REJECT == filter_.header(name, value)
    assert [("setreply", "554", "5.7.1")] == [call[:3] for call in filter_._ctx.calls]
    assert filter_.copy is None
    assert copy.closed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Subject", "Lunch"),
        ("Subject", "advice: read"),
        ("Comments", "adv: $$$"),
        ("X-Mailer", "Mutt"),
        ("Message-ID", "<1@a>"),
        ("Subject", "latin \udce9"),
    ],
)
def test_header_accepted(filter_: Any, name: str, value: str) -> None:
    """Another value, or the value in another header, is let through."""
    begin(filter_)
    assert Milter.CONTINUE == filter_.header(name, value)
    assert [] == filter_._ctx.calls


def play(instance: Any, headers: list[tuple[str, str]], *chunks: bytes) -> None:
    """Play a message's content to the end."""
    for name, value in headers:
        assert Milter.CONTINUE == instance.header(name, value)
    assert Milter.CONTINUE == instance.eoh()
    for chunk in chunks:
        assert Milter.CONTINUE == instance.body(chunk)
    assert Milter.CONTINUE == instance.eom()


def test_message_is_marked_and_stamped(filter_: Any) -> None:
    """The subject is changed, and a header added that counts recipients and bytes."""
    begin(filter_, "<bob@example.com>", "<carol@example.net>")
    play(filter_, [("From", "a"), ("Subject", "Lunch")], b"12345\r\n", b"678\r\n")
    assert [
        ("chgheader", "Subject", 1, "[checked] Lunch"),
        ("addheader", "X-Sample-Milter", f"connection {filter_.id}, 2 rcpt, 12 bytes", -1),
    ] == filter_._ctx.calls
    assert filter_.copy is None


def test_subject_is_marked_once(filter_: Any) -> None:
    """A subject that bears the mark keeps it, and a message without one gets none."""
    for headers in ([("Subject", "[checked] Lunch")], [("From", "a")]):
        begin(filter_)
        play(filter_, headers)
    assert ["addheader", "addheader"] == [call[0] for call in filter_._ctx.calls]


def test_forged_stamps_are_deleted_from_the_last(filter_: Any) -> None:
    """Every stamp that came with the message is deleted, the last one first."""
    begin(filter_)
    play(filter_, [("x-sample-milter", "forged"), ("X-Sample-Milter", "forged too")])
    assert [
        ("chgheader", "X-Sample-Milter", 2, ""),
        ("chgheader", "X-Sample-Milter", 1, ""),
    ] == filter_._ctx.calls[:2]


def test_second_message_starts_at_nothing(filter_: Any) -> None:
    """Counts, subjects and stamps of one message do not reach the next."""
    begin(filter_, "<a@b>", "<c@d>")
    play(filter_, [("Subject", "One"), ("X-Sample-Milter", "forged")], b"xxxx")
    filter_._ctx.calls.clear()
    begin(filter_)
    play(filter_, [])
    assert [
        ("addheader", "X-Sample-Milter", f"connection {filter_.id}, 1 rcpt, 0 bytes", -1)
    ] == filter_._ctx.calls


@pytest.mark.parametrize("end", ["abort", "close", "envfrom"])
def test_copy_is_dropped(filter_: Any, end: str) -> None:
    """However a message ends before its time, the copy of it is closed."""
    begin(filter_)
    filter_.body(b"x")
    copy = filter_.copy
    args = ("<next@example.org>",) if end == "envfrom" else ()
    assert Milter.CONTINUE == getattr(filter_, end)(*args)
    assert copy.closed
    assert filter_.copy is not copy


def test_abort_and_close_without_a_message(filter_: Any) -> None:
    """Both may come when there is no message, and twice."""
    for _ in range(2):
        assert Milter.CONTINUE == filter_.abort()
        assert Milter.CONTINUE == filter_.close()


def test_copy_is_the_message(filter_: Any) -> None:
    """The copy is byte for byte what came, also where it is not UTF-8."""
    begin(filter_)
    filter_.header("Subject", "gr\udcfcn")
    filter_.eoh()
    filter_.body(b"\xff\r\n")
    filter_.copy.seek(0)
    assert b"Subject: gr\xfcn\n\n\xff\r\n" == filter_.copy.read()


def test_log_lines_bear_the_connection(filter_: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Each step logs one line, with the connection's number first."""
    caplog.set_level(logging.INFO, logger="sample")
    filter_._ctx.macros["{auth_authen}"] = "alice"
    filter_.hello("evil\nline")
    begin(filter_)
    play(filter_, [("Subject", "x\n y")], b"x")
    lines = [record.getMessage() for record in caplog.records]
    assert [] == [line for line in lines if not line.startswith(f"[{filter_.id}] ")]
    assert [] == [line for line in lines if "\n" in line]
    assert [f"[{filter_.id}] authenticated as 'alice'"] == [x for x in lines if "authent" in x]


def test_connections_have_different_numbers() -> None:
    """Two objects never share a number."""
    assert sample.sampleMilter().id != sample.sampleMilter().id


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
        ("flags", Milter.ADDHDRS | Milter.CHGHDRS),
        ("policy", Milter.TEMPFAIL),
        ("run", "sample", "unix:/nowhere/x", 5),
    ] == calls
    assert Milter.factory is sample.sampleMilter


@pytest.fixture
def served() -> Iterator[str]:
    """Run sample.py as a program on a unix socket; yield the socket's path."""
    # A short path, as that of a socket must be.
    directory = Path(tempfile.mkdtemp(prefix="sample-"))
    path = directory / "s"
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(PATH), "--socket", f"unix:{path}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, (directory / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield str(path)
    process.terminate()
    status = process.wait(timeout=PATIENCE)
    text = (directory / "log").read_text()
    shutil.rmtree(directory)
    assert 0 == status, text
    assert text.endswith("stopped\n")


def test_over_the_wire(served: str) -> None:
    """The program refuses a HELO and a header, marks and stamps a message, and stops."""
    peer = Peer(served)
    # All actions, as offered; no step is refused but the unknown command, since the class does not
    # have it; skip; and no reply to connect.
    peer.send(packets.OFFER)
    peer.expect(bytes.fromhex("0000000D 4F 00000006 000001FF 00001500"))
    peer.send(packets.C, packet("H", b"-\0"))
    peer.expect(
        packet("y", b"550 5.7.1 That is neither a host name nor an address literal\0"),
    )
    peer.send(packets.H, packets.M, packets.R, packets.T, packet("L", b"Subject\0ADV: buy\0"))
    peer.expect(*[packets.CONTINUE] * 4, packet("y", b"554 5.7.1 No advertising here\0"))
    peer.send(packets.M, packets.R, packets.R, packets.T, packets.L)
    peer.send(packet("L", b"x-sample-milter\0forged\0"), packets.N, packets.B, packets.E)
    peer.expect(
        *[packets.CONTINUE] * 8,
        packet("m", b"\0\0\0\x01X-Sample-Milter\0\0"),
        packet("m", b"\0\0\0\x01Subject\0[checked] hi\0"),
        packet("h", b"X-Sample-Milter\0connection 1, 2 rcpt, 4 bytes\0"),
        packets.CONTINUE,
    )
    peer.send(packets.Q)
    peer.expect_close()
    peer.close()
