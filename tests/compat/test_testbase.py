"""`Milter.test.TestBase`, the mixin that makes a filter its own test bench (API spec 3.12)."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compat_support import environment, run_python
from testkit_support import (
    BODY,
    HEADERS,
    MESSAGE,
    STEPS,
    Seen,
    TestBase,
    kit,
    message,
)

import Milter
import milter

__all__ = ["kit"]  # a fixture


class Bench(TestBase, Seen):
    """The filter under test."""

    def __init__(self, *args: str) -> None:
        TestBase.__init__(self, *args)
        Seen.__init__(self)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench in a directory that has `test/`, not connected."""
    monkeypatch.chdir(tmp_path)
    Path("test").mkdir()
    bench = Bench()
    yield bench
    bench._close()


def connected(bench: Bench) -> Bench:
    """Connect it and forget the calls."""
    assert Milter.CONTINUE == bench.connect()
    bench.calls.clear()
    return bench


def at_eom(bench: Bench, todo: Any) -> Bench:
    """Feed the message, with something to do in eom."""
    bench.todo = todo
    bench.feedFile(message())
    return bench


# The import and the log file.


def test_import_sets_noreply() -> None:
    """The import makes Milter.NOREPLY CONTINUE, for the process; `milter`'s constant stays."""
    done = run_python(
        "import Milter, milter; a = Milter.NOREPLY; import Milter.test\n"
        "print(a, Milter.NOREPLY, milter.NOREPLY)"
    )
    assert "7 0 7" == done.stdout.strip(), done.stderr


def test_log_file_is_opened_at_once(bench: Bench) -> None:
    """The log file is there as soon as the object is, and is appended to."""
    assert Path("test/milter.log").exists()
    bench.log("a")
    bench._close()
    again = Bench()
    again.log("b")
    again._close()
    assert "a\nb\n" == Path("test/milter.log").read_text()


def test_log_file_of_another_name(bench: Bench, tmp_path: Path) -> None:
    """The name of the log file can be given."""
    other = Bench("test/other.log")
    other.log("x")
    other._close()
    assert "x\n" == (tmp_path / "test" / "other.log").read_text()


@pytest.mark.ours
def test_log_without_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the log's directory is missing, lines go to standard output; nothing is created."""
    monkeypatch.chdir(tmp_path)
    bench = Bench()
    bench.log("x", 1)
    assert "x 1\n" == capsys.readouterr().out
    assert [] == list(tmp_path.iterdir())


@pytest.mark.ours
def test_log_is_one_line(bench: Bench) -> None:
    """One call is one line, whatever it is given (pymilter: one line for each argument)."""
    bench.log("a", 1, None, b"x")
    bench.log("caf\udce9")
    bench._close()
    assert "a 1 None b'x'\ncaf\\udce9\n" == Path("test/milter.log").read_text()


def test_log_once_closed(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """When the log is closed, lines go to standard output; closing it again does nothing."""
    bench._close()
    bench._close()
    assert bench.logfp is None
    bench.log("later")
    assert "later\n" == capsys.readouterr().out


def test_attributes(bench: Bench) -> None:
    """What suites look at has these names, and these values at first."""
    wanted = {
        "_protocol": 0,
        "_sender": None,
        "_delrcpt": [],
        "_addrcpt": [],
        "_macros": {},
        "_body": None,
        "_bodyreplaced": False,
        "_headerschanged": False,
        "_envfromchanged": False,
        "_reply": None,
        "_msg": None,
        "_stage": None,
        "_symlist": [None] * 7,
    }
    assert wanted == {name: getattr(bench, name) for name in wanted}
    assert "test/milter.log" == bench.logfp.name


def test_objects_share_nothing(bench: Bench) -> None:
    """A second object starts anew."""
    bench._addrcpt.append("<x>")
    bench.setsymval("j", "x")
    bench._symlist[0] = set()
    other = Bench()
    assert ([], {}, [None] * 7) == (other._addrcpt, other._macros, other._symlist)
    other._close()


# connect.


def test_connect(bench: Bench) -> None:
    """It calls connect and hello with these defaults; the family is 1, whatever the address."""
    assert Milter.CONTINUE == bench.connect()
    assert [
        ("connect", "localhost", 1, ("1.2.3.4", 1234)),
        ("hello", "spamrelay"),
    ] == bench.calls
    assert bench._ctx is None
    assert Milter.CURR_ACTS == bench._actions


def test_connect_with_arguments(bench: Bench) -> None:
    """Name, HELO and address can be given."""
    assert Milter.CONTINUE == bench.connect("mail.x", helo="me.x", ip="192.0.2.9")
    assert [("connect", "mail.x", 1, ("192.0.2.9", 1234)), ("hello", "me.x")] == bench.calls


@pytest.mark.parametrize("step", ["connect", "hello"])
def test_connect_refused(bench: Bench, step: str) -> None:
    """Anything but CONTINUE calls close and is returned; hello is not called after connect's."""
    bench.verdicts[step] = Milter.TEMPFAIL
    assert Milter.TEMPFAIL == bench.connect()
    wanted = ["connect", "close"] if step == "connect" else ["connect", "hello", "close"]
    assert wanted == [call[0] for call in bench.calls]


def test_connect_negotiates(bench: Bench) -> None:
    """negotiate gets all actions and all protocol bits, at stage -1, after `_setctx(None)`."""
    seen = []

    class Negotiates(Bench):
        def _setctx(self, ctx: Any) -> None:
            seen.append(("_setctx", ctx))
            super()._setctx(ctx)

        def negotiate(self, opts: list[int]) -> int:
            seen.append((list(opts), self._stage))
            return super().negotiate(opts)

    other = Negotiates()
    other.connect()
    other._close()
    assert [("_setctx", None), ([Milter.CURR_ACTS, ~0, 0, 0], -1)] == seen
    assert ~0 & ~Seen.protocol_mask() == other._protocol


@pytest.mark.parametrize("noreply", [Milter.CONTINUE, milter.NOREPLY])
def test_noreply_is_continue(bench: Bench, monkeypatch: pytest.MonkeyPatch, noreply: int) -> None:
    """A callback under @noreply goes on, also where something has put NOREPLY back to 7."""
    monkeypatch.setattr(Milter, "NOREPLY", noreply)

    class Silent(Seen):
        @Milter.noreply
        def connect(self, hostname: str, family: int, hostaddr: Any) -> Any:
            return Seen.connect(self, hostname, family, hostaddr)

        @Milter.noreply
        def hello(self, hostname: str) -> Any:
            return Seen.hello(self, hostname)

        @Milter.noreply
        def envfrom(self, f: Any, *s: Any) -> Any:
            return Seen.envfrom(self, f, *s)

    class Test(TestBase, Silent):
        def __init__(self) -> None:
            TestBase.__init__(self)
            Silent.__init__(self)

    silent = Test()
    silent.verdicts["eom"] = Milter.ACCEPT
    assert Milter.CONTINUE == silent.connect()
    assert Milter.ACCEPT == silent.feedFile(message())
    assert ["connect", "hello", "envfrom", "envrcpt"] == [call[0] for call in silent.calls][:4]


# feedFile and feedMsg.


def test_feed(bench: Bench) -> None:
    """All callbacks of a message in their order, with their arguments; then close."""
    connected(bench).verdicts["eom"] = Milter.ACCEPT
    assert Milter.ACCEPT == bench.feedFile(message(), "s@x", "r@x")
    assert [*STEPS, ("close",)] == bench.calls


def test_feed_default_envelope(bench: Bench) -> None:
    """Sender and recipient have defaults; more recipients may follow."""
    connected(bench).feedFile(message())
    assert [("envfrom", "<spam@adv.com>"), ("envrcpt", "<victim@lamb.com>")] == bench.calls[:2]
    assert "<spam@adv.com>" == bench._sender
    bench.calls.clear()
    bench.feedFile(message(), "s@x", "a@x", "b@x", "c@x")
    assert [("envrcpt", f"<{name}@x>") for name in "abc"] == bench.calls[1:4]


def test_feed_without_connect(bench: Bench) -> None:
    """A message can be fed without connect."""
    assert Milter.CONTINUE == bench.feedFile(message(), "s@x", "r@x")
    assert [*STEPS, ("close",)] == bench.calls


@pytest.mark.parametrize("step", ["envfrom", "envrcpt", "data", "header", "eoh", "body"])
@pytest.mark.parametrize("verdict", [Milter.REJECT, Milter.ACCEPT, Milter.DISCARD])
def test_feed_stops(bench: Bench, step: str, verdict: int) -> None:
    """What is not CONTINUE before eom is returned at once, without eom and close."""
    connected(bench).verdicts[step] = verdict
    assert verdict == bench.feedFile(message(), "s@x", "r@x")
    names = [call[0] for call in STEPS]
    assert names[: names.index(step) + 1] == [call[0] for call in bench.calls]
    assert bench._body is None
    assert bench.logfp is not None


@pytest.mark.ours
def test_skip(bench: Bench) -> None:
    """SKIP from body ends the body; eom comes."""
    connected(bench).verdicts.update(body=Milter.SKIP, eom=Milter.ACCEPT)
    assert Milter.ACCEPT == bench.feedFile(message(b"A: b\n\n" + bytes(9000)))
    assert ["body", "eom", "close"] == [call[0] for call in bench.calls][-3:]
    assert b"A: b\n\n" + bytes(9000) == bench._body.getvalue()


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, []),
        (1, [1]),
        (8191, [8191]),
        (8192, [8192]),
        (8193, [8192, 1]),
        (20000, [8192, 8192, 3616]),
    ],
)
def test_feed_body_pieces(bench: Bench, size: int, pieces: list[int]) -> None:
    """The body comes in pieces of 8192 bytes; none where there is none."""
    connected(bench).feedFile(message(b"A: b\n\n" + b"x" * size))
    assert pieces == [len(call[1]) for call in bench.calls if call[0] == "body"]


@pytest.mark.parametrize(
    ("data", "headers", "body"),
    [
        (b"A: 1\r\nB: 2\r\n\tx\r\n\r\nb\r\nc\r\n", [("A", "1"), ("B", "2\n\tx")], b"b\nc\n"),
        (b"A: 1\n\nno end", [("A", "1")], b"no end"),
        (b"From x@y Mon\nA: 1\n\nb\n", [("A", "1")], b"b\n"),
        (b"A:1\nB:  2 \nC:\n\nb\n", [("A", "1"), ("B", "2 "), ("C", "")], b"b\n"),
        (b"A: 1\nA: 2\n\nb\n", [("A", "1"), ("A", "2")], b"b\n"),
        (b"A: 1\n", [("A", "1")], b""),
        (b"A: 1\n\n", [("A", "1")], b""),
        (b"", [], b""),
        (b"\nb\n", [], b"b\n"),
        (
            b"Content-Transfer-Encoding: base64\n\neHl6\n",
            [("Content-Transfer-Encoding", "base64")],
            b"eHl6\n",
        ),
        (
            b"Content-Type: multipart/mixed; boundary=q\n\n--q\n\nx\n--q--\n",
            [("Content-Type", "multipart/mixed; boundary=q")],
            b"--q\n\nx\n--q--\n",
        ),
        (b"A: " + b"y" * 900 + b"\n\nb\n", [("A", "y" * 900)], b"b\n"),
        (b"A: 1\n\n\xe9\x00\xff\n", [("A", "1")], b"\xe9\x00\xff\n"),
    ],
)
def test_feed_messages(
    bench: Bench, data: bytes, headers: list[tuple[str, str]], body: bytes
) -> None:
    """The filter gets the headers and the body of any message, encoded as it was, with LF."""
    connected(bench).feedFile(message(data))
    assert headers == [call[1:] for call in bench.calls if call[0] == "header"]
    assert body == b"".join(call[1] for call in bench.calls if call[0] == "body")
    block = "".join(f"{name}: {value}\n" for name, value in headers)
    assert block.encode() + b"\n" + body == bench._body.getvalue()


@pytest.mark.ours
@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("\u00e9".encode(), "\u00e9"),
        (b"\xe9", "\udce9"),
        (b"=?utf-8?q?=C3=A9?=", "=?utf-8?q?=C3=A9?="),
        (b"a\xe9\n\tb\xc3\xa9", "a\udce9\n\tb\u00e9"),
    ],
)
def test_feed_other_headers(bench: Bench, raw: bytes, text: str) -> None:
    """A header that is not ASCII is decoded as Base decodes it, and stays in `_body` as it was."""
    data = b"Subject: " + raw + b"\n\nx\n"
    connected(bench).feedFile(message(data))
    assert ("header", "Subject", text) in bench.calls
    assert data == bench._body.getvalue()


def test_feed_from_where_the_file_stands(bench: Bench) -> None:
    """The file is read from its position on, and left open."""
    fp = message(b"junk\nA: 1\n\nb\n")
    fp.readline()
    connected(bench).feedFile(fp)
    assert ("header", "A", "1") in bench.calls
    assert not fp.closed


def test_header_bytes(bench: Bench) -> None:
    """Headers go through header_bytes, so that @decode and a filter's own hook count."""

    class Bytes(Bench):
        @Milter.decode("bytes")
        def header(self, field: str, value: Any) -> Any:
            return Seen.header(self, field, value)

    other = Bytes()
    other.feedFile(message(b"A: \xe9\n\nx\n"))
    assert ("header", "A", b"\xe9") in other.calls


def test_msg(bench: Bench) -> None:
    """`_msg` is the message, parsed by mime."""
    connected(bench).feedFile(message())
    assert HEADERS == bench._msg.items()
    assert BODY == bench._msg.get_payload().encode()
    assert not bench._msg.ismodified()


def test_feed_closes_the_log(bench: Bench) -> None:
    """After eom the log is closed."""
    connected(bench).feedFile(message())
    assert bench.logfp is None


def test_close_may_look_at_the_result(bench: Bench) -> None:
    """When close is called, `_body` is complete and the log still open."""
    seen = []
    connected(bench)
    bench.close = lambda: seen.append((bench._body.getvalue(), bench.logfp.closed))  # type: ignore
    bench.feedFile(message())
    assert [(MESSAGE, False)] == seen


def test_feed_again(bench: Bench) -> None:
    """A further message begins with what a reply, body or headers said forgotten."""

    def todo(self: Bench) -> None:
        self.setreply("550", "5.7.1", "x")
        self.replacebody(b"new")
        self.addheader("X", "1")
        self.quarantine("q")

    at_eom(connected(bench), todo)
    assert (True, True) == (bench._bodyreplaced, bench._headerschanged)
    at_eom(bench, None)
    assert (False, False, None, None) == (
        bench._bodyreplaced,
        bench._headerschanged,
        bench._reply,
        bench._quarantine_reason,
    )
    assert HEADERS == bench._msg.items()
    assert MESSAGE == bench._body.getvalue()


def test_feed_msg(bench: Bench) -> None:
    """feedMsg reads the file below test/; the recipients follow the sender."""
    Path("test/samp").write_bytes(MESSAGE)
    assert Milter.CONTINUE == connected(bench).feedMsg("samp", "s@x", "r@x")
    assert [*STEPS, ("close",)] == bench.calls
    bench.calls.clear()
    bench.feedMsg("samp")
    assert [("envfrom", "<spam@adv.com>"), ("envrcpt", "<victim@lamb.com>")] == bench.calls[:2]
    with pytest.raises(FileNotFoundError):
        bench.feedMsg("missing")


# What the filter does.


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("addheader", ("a", "b")),
        ("chgheader", ("a", 1, "b")),
        ("addrcpt", ("<x>",)),
        ("delrcpt", ("<x>",)),
        ("replacebody", (b"x",)),
        ("chgfrom", ("<x>",)),
        ("quarantine", ("x",)),
    ],
)
def test_only_in_eom(bench: Bench, method: str, args: tuple[Any, ...]) -> None:
    """Outside of eom what changes the message raises IOError."""
    texts = []

    def attempt(*ignored: Any) -> int:
        try:
            getattr(bench, method)(*args)
        except OSError as reason:
            texts.append(str(reason))
        return Milter.CONTINUE

    attempt()
    connected(bench)
    bench.body = attempt  # type: ignore[method-assign]
    bench.feedFile(message())
    assert [f"{method} not called from eom()"] * 2 == texts
    assert ([], [], False) == (bench._addrcpt, bench._delrcpt, bench._headerschanged)


def test_addheader(bench: Bench) -> None:
    """addheader appends to `_msg`, whatever the index; the header block of `_body` stays."""
    at_eom(bench, lambda self: (self.addheader("X", "1"), self.addheader("Y", "2", 0)))
    assert [*HEADERS, ("X", "1"), ("Y", "2")] == bench._msg.items()
    assert bench._headerschanged
    assert MESSAGE == bench._body.getvalue()


def test_chgheader(bench: Bench) -> None:
    """chgheader appends to `_msg`, whatever the index."""
    at_eom(bench, lambda self: self.chgheader("Subject", 1, "new"))
    assert [*HEADERS, ("Subject", "new")] == bench._msg.items()
    assert bench._headerschanged


@pytest.mark.parametrize("value", ["", None])
def test_chgheader_deletes(bench: Bench, value: str | None) -> None:
    """chgheader with nothing deletes all headers of that name, in any case."""
    at_eom(bench, lambda self: self.chgheader("RECEIVED", 2, value))
    assert HEADERS[2:] == bench._msg.items()
    assert bench._headerschanged


def test_recipients(bench: Bench) -> None:
    """addrcpt and delrcpt are written down, and not forgotten with the next message."""
    at_eom(
        bench,
        lambda self: (self.addrcpt("<a@x>"), self.addrcpt("<b@x>"), self.delrcpt("<r@x>")),
    )
    assert (["<a@x>", "<b@x>"], ["<r@x>"]) == (bench._addrcpt, bench._delrcpt)
    at_eom(bench, lambda self: self.addrcpt("<c@x>"))
    assert (["<a@x>", "<b@x>", "<c@x>"], ["<r@x>"]) == (bench._addrcpt, bench._delrcpt)


@pytest.mark.ours
def test_recipient_with_parameters(bench: Bench) -> None:
    """A recipient's parameters are written down with it (pymilter's mixin takes none)."""
    at_eom(bench, lambda self: self.addrcpt("<a@x>", "NOTIFY=NEVER"))
    assert [("<a@x>", "NOTIFY=NEVER")] == bench._addrcpt


def test_replacebody(bench: Bench) -> None:
    """The new body follows the original headers; further calls append."""
    at_eom(bench, lambda self: (self.replacebody(b"new\n"), self.replacebody(b"more\n")))
    assert bench._bodyreplaced
    assert MESSAGE[: -len(BODY)] + b"new\nmore\n" == bench._body.getvalue()


def test_replacebody_with_nothing(bench: Bench) -> None:
    """An empty new body is one."""
    at_eom(bench, lambda self: self.replacebody(b""))
    assert bench._bodyreplaced
    assert MESSAGE[: -len(BODY)] == bench._body.getvalue()


@pytest.mark.ours
def test_replacebody_with_str(bench: Bench) -> None:
    """Text is taken as UTF-8, as the real one takes it (pymilter's mixin: TypeError)."""
    at_eom(bench, lambda self: self.replacebody("\u00e9"))
    assert bench._body.getvalue().endswith(b"\n\n\xc3\xa9")


def test_chgfrom(bench: Bench) -> None:
    """chgfrom sets `_sender` and `_envfromchanged`."""
    at_eom(bench, None)
    assert ("<spam@adv.com>", False) == (bench._sender, bench._envfromchanged)
    at_eom(bench, lambda self: self.chgfrom("<n@x>", "SIZE=1"))
    assert ("<n@x>", True) == (bench._sender, bench._envfromchanged)


@pytest.mark.ours
def test_quarantine(bench: Bench) -> None:
    """quarantine is written down (pymilter: TypeError)."""
    at_eom(bench, lambda self: self.quarantine("why"))
    assert "why" == bench._quarantine_reason


def test_progress(bench: Bench) -> None:
    """progress does nothing, anywhere."""
    assert bench.progress() is None
    at_eom(bench, lambda self: self.progress())
    assert MESSAGE == bench._body.getvalue()


@pytest.mark.parametrize(
    ("args", "keywords", "reply"),
    [
        (("550", "5.7.1", "a"), {}, ("550", "5.7.1", "a")),
        (("550", "5.7.1", "a", "b", "c"), {}, ("550", "5.7.1", "a", "b", "c")),
        (("450", None), {}, ("450", None)),
        (("550",), {"xcode": "5.7.1", "msg": "a"}, ("550", "5.7.1", "a")),
        (("550", "5.7.1", "50%"), {}, ("550", "5.7.1", "50%")),
    ],
)
def test_setreply(bench: Bench, args: Any, keywords: Any, reply: Any) -> None:
    """setreply is written down as it was called, unchecked, in any callback."""
    assert bench.setreply(*args, **keywords) is None
    assert reply == bench._reply


def test_disabled_actions_are_not_noticed(bench: Bench) -> None:
    """What was negotiated makes no difference to what works."""
    connected(bench)._actions = 0
    at_eom(bench, lambda self: (self.addheader("X", "1"), self.addrcpt("<a>")))
    assert (True, ["<a>"]) == (bench._headerschanged, bench._addrcpt)


def test_actions_are_logged(bench: Bench) -> None:
    """Changes of headers and sender are lines of the log."""
    at_eom(
        bench,
        lambda self: (
            self.addheader("X", "1"),
            self.chgheader("Subject", 1, "new"),
            self.chgfrom("<n@x>"),
        ),
    )
    assert (
        "addheader: X=1\nchgheader: Subject[1]=new\nchgfrom: sender=<n@x>\n"
        == Path("test/milter.log").read_text()
    )


# Macros.


def test_macros(bench: Bench) -> None:
    """setsymval defines what getsymval gives, in any callback; else None."""
    bench.setsymval("i", "QID")
    bench.setsymval("{auth_authen}", "me")
    got: list[Any] = []

    def look(*ignored: Any) -> int:
        got.append([bench.getsymval(name) for name in ("i", "{auth_authen}", "j")])
        return Milter.CONTINUE

    look()
    steps = ["hello", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom", "close"]
    for step in steps:
        setattr(bench, step, look)
    connected(bench).feedFile(message(b"A: 1\n\nx\n"))
    assert [["QID", "me", None]] * (1 + len(steps)) == got


@pytest.mark.ours
def test_macros_with_braces(bench: Bench) -> None:
    """Braces around one letter make no difference, those around more do; as with the real one."""
    bench.setsymval("i", "QID")
    bench.setsymval("{j}", "me")
    bench.setsymval("{ab}", "x")
    assert ["QID", "QID", "me", "me", "x", None] == [
        bench.getsymval(name) for name in ("i", "{i}", "j", "{j}", "{ab}", "ab")
    ]


@pytest.mark.ours
def test_symlist(bench: Bench) -> None:
    """A callback under @symlist gets the macros that it names and no others; the rest all."""
    got = {}

    class Picky(Bench):
        @Milter.symlist("i", "{x}")
        def envfrom(self, f: Any, *s: Any) -> Any:
            got["envfrom"] = [self.getsymval(name) for name in ("i", "{x}", "j")]
            return Milter.CONTINUE

        def envrcpt(self, to: Any, *s: Any) -> Any:
            got["envrcpt"] = [self.getsymval(name) for name in ("i", "{x}", "j")]
            return Milter.CONTINUE

    other = Picky()
    for name in ("i", "{x}", "j"):
        other.setsymval(name, name.upper())
    for _ in range(2):  # one object for several connections
        got.clear()
        assert Milter.CONTINUE == other.connect()
        assert [None, None, {b"i", b"{x}"}, None, None, None, None] == other._symlist
        assert ~0 & ~Picky.protocol_mask() == other._protocol
        other.feedFile(message())
        assert {"envfrom": ["I", "{X}", None], "envrcpt": ["I", "{X}", "J"]} == got


@pytest.mark.ours
def test_setsymlist(bench: Bench) -> None:
    """setsymlist is for negotiate only, 5 macros and once a stage, in one string or several.

    Other types than text and bytes are overlooked, as Base.setsymlist overlooks them.
    """
    outcomes: list[Any] = []

    class Asks(Bench):
        def negotiate(self, opts: list[int]) -> int:
            for args in [
                (Milter.M_HELO, "a", b"b"),
                (Milter.M_EOM, "c d"),
                (Milter.M_DATA, ["j"]),
                (Milter.M_CONNECT, "a b c d e f"),
                (Milter.M_EOM, "e"),
                (7, "e"),
            ]:
                try:
                    outcomes.append(self.setsymlist(*args))
                except Exception as reason:
                    outcomes.append((type(reason), str(reason).partition(":")[0]))
            return super().negotiate(opts)

    other = Asks()
    other.connect()
    other._close()
    assert [
        None,
        None,
        None,
        (ValueError, "setsymlist limited to 5 macros by MTA"),
        (milter.error, "cannot set macro list"),
        (milter.error, "cannot set macro list"),
    ] == outcomes
    assert [None, {b"a", b"b"}, None, None, {b""}, {b"c", b"d"}, None] == other._symlist
    with pytest.raises(RuntimeError, match="setsymlist may only be called from negotiate"):
        other.setsymlist(0, "a")


# In suites of filters.


def test_filter_names_stay_free() -> None:
    """The mixin has pymilter's names and no others, so that it hides nothing of a filter's."""
    legacy = (
        "_close addheader addrcpt chgfrom chgheader connect delrcpt feedFile feedMsg getsymval log "
        "progress quarantine replacebody setreply setsymlist setsymval"
    )
    names = {name for klass in TestBase.__mro__[:-1] for name in vars(klass)}
    assert set(legacy.split()) == {name for name in names if not name.startswith("__")}


SUITE = """
import io, unittest
import Milter
from Milter.test import TestBase
from Milter.testctx import TestCtx
from Milter import test, testctx


class Filter(Milter.Base):
    def envfrom(self, f, *s):
        return Milter.REJECT if "spam" in f else Milter.CONTINUE


class TestFilter(TestBase, Filter):
    def __init__(self):
        TestBase.__init__(self)
        Filter.__init__(self)


class FilterTestCase(unittest.TestCase):
    def test_rejects(self):
        bench = TestFilter()
        bench.connect()
        self.assertEqual(Milter.REJECT, bench.feedFile(io.BytesIO(b"A: b\\n\\nc\\n")))
        bench._close()

    def test_rejects_with_context(self):
        Milter.factory = Filter
        ctx = TestCtx()
        ctx._connect()
        self.assertEqual(Milter.REJECT, ctx._envfrom("<spam@x>"))
        ctx._close()


class Both(TestBase, Filter, unittest.TestCase):
    def __init__(self, *args):
        unittest.TestCase.__init__(self, *args)
        TestBase.__init__(self)

    def test_itself(self):
        self.assertEqual(Milter.CONTINUE, Filter.envfrom(self, "<a@b>"))
        self._close()


def suite():
    return unittest.defaultTestLoader.loadTestsFromTestCase(FilterTestCase)
"""


@pytest.mark.ours
@pytest.mark.parametrize("runner", ["pytest", "unittest"])
def test_collected(tmp_path: Path, runner: str) -> None:
    """A suite's own tests are run, and nothing of the kit is taken for one, under both runners."""
    (tmp_path / "test_filter.py").write_text(SUITE)
    (tmp_path / "test").mkdir()
    if runner == "pytest":
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_filter.py"]
    else:
        command = ["-W", "error", "-m", "unittest", "test_filter"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert 0 == done.returncode, done.stdout
    assert ("3 passed" if runner == "pytest" else "Ran 3 tests") in done.stdout


def test_log_left_open(bench: Bench) -> None:
    """An object that is forgotten with its log open costs no ResourceWarning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Bench().log("x")
        gc.collect()
    assert [] == caught
    assert "x\n" == Path("test/milter.log").read_text()


def test_direct_calls() -> None:
    """Decorated callbacks can be called directly, with a fake context or none."""

    class Direct(Milter.Base):
        @Milter.noreply
        def envfrom(self, f: Any, *s: Any) -> int:
            self.got = self.getsymval("i")
            return Milter.CONTINUE

    class Fake:
        def getsymval(self, name: str) -> str:
            return f"value of {name}"

    direct = Direct()
    direct._ctx, direct._protocol = Fake(), 0
    assert Milter.CONTINUE == direct.envfrom("<a@b>")
    assert "value of i" == direct.got


def test_body_can_be_parsed_again(bench: Bench) -> None:
    """`_body` is a binary file in memory with the whole message."""
    at_eom(bench, None)
    assert isinstance(bench._body, io.BytesIO)
    bench._body.seek(0)
    assert MESSAGE == bench._body.read()
