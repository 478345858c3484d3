"""A whole message played to a filter: what is sent, where it stops, what becomes of it.

Bytes by hand from the wire spec; Postfix's macros and replies are those of its section 2.7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Any, Union

import pytest
from mta_support import ALL, OFFER, C, Script, Simple, agreed, packet

from Milter import __version__, mta
from Milter._smtpsession import Exchange
from Milter._wholemessage import message_to

EML = b"Subject: hi\r\nX-Folded: a\r\n\tb\r\n\r\nhello\r\n"


def message(*recipients: str, body: bytes = b"hello\r\n") -> mta.Message:
    """A small message from a@b.example, by default to one recipient."""
    found = mta.Message.from_bytes(EML, "a@b.example", recipients or ("c@d.example",))
    found.body = body
    return found


def exchanges(
    conversation: mta.Protocol,
    sent: mta.Message,
    replies: dict[str, Union[bytes, list[bytes]]],
    **kind: Any,
) -> Generator[bytes, None, mta.Result]:
    """Plays a message; yields what is written; `replies` by step, CONTINUE where there is none."""
    kind = {
        "client": mta.LOCALHOST,
        "helo": None,
        "macros": {},
        "rejected": (),
        "number": 1,
        "on_step": None,
        **kind,
    }
    script = message_to(conversation, sent, **kind)
    answer = None
    while True:
        try:
            operation = script.send(answer)
        except StopIteration as end:
            result: mta.Result = end.value
            return result
        assert isinstance(operation, Exchange)
        yield b"".join(operation.writes)
        outgoing = operation.outgoing
        verdict = outgoing.verdict
        changes: list[mta.Modification] = []
        if verdict is None:
            reply = replies.get(outgoing.step, C)
            conversation.receive(reply.pop(0) if isinstance(reply, list) else reply)
        while verdict is None:
            event = conversation.next_event()
            if isinstance(event, mta.Verdict):
                verdict = event
            else:
                assert event is not None
                assert not isinstance(event, (mta.Options, mta.Progress))
                changes.append(event)
        answer = mta.Answer(verdict, tuple(changes))


def drive(
    sent: mta.Message,
    replies: dict[str, Union[bytes, list[bytes]]],
    protocol: Any = None,
    **kind: Any,
) -> tuple[mta.Result, list[str], mta.Protocol]:
    """Plays a message.

    Returns the result, the letters that went out, and the conversation.
    """
    conversation = agreed() if protocol is None else protocol
    play = exchanges(conversation, sent, replies, **kind)
    letters = []
    try:
        while True:
            letters += split(next(play))
    except StopIteration as end:
        return end.value, letters, conversation


def split(data: bytes) -> list[str]:
    """The letters of packets; D with its stage."""
    letters = []
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        letters.append(data[4:6].decode() if data[4:5] == b"D" else data[4:5].decode())
        data = data[size:]
    return letters


ENVELOPE = ["DC", "C", "DH", "H", "DM", "M", "DR", "R", "DT", "T"]
FULL = [*ENVELOPE, "DL", "L", "DL", "L", "DN", "N", "DB", "B", "DE", "E"]


# -- all of it -----------------------------------------------------------------------------------


def test_whole_message() -> None:
    """Everything that goes out for one message, with Postfix's macros (1.3, 2.7)."""
    version = f"pymilter-cffi {__version__}".encode()
    connect = (
        packet(
            "D",
            b"Cj\0mta.example.org\0{daemon_name}\0mta.example.org\0{daemon_addr}\x00127.0.0.1\0v\0"
            + version
            + b"\0_\0client.example [192.0.2.1]\0",
        ),
        packet("C", b"client.example\x004\x30\x39192.0.2.1\0"),
    )
    mail = (
        packet("D", b"M{mail_addr}\0a@b.example\0{mail_host}\0b.example\0{mail_mailer}\0smtp\0"),
        packet("M", b"<a@b.example>\0SIZE=9\0"),
    )
    first = (
        packet("D", b"R{rcpt_addr}\0c@d.example\0{rcpt_host}\0d.example\0{rcpt_mailer}\0smtp\0"),
        packet("R", b"<c@d.example>\0NOTIFY=NEVER\0"),
    )
    second = (
        packet(
            "D",
            b"Ri\x004A5B6C0001\0{rcpt_addr}\0e@f.example\0{rcpt_host}\0f.example\0"
            b"{rcpt_mailer}\0smtp\0",
        ),
        packet("R", b"<e@f.example>\0"),
    )
    turns = [
        (OFFER, ALL),
        (b"".join(connect), C),
        (packet("D", b"H") + packet("H", b"helo.example\0"), C),
        (b"".join(mail), C),
        (b"".join(first), C),
        (b"".join(second), packet("y", b"550 5.1.1 Who is that?\0")),
        (packet("D", b"Ti\x004A5B6C0001\0") + packet("T"), C),
        (packet("D", b"Li\x004A5B6C0001\0") + packet("L", b"Subject\0hi\0"), C),
        (packet("D", b"Li\x004A5B6C0001\0") + packet("L", b"X-Folded\0a\n\tb\0"), C),
        (packet("D", b"Ni\x004A5B6C0001\0") + packet("N"), C),
        (packet("D", b"Bi\x004A5B6C0001\0") + packet("B", b"hello\r\n"), C),
        (
            packet("D", b"Ei\x004A5B6C0001\0") + packet("E"),
            packet("i", b"\0\0\0\0X-New\0v\0") + packet("+", b"<g@h.example>\0") + C,
        ),
        (packet("Q"), b""),
    ]
    script = Script(*turns)
    sent = message()
    sent.sender_params = ["SIZE=9"]
    sent.recipients = [
        mta.Recipient("c@d.example", ("NOTIFY=NEVER",)),
        mta.Recipient("<e@f.example>"),
    ]
    steps: list[mta.Step] = []
    with script.session() as session:
        result = session.send(
            sent,
            client=mta.SmtpClient("client.example", "192.0.2.1", 12345),
            helo="helo.example",
            on_step=steps.append,
        )
    script.done()
    changes = (mta.InsertHeader(0, "X-New", "v"), mta.AddRecipient("<g@h.example>"))
    assert mta.Outcome.ACCEPTED is result.outcome
    assert "250 2.0.0 Ok: queued as 4A5B6C0001" == result.reply
    assert changes == result.modifications
    assert b"X-New: v\r\n" + EML == result.message.as_bytes()
    assert ["c@d.example", "<g@h.example>"] == [to.address for to in result.message.recipients]
    assert ["<e@f.example>"] == [step.argument for step in result.refused]
    assert result.quarantine is None
    assert not result.session_over
    assert tuple(steps) == result.steps
    assert [
        ("connect", "client.example [192.0.2.1]"),
        ("helo", "helo.example"),
        ("mail", "<a@b.example> SIZE=9"),
        ("rcpt", "<c@d.example> NOTIFY=NEVER"),
        ("rcpt", "<e@f.example>"),
        ("data", ""),
        ("header", "Subject: hi"),
        ("header", r"X-Folded: a\n\tb"),
        ("eoh", ""),
        ("body", "7 bytes"),
        ("eom", ""),
    ] == [(step.name, step.argument) for step in steps]
    # The message that was sent is as it was.
    assert EML == sent.as_bytes()
    assert 2 == len(sent.recipients)


def test_second_message() -> None:
    """A session takes several messages: CONNECT and HELO only once, HELO again if it is given."""
    result, letters, conversation = drive(message(), {})
    assert FULL == letters
    assert drive(message(), {}, conversation)[1] == FULL[4:]
    assert drive(message(), {}, conversation, helo="again")[1] == FULL[2:]
    assert mta.Outcome.ACCEPTED is result.outcome


def test_queue_ids(tmp_path: Path) -> None:
    """Each message of a session has a queue id of its own, told to filter and client."""
    with Simple(tmp_path / "s") as simple:
        with mta.connect(simple.spec) as session:
            replies = [session.send(message()).reply for _ in range(2)]
        assert [
            "250 2.0.0 Ok: queued as 4A5B6C0001",
            "250 2.0.0 Ok: queued as 4A5B6C0002",
        ] == replies
        ids = [packet for packet in simple.packets if packet.startswith(b"DE")]
        assert [b"DEi\x004A5B6C0001\0", b"DEi\x004A5B6C0002\0"] == ids


def test_no_body() -> None:
    """A message with an empty body has no body step (1.3)."""
    assert [x for x in FULL if x not in ("DB", "B")] == drive(message(body=b""), {})[1]


@pytest.mark.parametrize(
    ("size", "chunks"), [(65535, [65535]), (65536, [65535, 1]), (131071, [65535, 65535, 1])]
)
def test_large_body(size: int, chunks: list[int]) -> None:
    """The body goes in pieces of 65535 bytes, the last one smaller (1.2)."""
    result, letters, _ = drive(message(body=bytes(size)), {})
    assert len(chunks) == letters.count("B")
    bodies = [step.argument for step in result.steps if step.name == "body"]
    assert [f"{chunk} bytes" for chunk in chunks] == bodies


def test_skipped_body() -> None:
    """After SKIP comes the end of the message, which may then go on as ever (2.4)."""
    result, letters, _ = drive(
        message(body=bytes(200000)), {"body": [C, packet("s")]}, agreed(protocol=0x400)
    )
    assert [*FULL[:16], "DB", "B", "DB", "B", "DE", "E"] == letters
    assert mta.Outcome.ACCEPTED is result.outcome


def test_steps_negotiated_away() -> None:
    """What the filter does not want is not sent, and is not a verdict; macros go out (2.7)."""
    result, letters, _ = drive(message(), {}, agreed(protocol=0x37F))
    assert ["DC", "DH", "DM", "DR", "DT", "DE", "E"] == letters
    assert mta.Outcome.ACCEPTED is result.outcome
    assert ["not sent"] * 9 + ["continue"] == [step.verdict.kind.value for step in result.steps]


def test_no_answers() -> None:
    """With all NR bits the answer to the end of the message is the only one."""
    result, letters, _ = drive(message(), {"eom": packet("r")}, agreed(protocol=0xFF080))
    assert FULL == letters
    assert mta.Outcome.REJECTED is result.outcome
    assert ["no reply"] * 9 + ["reject"] == [step.verdict.kind.value for step in result.steps]


# -- verdicts ------------------------------------------------------------------------------------

REPLIES = {
    "a": (mta.Outcome.ACCEPTED, "250 2.0.0 Ok: queued as 4A5B6C0001"),
    "r": (mta.Outcome.REJECTED, "550 5.7.1 Command rejected"),
    "t": (mta.Outcome.TEMPFAILED, "451 4.7.1 Service unavailable - try again later"),
    "d": (mta.Outcome.DISCARDED, "250 2.0.0 Ok: queued as 4A5B6C0001"),
}
STOPS = {"mail": 6, "data": 10, "header": 12, "eoh": 16, "body": 18, "eom": 20}


@pytest.mark.parametrize("letter", "artd")
@pytest.mark.parametrize("step", STOPS)
def test_verdicts_on_the_message(step: str, letter: str) -> None:
    """A final verdict ends the message where it is; no abort, the filter is done with it (3.4)."""
    result, letters, conversation = drive(message(), {step: packet(letter)})
    assert FULL[: STOPS[step]] == letters
    assert (*REPLIES[letter], False) == (result.outcome, result.reply, result.session_over)
    assert step == result.steps[-1].name
    assert result.verdict == result.steps[-1].verdict
    # The next one on the same connection is filtered as if nothing had been.
    again, letters, _ = drive(message(), {}, conversation)
    assert FULL[4:] == letters
    assert mta.Outcome.ACCEPTED is again.outcome


@pytest.mark.parametrize("letter", "art")
@pytest.mark.parametrize(("step", "stop"), [("connect", 2), ("helo", 4)])
def test_verdicts_on_the_session(step: str, stop: int, letter: str) -> None:
    """A final verdict on CONNECT or HELO is about the whole connection (4.2)."""
    result, letters, _ = drive(message(), {step: packet(letter)})
    assert FULL[:stop] == letters
    assert (*REPLIES[letter], True) == (result.outcome, result.reply, result.session_over)


@pytest.mark.parametrize("step", ["connect", "helo"])
def test_discard_on_the_session(step: str) -> None:
    """DISCARD on CONNECT or HELO is taken for CONTINUE, as Postfix does (2.7)."""
    result, letters, _ = drive(message(), {step: packet("d")}, agreed(strict=False))
    assert FULL == letters
    assert mta.Outcome.ACCEPTED is result.outcome


@pytest.mark.parametrize("letter", "ad")
def test_verdicts_on_the_message_at_a_recipient(letter: str) -> None:
    """ACCEPT and DISCARD at a recipient are about the whole message; after DISCARD the filter
    still has the message, and is told to abort it (3.4)."""
    result, letters, _ = drive(message("c@d", "e@f"), {"rcpt": packet(letter)})
    assert [*FULL[:8], *(["A"] if letter == "d" else [])] == letters
    assert REPLIES[letter] == (result.outcome, result.reply)


@pytest.mark.parametrize("letter", "rt")
def test_all_recipients_refused(letter: str) -> None:
    """Without a recipient left the message ends there, by the last one's reply, and is aborted."""
    last = packet("y", b"452 4.5.3 Enough\0")
    result, letters, _ = drive(message("c@d", "e@f"), {"rcpt": [packet(letter), last]})
    assert [*FULL[:8], "DR", "R", "A"] == letters
    assert (mta.Outcome.TEMPFAILED, "452 4.5.3 Enough") == (result.outcome, result.reply)
    assert [] == result.message.recipients
    assert ["<c@d>", "<e@f>"] == [step.argument for step in result.refused]
    assert "abort" == result.steps[-1].name


def test_some_recipients_refused() -> None:
    """A refused recipient is not among those of the message; the same address twice is two."""
    sent = message("c@d", "e@f", "c@d", "g@h")
    for replies, kept, refused in (
        ([packet("r"), C, C, C], ["e@f", "c@d", "g@h"], ["<c@d>"]),
        ([C, C, packet("t"), C], ["c@d", "e@f", "g@h"], ["<c@d>"]),
        ([C, packet("t"), packet("r"), packet("r")], ["c@d"], ["<e@f>", "<c@d>", "<g@h>"]),
    ):
        result, _, _ = drive(sent, {"rcpt": replies})
        assert kept == [to.address for to in result.message.recipients]
        assert mta.Outcome.ACCEPTED is result.outcome
        assert refused == [step.argument for step in result.refused]


@pytest.mark.parametrize(
    ("step", "letters", "abort"),
    [("connect", 2, False), ("mail", 6, False), ("rcpt", 8, True), ("eoh", 16, False)],
)
def test_421(step: str, letters: int, abort: bool) -> None:
    """A reply of 421 closes the SMTP session at whatever step (4.5)."""
    text = b"421 4.7.0 Go away\0"
    result, played, _ = drive(message("c@d", "e@f"), {step: packet("y", text)})
    full = [*FULL[:8], "DR", "R", *FULL[8:]]
    expected = full[: letters + (2 if letters > 8 else 0)] + (["A"] if abort else [])
    assert expected == played
    # Of the answer to CONNECT the greeting has nothing but the code.
    greeting = "421 mta.example.org Service unavailable - try again later"
    reply = greeting if step == "connect" else "421 4.7.0 Go away"
    assert (mta.Outcome.TEMPFAILED, reply, True) == (
        result.outcome,
        result.reply,
        result.session_over,
    )


def test_421_at_a_recipient_and_at_the_end() -> None:
    """A recipient refused with 421 is not among the message's, changes before a 421 are kept."""
    text = packet("y", b"421 4.7.0 Go away\0")
    result, _, _ = drive(message("c@d", "e@f", "g@h"), {"rcpt": [C, text]})
    assert ["c@d", "g@h"] == [to.address for to in result.message.recipients]
    assert ["<e@f>"] == [step.argument for step in result.refused]
    result, _, _ = drive(message(), {"eom": packet("h", b"X\0v\0") + text})
    assert (mta.AddHeader("X", "v"),) == result.modifications
    assert result.session_over


def test_reply_with_several_lines() -> None:
    """A text of several lines is the client's reply, doubled percent signs undone."""
    text = b"550-5.7.1 100%% sure\r\n550 5.7.1 no\0"
    result, _, _ = drive(message(), {"eom": packet("y", text)})
    assert "550-5.7.1 100% sure\r\n550 5.7.1 no" == result.reply


def test_quarantine() -> None:
    """A quarantined message is accepted, with the reason; the last one counts."""
    replies = packet("q", b"one\0") + packet("q", b"two\0") + C
    result, _, _ = drive(message(), {"eom": replies})
    assert (mta.Outcome.ACCEPTED, "two") == (result.outcome, result.quarantine)


def test_rejected_after_changes() -> None:
    """A message may be refused after it was changed."""
    result, _, _ = drive(message(), {"eom": packet("h", b"X\0v\0") + packet("r")})
    assert mta.Outcome.REJECTED is result.outcome
    assert (mta.AddHeader("X", "v"),) == result.modifications
    assert [b"v"] == result.message.get_all("X")


def test_leading_space() -> None:
    """With HDR_LEADSPC values go out with their blank, and new ones come with it (2.4)."""
    replies = {"eom": packet("h", b"X\0v\0") + packet("h", b"Y\0 w\0") + C}
    result, _, _ = drive(message(), replies, agreed(protocol=0x100000))
    assert [(b"X", b"v"), (b"Y", b" w")] == result.message.headers[-2:]


def test_results_are_values() -> None:
    """What comes back stays as it is: result, steps, verdicts, options, progress, timeouts."""
    result, _, conversation = drive(message(), {})
    for value in (
        result,
        result.steps[0],
        result.verdict,
        conversation.options,
        mta.LOCALHOST,
        mta.Timeouts(),
    ):
        assert value is not None
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, None)
    assert 1 == len({mta.Progress(), mta.Progress()})


# -- macros --------------------------------------------------------------------------------------


def wire(sent: mta.Message, conversation: mta.Protocol, **kind: Any) -> dict[str, bytes]:
    """The last macro packet of each stage that goes out with one message."""
    packets: dict[str, bytes] = {}
    for data in exchanges(conversation, sent, {}, **kind):
        while data:
            size = 4 + int.from_bytes(data[:4], "big")
            if data[4:5] == b"D":
                packets[data[5:6].decode()] = data[6:size]
            data = data[size:]
    return packets


def test_requested_macros() -> None:
    """A filter that asks for macros gets those, as far as they are known by then (2.5)."""
    lists = (
        b"\0\0\0\0j\0"
        b"\0\0\0\2{mail_addr} i {rcpt_addr}\0"
        b"\0\0\0\3j {mail_addr} {rcpt_addr} {none}\0"
        b"\0\0\0\5i,j\0"
        b"\0\0\0\6\0"
    )
    packets = wire(message(), agreed(lists=lists))
    assert b"j\0mta.example.org\0" == packets["C"]
    assert b"{mail_addr}\0a@b.example\0" == packets["M"]
    assert (
        b"j\0mta.example.org\0{mail_addr}\0a@b.example\0{rcpt_addr}\0c@d.example\0" == packets["R"]
    )
    assert b"i\x004A5B6C0001\0j\0mta.example.org\0" == packets["E"]
    assert b"" == packets["N"]
    # Nothing was asked for at DATA.
    assert b"i\x004A5B6C0001\0" == packets["T"]


def test_macros_of_ones_own() -> None:
    """Given macros replace others, go where Postfix sends them, or else at CONNECT and MAIL."""
    macros = {"i": "MINE", "{auth_authen}": "bob", "{mine}": "x", "j": "mx"}
    packets = wire(message(), agreed(), macros=macros)
    assert packets["C"].startswith(b"j\0mx\0")
    assert packets["C"].endswith(b"{mine}\0x\0")
    assert b"{auth_authen}" not in packets["C"]
    assert packets["M"].startswith(b"i\0MINE\0{auth_authen}\0bob\0{mail_addr}\0")
    assert packets["M"].endswith(b"{mine}\0x\0")
    assert b"i\0MINE\0" == packets["E"]


def test_null_sender() -> None:
    """The null sender has empty macros."""
    sent = message()
    sent.sender = "<>"
    packets = wire(sent, agreed())
    assert b"{mail_addr}\0\0{mail_host}\0\0{mail_mailer}\0smtp\0" == packets["M"]


@pytest.mark.parametrize(
    ("client", "text"),
    [
        (mta.SmtpClient("h.example", "::1", 25), b"_\0h.example [::1]\0"),
        (mta.SmtpClient("[192.0.2.1]", "192.0.2.1"), b"_\0[192.0.2.1] [192.0.2.1]\0"),
        (mta.SmtpClient("localhost", None), b"_\0localhost [unknown]\0"),
    ],
)
def test_client_macro(client: mta.SmtpClient, text: bytes) -> None:
    """The macro _ names the client."""
    assert text in wire(message(), agreed(), client=client)["C"]


def test_recipients_that_the_mta_rejects() -> None:
    """With RCPT_REJ the filter hears of them, with the MTA's reason as macros, and its verdict
    means nothing (2.4)."""
    rejected = [mta.RejectedRecipient("x@y", "5.1.1", "No such user")]
    packets = wire(message(), agreed(protocol=0x800), rejected=rejected)
    assert (
        b"{rcpt_addr}\0No such user\0{rcpt_host}\x005.1.1\0{rcpt_mailer}\0error\0" in packets["R"]
    )
    # Without it, nothing but the good recipient's.
    packets = wire(message(), agreed(), rejected=rejected)
    assert packets["R"].startswith(b"{rcpt_addr}\0c@d.example\0")
    for letter in "crt":
        result, letters, _ = drive(
            message(), {"rcpt": [C, packet(letter)]}, agreed(protocol=0x800), rejected=rejected
        )
        assert [*FULL[:8], "DR", "R", *FULL[8:]] == letters
        assert mta.Outcome.ACCEPTED is result.outcome
        assert () == result.refused
    # To the filter ACCEPT and DISCARD are about the message, of which Postfix asks it no more.
    for letter in "ad":
        result, letters, _ = drive(
            message(), {"rcpt": [C, packet(letter)]}, agreed(protocol=0x800), rejected=rejected
        )
        assert [*FULL[:8], "DR", "R", *(["A"] if letter == "d" else [])] == letters
        assert mta.Outcome.ACCEPTED is result.outcome
    # Not even 421 counts.
    text = packet("y", b"421 4.7.0 Go away\0")
    result, _, _ = drive(message(), {"rcpt": [C, text]}, agreed(protocol=0x800), rejected=rejected)
    assert (mta.Outcome.ACCEPTED, False) == (result.outcome, result.session_over)


# -- what cannot be sent -------------------------------------------------------------------------


def test_no_recipients() -> None:
    """A message without recipients is refused before anything is sent."""
    script = Script((OFFER, ALL), (packet("Q"), b""))
    sent = message()
    sent.recipients = []
    with script.session() as session, pytest.raises(ValueError, match="without recipients"):
        session.send(sent)
    script.done()


@pytest.mark.parametrize(
    "given",
    [
        {"helo": "\0"},
        {"macros": {"i": "\0"}},
        {"macros": {"\0": ""}},
        {"client": mta.SmtpClient("\0")},
        {"client": mta.SmtpClient("h", "/\0")},
        {"rejected": [mta.RejectedRecipient("\0")]},
        {"rejected": [mta.RejectedRecipient("x@y", "\0")]},
        {"rejected": [mta.RejectedRecipient("x@y", "5.1.1", "\0")]},
    ],
)
def test_nul_beside_the_message(given: dict[str, Any]) -> None:
    """A NUL in what goes with the message is refused before anything is sent as well."""
    script = Script((OFFER, ALL), (packet("Q"), b""))
    with script.session() as session, pytest.raises(ValueError, match="NUL"):
        session.send(message(), **given)
    script.done()


def test_header_without_a_name() -> None:
    """A header whose name is empty or blank is refused before anything is sent."""
    for name in (b"", b" \t"):
        script = Script((OFFER, ALL), (packet("Q"), b""))
        sent = message()
        sent.headers.append(mta.Header(name, b" x"))
        with script.session() as session, pytest.raises(ValueError, match="without a name"):
            session.send(sent)
        script.done()


@pytest.mark.parametrize(
    "change",
    [
        {"sender": "a\0@b"},
        {"sender_params": ["SIZE=\0"]},
        {"recipients": [mta.Recipient("c\0@d")]},
        {"recipients": [mta.Recipient("c@d", ("\0",))]},
        {"headers": [mta.Header(b"A", b" \0")]},
        {"headers": [mta.Header(b"A\0", b" ")]},
    ],
)
def test_nul(change: dict[str, Any]) -> None:
    """A NUL anywhere but in the body is refused before anything is sent."""
    script = Script((OFFER, ALL), (packet("Q"), b""))
    sent = message()
    for name, value in change.items():
        setattr(sent, name, value)
    with script.session() as session, pytest.raises(ValueError, match="NUL"):
        session.send(sent)
    script.done()


def test_session_ends_with_the_verdict() -> None:
    """After a verdict about the whole connection the session is closed, with QUIT."""
    connect = (
        packet(
            "D",
            b"Cj\0mta.example.org\0{daemon_name}\0mta.example.org\0{daemon_addr}\x00127.0.0.1\0v\0"
            + f"pymilter-cffi {__version__}".encode()
            + b"\0_\0localhost [127.0.0.1]\0",
        ),
        packet("C", b"localhost\x004\0\x00127.0.0.1\0"),
    )
    script = Script((OFFER, ALL), (b"".join(connect), packet("r")), (packet("Q"), b""))
    with script.session() as session:
        result = session.send(message())
        script.done()
        assert session.protocol.over
        with pytest.raises(mta.StateError, match="QUIT was sent"):
            session.send(message())
    assert mta.Outcome.REJECTED is result.outcome
