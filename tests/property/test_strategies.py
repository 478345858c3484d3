"""Milter.strategies: what they make a mail server can send, and other programs can read."""

from __future__ import annotations

import email
import re
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings

import Milter
from Milter import mta, strategies, testing

pytestmark = pytest.mark.one_mode("in memory each connection has its thread")


class Listens(Milter.Base):
    """Writes down what it is told, and refuses what a test wants refused."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.chunks = b""

    def hello(self, name: str) -> int:
        self.seen.append(("helo", name))
        return Milter.CONTINUE

    @Milter.decode("bytes")
    def envfrom(self, sender: bytes, *params: bytes) -> int:
        self.seen.append(("mail", sender, *params))
        self.chunks = b""
        return Milter.CONTINUE

    @Milter.decode("bytes")
    def envrcpt(self, recipient: bytes, *params: bytes) -> int:
        self.seen.append(("rcpt", recipient, *params))
        return Milter.REJECT if b"=" in recipient else Milter.CONTINUE

    @Milter.decode("bytes")
    def header(self, name: str, value: bytes) -> int:
        self.seen.append(("header", name, value))
        return Milter.CONTINUE

    def body(self, chunk: bytes) -> int:
        self.chunks += chunk
        return Milter.CONTINUE

    def eom(self) -> int:
        self.seen.append(("body", self.chunks))
        return Milter.CONTINUE


# That there is one is the question, not which is the smallest.
QUICK = settings(max_examples=3000, database=None, phases=[Phase.generate])


@given(strategies.messages(smtputf8=True))
@settings(max_examples=60)
def test_messages_arrive(message: mta.Message) -> None:
    """A filter is told exactly what is in a message; the file format keeps it, too."""
    with testing.direct(Listens) as client:
        client.send(message)
    told = client.objects[0].seen
    headers = [each for each in told if each[0] == "header"]
    good = [to for to in message.recipients if "=" not in to.address]
    expected = [
        # As wire spec 1.3 has it: without the one blank that an MTA takes off.
        ("header", each.name.decode(), each.value[1:] if each.value[:1] == b" " else each.value)
        for each in message.headers
    ]
    assert (expected if good else []) == headers
    assert [("mail", message.sender.encode(), *map(str.encode, message.sender_params))] == [
        each for each in told if each[0] == "mail"
    ]
    assert [
        ("rcpt", to.address.encode(), *map(str.encode, to.params)) for to in message.recipients
    ] == [each for each in told if each[0] == "rcpt"]
    if good:
        assert ("body", message.body) == told[-1]
    read = mta.Message.from_bytes(message.as_bytes())
    assert (message.headers, message.body) == (read.headers, read.body)


@given(strategies.headers(), strategies.bodies(max_size=100))
def test_lines(headers: list[mta.Header], body: bytes) -> None:
    """There are no bare CRs and LFs, no NULs, folds begin with a blank, sizes are kept."""
    assert len(headers) <= 8
    for header in headers:
        assert re.fullmatch(rb"[!-9;-~]+", header.name)
        assert not re.search(rb"[\0\r]|\n(?![ \t])", header.value)
    assert len(body) <= 100
    assert not re.search(rb"\0|\r(?!\n)|(?<!\r)\n", body)


@given(strategies.addresses(null=True, smtputf8=True))
def test_addresses(address: str) -> None:
    """Addresses are a null sender, or a local part and a domain in angle brackets."""
    quoted, atoms = r'"[abc xyz.@,<>()]+"', r"[^\s<>()@,\"]+"
    assert re.fullmatch(rf"<>|<({quoted}|{atoms})@([a-z0-9.]+|\[192\.0\.2\.1\])>", address)


@given(strategies.mime_messages(broken=False))
@settings(max_examples=60)
def test_mime(message: mta.Message) -> None:
    """The standard library's parser finds no defects in MIME messages that are to have none.

    Nor are there bytes in a part that its charset or encoding does not have.
    """
    parsed = email.message_from_bytes(message.as_bytes())
    parts = list(parsed.walk())
    assert [] == [defect for part in parts for defect in part.defects]
    leaves = [part for part in parts if not part.is_multipart()]
    assert 1 <= len(leaves)
    for part in leaves:
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        if part.get_content_maintype() == "text":
            data.decode(part.get_content_charset("ascii"))
        if part["Content-Transfer-Encoding"] == "7bit":
            assert data.isascii()


@given(strategies.dialogues())
@settings(max_examples=60)
def test_dialogues(dialogue: list[strategies.Move]) -> None:
    """Every dialogue can be played to a filter, and none of it is refused as out of order."""
    with testing.direct(Listens) as client:
        with client.connect() as session:
            played = strategies.play(session, dialogue)
        asked = [move.step for move in dialogue if move.step in ("helo", "mail", "unknown")]
        assert asked == [
            move.step for move, _ in played if move.step in ("helo", "mail", "unknown")
        ]
        assert dialogue == [move for move, _ in played]
        ends = [answer for move, answer in played if move.step == "eom"]
        assert all(isinstance(answer, mta.Answer) for answer in ends)


def test_dialogue_is_cut_at_refusal() -> None:
    """What follows a refusal of the client, or of a message, is not played."""

    class Refuses(Listens):
        def hello(self, name: str) -> int:
            return Milter.REJECT if name == "bad" else Milter.CONTINUE

        def header(self, name: str, value: bytes) -> int:
            return Milter.REJECT

    Move = strategies.Move
    content = [
        Move("mail", ("<a@example.org>",)),
        Move("rcpt", ("<b@example.org>",)),
        Move("data"),
        Move("header", (b"A", b" b")),
        Move("header", (b"C", b" d")),
        Move("eoh"),
        Move("eom"),
    ]
    with testing.direct(Refuses) as client:
        with client.connect() as session:
            played = strategies.play(session, [*content, *content])
        assert ["mail", "rcpt", "data", "header"] * 2 == [move.step for move, _ in played]
        with client.connect() as session:
            played = strategies.play(session, [Move("helo", ("bad",)), *content])
        assert ["helo"] == [move.step for move, _ in played]


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        (strategies.addresses(null=True), lambda each: each == "<>"),
        (strategies.addresses(), lambda each: each.startswith('<"')),
        (strategies.envelopes(), lambda each: len(each[2]) == 4 and each[1]),
        (strategies.clients(), lambda each: each.address is None),
        (strategies.clients(), lambda each: ":" in (each.address or "")),
        (strategies.header_values(), lambda each: b"\n" in each),
        (strategies.header_values(), lambda each: any(byte > 127 for byte in each)),
        (strategies.bodies(), lambda each: b"\r\n" in each and not each.endswith(b"\r\n")),
        (strategies.mime_messages(), lambda each: each.body.count(b"multipart/") > 1),
        (strategies.mime_messages(), lambda each: b"filename=" in each.body),
        (strategies.dialogues(), lambda each: ("abort", ()) in each),
        (strategies.dialogues(), lambda each: len([m for m in each if m.step == "mail"]) > 1),
    ],
)
def test_reach(strategy: Any, wanted: Any) -> None:
    """The unusual that they promise does come."""
    assert wanted(find(strategy, wanted, settings=QUICK))


SMALLEST = settings(max_examples=50, database=None, phases=[Phase.generate, Phase.shrink])


def test_smallest() -> None:
    """Examples shrink to plain ones: no headers, no body, one recipient, whose address is usual."""
    message = find(strategies.messages(), lambda each: True, settings=SMALLEST)
    assert ([], b"", "<>", []) == (
        message.headers,
        message.body,
        message.sender,
        message.sender_params,
    )
    assert [mta.Recipient("<bob@example.org>")] == message.recipients


def test_smallest_with_a_header() -> None:
    """A header that has to be there, but matters no further, shrinks to one that is usual."""
    message = find(strategies.messages(), lambda each: bool(each.headers), settings=SMALLEST)
    assert [mta.Header(b"Subject", b" ")] == message.headers


@pytest.mark.parametrize("strategy", [strategies.messages(), strategies.mime_messages()])
def test_shown_as_what_it_is(strategy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Hypothesis shows a message that breaks a rule as a Message, not by a name of ours."""

    @settings(SMALLEST, derandomize=True)
    @given(message=strategy)
    def rule(message: mta.Message) -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError) as caught:
        rule()
    # As a note of the exception, or where Python has none of these in print.
    text = "".join([*getattr(caught.value, "__notes__", ()), *capsys.readouterr()])
    assert "message=Message(headers=[" in text


class Forgetful(Listens):
    """With a mistake for each test that says so; see test_faults_are_found."""

    fault = ""

    def envfrom(self, sender: str, *params: str) -> int:  # type: ignore[override]
        if self.fault == "null sender":
            sender.split("@")[1]
        return Milter.CONTINUE

    def envrcpt(self, recipient: str, *params: str) -> int:  # type: ignore[override]
        if self.fault == "quoted local part":
            _, _ = recipient.split("@")
        return Milter.CONTINUE

    def header(self, name: str, value: str) -> int:  # type: ignore[override]
        if self.fault == "not UTF-8":
            value.encode()
        if self.fault == "folded" and "\n" in value:
            raise ValueError
        if self.fault == "case" and name.lower() == "subject" and name != "Subject":
            raise ValueError
        return Milter.CONTINUE

    def body(self, chunk: bytes) -> int:
        self.size = len(chunk)
        return Milter.CONTINUE

    def eom(self) -> int:
        if self.fault == "no body":
            self.addheader("X-Size", str(self.size))
        return Milter.CONTINUE


@pytest.mark.parametrize(
    "fault", ["null sender", "quoted local part", "not UTF-8", "folded", "case", "no body"]
)
def test_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistakes that filters make with mail are found within the usual 100 examples."""
    monkeypatch.setattr(Forgetful, "fault", fault)

    @settings(max_examples=100, database=None, derandomize=True, phases=[Phase.generate])
    @given(strategies.messages())
    def rule(message: mta.Message) -> None:
        with testing.direct(Forgetful) as client:
            client.send(message)

    with pytest.raises((IndexError, ValueError, AttributeError)):
        rule()
