"""How Postfix and Sendmail spread packets over writes (wire spec 2.7), without a socket."""

from __future__ import annotations

from typing import Any

import pytest
from mta_support import C, options, packet

from Milter import mta
from Milter._smtpsession import Close, Connect, SmtpDialogue

MESSAGE = mta.Message.from_bytes(b"Subject: hi\n\nhello\n", "<a@b>", ["<c@d>"])
#: NR_HDR, NR_CONN, NR_HELO, NR_MAIL, NR_RCPT, NR_DATA, NR_UNKN, NR_EOH, NR_BODY (wire spec 1.5).
NO_REPLIES = 0x80 | 0xFF000


class Drive:
    """Plays a dialogue with a filter that lets everything pass; `writes`: the letters of each."""

    def __init__(self, profile: str, protocol: int = 0) -> None:
        self.dialogue: SmtpDialogue = mta.MailServer("unix:/nowhere", profile=profile).dialogue()
        self.offer = options(protocol=protocol)
        self.writes: list[str] = []

    def __call__(self, script: Any) -> Any:
        answer = None
        while True:
            try:
                operation = script.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if isinstance(operation, Connect):
                continue
            self.writes += [letters(data) for data in operation.writes]
            if isinstance(operation, Close):
                continue
            answer = mta.Answer(operation.outgoing.verdict or mta.Verdict(mta.Kind.CONTINUE))
            if operation.outgoing.verdict is None:
                rules = self.dialogue.protocols[0]
                rules.receive(self.offer if operation.outgoing.step == "optneg" else C)
                event = rules.next_event()
                assert event is not None

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
@pytest.mark.parametrize("protocol", [0, NO_REPLIES])
def test_sendmail_writes_each_packet(protocol: int) -> None:
    """Each packet has a write of its own, whether it is answered or not."""
    expected = [
        "O",
        "D",
        "C",
        "D",
        "H",
        "D",
        "M",
        "A",
        "D",
        "M",
        "D",
        "R",
        "T",
        "L",
        "N",
        "B",
        "D",
        "E",
        "Q",
    ]
    assert expected == Drive("sendmail", protocol).session()
