"""What Postfix and Sendmail tell filters, and make of their answers (wire spec 2.7), without a
socket. What is expected here was seen at real ones (Postfix 3.7.11, Sendmail 8.17.1.9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import pytest
from mta_support import C, options, packet

from Milter import mta
from Milter._smtpsession import Close, Connect, SmtpDialogue

MESSAGE = mta.Message.from_bytes(b"Subject: hi\n\nhello\n", "<a@b>", ["<c@d>"])
#: NR_HDR, NR_CONN, NR_HELO, NR_MAIL, NR_RCPT, NR_DATA, NR_UNKN, NR_EOH, NR_BODY (wire spec 1.5).
NO_REPLIES = 0x80 | 0xFF000


class Drive:
    """Plays a dialogue with filters; `writes`: the letters of each write.

    answers: what the first filter says to a step, instead of letting it pass, by its letter; where
    it is empty it closes the connection. The others let everything pass.
    """

    def __init__(
        self,
        profile: str,
        protocol: int = 0,
        *,
        lists: Optional[Mapping[int, str]] = None,
        answers: Optional[Mapping[str, bytes]] = None,
        action: Optional[str] = None,
        filters: int = 1,
        offer: Optional[bytes] = None,
    ) -> None:
        self.dialogue: SmtpDialogue = mta.MailServer(
            *["unix:/nowhere"] * filters, profile=profile, default_action=action
        ).dialogue()
        asked = b"".join(
            stage.to_bytes(4, "big") + names.encode() + b"\0"
            for stage, names in (lists or {}).items()
        )
        self.offer = options(protocol=protocol, lists=asked) if offer is None else offer
        self.answers = answers or {}
        self.writes: list[str] = []
        self.said: list[list[bytes]] = [[] for _ in range(filters)]

    def __call__(self, script: Any) -> Any:
        answer: Optional[mta.Answer] = None
        error: Optional[mta.MilterError] = None
        while True:
            try:
                operation = script.send(answer) if error is None else script.throw(error)
            except StopIteration as end:
                return end.value
            answer = error = None
            if isinstance(operation, Connect):
                continue
            self.writes += [letters(data) for data in operation.writes]
            self.said[operation.filter] += operation.writes
            if isinstance(operation, Close):
                continue
            try:
                answer = self.answer(operation)
            except mta.MilterError as failure:
                error = failure

    def answer(self, operation: Any) -> mta.Answer:
        """What a filter says to an operation."""
        if operation.outgoing.verdict is not None:
            return mta.Answer(operation.outgoing.verdict)
        rules = self.dialogue.protocols[operation.filter]
        if operation.outgoing.step == "optneg":
            rules.receive(self.offer)
            assert isinstance(rules.next_event(), mta.Options)
            return mta.Answer(mta.Verdict(mta.Kind.CONTINUE))
        letter = letters(operation.writes[-1])[-1]
        rules.receive(self.answers.get(letter, C) if operation.filter == 0 else C)
        changes = []
        while not isinstance(event := rules.next_event(), mta.Verdict):
            changes.append(event)
        return mta.Answer(event, tuple(changes))  # type: ignore[arg-type]

    def to(self, number: int = 0) -> str:
        """The letters of all that a filter was told."""
        return letters(b"".join(self.said[number]))

    def begin(self) -> Drive:
        """A client connects and says HELO."""
        self(self.dialogue.connect(mta.LOCALHOST))
        self(self.dialogue.helo("h"))
        return self

    def envelope(self) -> list[Optional[str]]:
        """Play MAIL, RCPT and DATA as far as they are taken; return the replies."""
        replies: list[Optional[str]] = []
        for script in (
            self.dialogue.mail("<a@b>"),
            self.dialogue.rcpt("<c@d>"),
            self.dialogue.data(),
        ):
            reply = self(script)
            replies.append(None if reply is None else str(reply))
            if reply is not None:
                break
        return replies

    def message(self) -> str:
        """Play a message; return the reply that ends it."""
        refused = self.envelope()[-1]
        if refused is not None:
            self(self.dialogue.reset())
            return refused
        result: mta.Result = self(self.dialogue.content(MESSAGE))
        return result.reply

    def macros(self, letter: str) -> Optional[dict[str, str]]:
        """The macros that went with the last step of this letter; None: no packet of them."""
        found = None
        for data in self.said[0]:
            while data:
                size = 4 + int.from_bytes(data[:4], "big")
                if data[4:6] == b"D" + letter.encode():
                    words = [word.decode() for word in data[6:size].split(b"\0")[:-1]]
                    found = dict(zip(words[::2], words[1::2]))
                data = data[size:]
        return found

    def session(self) -> list[str]:
        """Play a session with a message that is given up and one that is not."""
        dialogue = self.dialogue
        for script in (
            dialogue.connect(mta.LOCALHOST),
            dialogue.helo("h"),
            dialogue.mail("<a@b>"),
            dialogue.reset(),
            dialogue.mail("<a@b>"),
            dialogue.rcpt("<c@d>"),
            dialogue.data(),
        ):
            assert self(script) is None
        assert mta.Outcome.ACCEPTED is self(dialogue.content(MESSAGE)).outcome
        self(dialogue.quit())
        return self.writes


def letters(data: bytes) -> str:
    """Return the letters of the packets in a write."""
    found = ""
    while data:
        size = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + size, "a packet is cut"
        found += chr(data[4])
        data = data[4 + size :]
    return found


def test_letters() -> None:
    """The tool of these tests."""
    assert "" == letters(b"")
    assert "cd" == letters(packet("c") + packet("d", b"x"))


@pytest.mark.row(198)
def test_postfix_writes_when_it_has_to_wait() -> None:
    """Macros go with their step, and what gives a message up with the next one."""
    expected = ["O", "DC", "DH", "DM", "ADM", "DR", "DT", "DL", "DN", "DB", "DE", "AAQ"]
    assert expected == Drive("postfix").session()


@pytest.mark.row(198)
def test_postfix_writes_once_what_is_not_answered() -> None:
    """With a filter that does not answer, smtpd's part is one write, and cleanup's is another."""
    expected = ["O", "DCDHDMADMDRDT", "DLDNDBDE", "AAQ"]
    assert expected == Drive("postfix", NO_REPLIES).session()


@pytest.mark.row(197)
@pytest.mark.parametrize(
    ("protocol", "expected"), [(0, "ODCDHDMADMDRTLNBDEQ"), (NO_REPLIES, "ODCDHDMDMDRTLNBDEQ")]
)
def test_sendmail_writes_each_packet(protocol: int, expected: str) -> None:
    """Each packet has a write of its own, whether it is answered or not."""
    assert list(expected) == Drive("sendmail", protocol).session()


# -- giving a message up -------------------------------------------------------------------------

NO_MAIL, NR_MAIL = 0x4, 0x4000


@pytest.mark.row(197)
@pytest.mark.parametrize("protocol", [NO_MAIL, NR_MAIL])
@pytest.mark.parametrize("how", ["reset", "helo", "discard"])
def test_sendmail_aborts_only_where_mail_was_answered(protocol: int, how: str) -> None:
    """A filter that did not answer MAIL never hears that a message is given up."""
    drive = Drive("sendmail", protocol, answers={"T": packet("d")} if how == "discard" else {})
    drive.begin().envelope()
    if how == "reset":
        drive(drive.dialogue.reset())
    elif how == "helo":
        drive(drive.dialogue.helo("h"))
    assert "A" not in drive.to()
    # The next one just begins, and is filtered.
    drive.answers = {}
    assert "Message accepted" in drive.message()
    assert "A" not in drive.to()


@pytest.mark.row(197)
def test_sendmail_closing_for_a_failure_aborts_nothing() -> None:
    """Where the second filter fails at MAIL and the connection is closed for it, the first is told
    to quit, and nothing else."""
    drive = Drive("sendmail", action="shutdown", filters=2)
    drive.begin()
    # The second one goes away.
    drive.dialogue.protocols[1].receive(b"")
    assert ["421 4.3.0 closing connection"] == drive.envelope()
    drive(drive.dialogue.quit())
    assert drive.to(0).endswith("MQ")


# -- macros --------------------------------------------------------------------------------------


@pytest.mark.row(194)
def test_postfix_lists_of_headers_and_body() -> None:
    """Each header has the macros of the headers' end, each piece of body those of the message's."""
    drive = Drive("postfix", lists={6: "i j", 5: "i v"})
    drive.begin().message()
    assert ["i", "j"] == list(drive.macros("L") or ())
    assert ["i", "j"] == list(drive.macros("N") or ())
    assert ["i", "v"] == list(drive.macros("B") or ())
    assert ["i", "v"] == list(drive.macros("E") or ())


@pytest.mark.row(194)
def test_empty_lists() -> None:
    """An empty list is Postfix's own, and none to Sendmail (2.5)."""
    lists = dict.fromkeys(range(7), "")
    drive = Drive("postfix", lists=lists)
    drive.begin().message()
    assert {"j", "{daemon_name}", "{daemon_addr}", "v", "_"} == set(drive.macros("C") or ())
    assert ["i"] == list(drive.macros("T") or ())
    drive = Drive("sendmail", lists=lists)
    drive.begin().message()
    assert "D" not in drive.to()


@pytest.mark.row(194)
def test_postfix_content_knows_no_envelope_macros() -> None:
    """With the content come neither MAIL's nor RCPT's macros, asked for or not."""
    drive = Drive("postfix", lists={4: "{mail_addr} i", 5: "{mail_addr} {rcpt_addr} i"})
    drive.begin().message()
    assert ["{mail_addr}", "i"] == list(drive.macros("T") or ())
    assert ["i"] == list(drive.macros("E") or ())


@pytest.mark.row(194)
@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({}, ["{msg_id}"]),
        ({6: "i"}, None),
        ({5: "i j"}, ["{msg_id}"]),
        ({5: "i j", 6: "i"}, ["i", "j"]),
        ({5: "", 6: "i"}, None),
    ],
)
def test_sendmail_lists_of_the_end(lists: dict[int, str], expected: Optional[list[str]]) -> None:
    """The list for the end of the message counts beside one for that of the headers only (2.5)."""
    drive = Drive("sendmail", lists=lists)
    drive.begin().message()
    macros = drive.macros("E")
    assert expected == (None if macros is None else list(macros))


def test_sendmail_message_id() -> None:
    """It is the message's own, or one that Sendmail would give it."""
    drive = Drive("sendmail")
    drive.begin().message()
    assert (drive.macros("E") or {})["{msg_id}"].startswith("<4A5B6C0001@")
    drive.envelope()
    drive(drive.dialogue.content(mta.Message.from_bytes(b"Message-ID: <1@x>\n\n")))
    assert {"{msg_id}": "<1@x>"} == drive.macros("E")


@pytest.mark.row(194)
@pytest.mark.parametrize("version", [2, 3])
def test_postfix_and_old_filters(version: int) -> None:
    """A step that the filter's version does not have is told with nothing, not even macros."""
    drive = Drive("postfix", offer=options(version))
    drive.begin().message()
    assert drive.macros("T") is None
    assert drive.macros("E") is not None


@pytest.mark.row(194)
def test_postfix_macros_of_unknown() -> None:
    """Those come also where the step itself was negotiated away."""
    drive = Drive("postfix", 0x100)
    drive.begin()(drive.dialogue.unknown("FOO bar"))
    drive(drive.dialogue.quit())
    assert {} == drive.macros("U")
    assert "U" not in drive.to()


# -- SKIP ----------------------------------------------------------------------------------------


@pytest.mark.row(197)
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("C", "ODCQ"),
        ("H", "ODCDHQ"),
        ("M", "ODCDHDMQ"),
        ("R", "ODCDHDMDRQ"),
        ("T", "ODCDHDMDRTQ"),
        ("L", "ODCDHDMDRTLNDEQ"),
        ("N", "ODCDHDMDRTLNDEQ"),
        ("B", "ODCDHDMDRTLNBDEQ"),
    ],
)
def test_skip_at_sendmail(step: str, expected: str) -> None:
    """In answer to a header it keeps the body from the filter, to what comes before, all (2.4)."""
    drive = Drive("sendmail", answers={step: packet("s")})
    assert "Message accepted" in drive.begin().message()
    drive(drive.dialogue.quit())
    assert expected == drive.to()


# -- filters that fail ---------------------------------------------------------------------------


def reply(text: str) -> bytes:
    """The packet of a reply text."""
    return packet("y", text.encode() + b"\0")


PROBLEM = "451 4.3.5 Server configuration problem - try again later"


@pytest.mark.parametrize("said", [reply("250 2.0.0 ok"), reply("550 4.7.1 x"), reply("550")])
@pytest.mark.parametrize("action", ["tempfail", "reject"])
def test_postfix_and_replies_that_are_none(said: bytes, action: str) -> None:
    """It says that it is not set up well, and to the messages behind, that the filter is gone."""
    drive = Drive("postfix", answers={"M": said}, action=action).begin()
    assert [PROBLEM, PROBLEM] == [drive.message(), drive.message()]
    assert isinstance(drive.dialogue.errors[0], mta.ProtocolError)
    drive = Drive("postfix", answers={"E": said}, action=action).begin()
    gone = "451 4.7.1 Service unavailable - try again later"
    if action == "reject":
        gone = "550 5.5.0 Service unavailable"
    assert [PROBLEM, gone] == [drive.message(), drive.message()]


BODY, HEADER = packet("b", b"one\r\n"), packet("h", b"X\0y\0")


@pytest.mark.parametrize(
    ("action", "first", "second"),
    [
        ("tempfail", PROBLEM, "451 4.7.1 Service unavailable - try again later"),
        ("reject", PROBLEM, "550 5.5.0 Service unavailable"),
        ("accept", "250", "250"),
    ],
)
def test_postfix_and_changes_that_cannot_be_made(action: str, first: str, second: str) -> None:
    """They are a failure of the filter's like any other: the default action is taken."""
    drive = Drive("postfix", answers={"E": BODY + HEADER + BODY + C}, action=action).begin()
    assert drive.message().startswith(first)
    assert drive.message().startswith(second)
    assert 1 == drive.to().count("E")
    (error,) = drive.dialogue.errors
    assert isinstance(error, mta.ProtocolError)
    assert "pieces" in error.rule


@pytest.mark.parametrize("step", "CHMRTU")
def test_postfix_and_shutdown(step: str) -> None:
    """SHUTDOWN, which no filter sends, closes the connection to the client (1.4)."""
    drive = Drive("postfix", answers={step: packet("4")})
    greeting = drive(drive.dialogue.connect(mta.LOCALHOST))
    if step == "C":
        assert "421 mta.example.org Service unavailable - try again later" == str(greeting)
        return
    said = drive(drive.dialogue.helo("h"))
    if step == "U":
        said = drive(drive.dialogue.unknown("FOO"))
    assert "421 4.7.0 Server closing connection" == str(said or drive.envelope()[-1])
    assert drive.dialogue.over


@pytest.mark.parametrize("step", "OCHMRTLNE")
def test_postfix_and_the_action_shutdown(step: str) -> None:
    """Where a filter fails the client is told so and closed; measured with Postfix 3.11.7, whose
    default it is."""
    nonsense = packet("?")
    drive = Drive("postfix", answers={step: nonsense}, action="shutdown")
    if step == "O":
        drive.offer = nonsense
    greeting = drive(drive.dialogue.connect(mta.LOCALHOST))
    if step in "OC":
        assert "421 mta.example.org Service unavailable - try again later" == str(greeting)
        assert drive.dialogue.over
        return
    reply = drive(drive.dialogue.helo("h"))
    expected = "421 4.7.1 Service unavailable - try again later"
    assert expected == (drive.message() if reply is None else str(reply))
    assert drive.dialogue.over


def test_a_recipient_that_no_filter_heard_of() -> None:
    """A filter that has failed before stands in for all: the recipient counts as refused."""
    drive = Drive("postfix", answers={"C": packet("?")}, action="tempfail")
    drive(drive.dialogue.connect(mta.LOCALHOST))
    drive.dialogue.steps.clear()
    assert drive(drive.dialogue.rcpt("<c@d>")).code == 451
    assert ["<c@d>"] == [step.argument for step in drive.dialogue._refused]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("C", ""),
        ("T", "ODCDHDMDRDLDNDBDE"),
        ("E", "ODCDHDMDRDT"),
    ],
)
def test_postfix_quarantines_before_the_next_filter(step: str, expected: str) -> None:
    """Where messages are put aside for a filter that failed, that is its answer to each step from
    then on: no filter behind it is asked. The content goes to those that are left."""
    drive = Drive("postfix", answers={step: b""}, action="quarantine", filters=2).begin()
    told = []
    for _ in range(2):
        assert [None, None, None] == drive.envelope()
        result = drive(drive.dialogue.content(MESSAGE))
        assert mta.Outcome.ACCEPTED is result.outcome
        assert "milter unavailable" == result.quarantine
        told.append(drive.to(1))
    assert expected == told[0]


@pytest.mark.parametrize("step", "LNBE")
@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("reject", "554 5.7.1 Command rejected"),
        ("tempfail", "451 4.3.2 Please try again later"),
        ("accept", "250"),
    ],
)
def test_sendmail_and_failures_in_the_content(step: str, action: str, expected: str) -> None:
    """They are refused as the content is refused."""
    drive = Drive("sendmail", answers={step: b""}, action=action)
    assert drive.begin().message().startswith(expected)


@pytest.mark.parametrize("said", [packet("4"), packet("f"), packet("p") + C, HEADER + C])
def test_sendmail_and_answers_out_of_place(said: bytes) -> None:
    """The step passes, and the next one meets the failure."""
    later = "451 4.3.2 Please try again later"
    drive = Drive("sendmail", answers={"M": said}, action="tempfail").begin()
    assert [None, later] == drive.envelope()
    drive = Drive("sendmail", answers={"R": said}, action="tempfail").begin()
    assert [None, None, later] == drive.envelope()
    drive = Drive("sendmail", answers={"T": said}, action="tempfail").begin()
    assert later == drive.message()


# -- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "postfix", "sendmail"),
    [
        ("550 5.7.1 a", "550 5.7.1 a", "550 5.7.1 <a@b>... a"),
        ("550 a", "550 a", "550 5.0.0 <a@b>... a"),
        ("550 5.7.1", "550 5.7.1", "550 5.0.0 <a@b>... 5.7.1"),
        ("550-5.7.1 a\r\n550 5.7.1 b", "=", "550-5.7.1 <a@b>... a\r\n550 5.7.1 b"),
        ("550-5.7.1 a\r\n550 5.7.2 b", "=", "550-5.7.1 <a@b>... a\r\n550 5.7.2 b"),
        ("550-5.7.1 a\r\n550 b", "=", "550-5.7.1 <a@b>... a\r\n550 b"),
        ("550-a\r\n550 b", "=", "550-5.0.0 <a@b>... a\r\n550 b"),
        ("550 5.7.1 50%% off", "550 5.7.1 50% off", "550 5.7.1 <a@b>... 50% off"),
        ("250 2.0.0 ok", PROBLEM, "550 5.7.1 <a@b>... Command rejected"),
        ("550 4.7.1 x", PROBLEM, "550 4.7.1 <a@b>... x"),
    ],
)
def test_reply_texts(text: str, postfix: str, sendmail: str) -> None:
    """What the client reads of a filter's text at MAIL."""
    for profile, expected in (("postfix", postfix), ("sendmail", sendmail)):
        drive = Drive(profile, answers={"M": reply(text)}).begin()
        assert (text if expected == "=" else expected) == drive.message()


def test_sendmail_replies_are_ascii() -> None:
    """Of other bytes the highest bit is lost."""
    drive = Drive("sendmail", answers={"M": packet("y", b"550 5.7.1 \xe4b\0")}).begin()
    assert "550 5.7.1 <a@b>... db" == drive.message()
