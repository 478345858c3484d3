"""`Milter.mta.MailServer` against the mail servers that it stands for.

The same SMTP sessions are played to the real server and to the simulated one, with filters of bare
sockets behind each that answer by a table. What the filters were told, packet by packet, and what
the client was told must be the same (wire spec 2.7; rows 197 and 198).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from Milter import mta as ours

from .mta import HOSTNAME, Mta
from .recorder import ACTIONS, Recorder, packet
from .smtp import on_the_wire

pytestmark = [pytest.mark.integration, pytest.mark.one_mode("no filter of the package runs")]

SENDER, ONE, TWO = "sender@client.example", "one@dest.example", "two@dest.example"
MESSAGE = (
    b"From: <sender@client.example>\nTo: one@dest.example\nSubject: folded\n\tonce\n"
    b"Date: Sat, 21 Nov 2026 12:00:00 +0000\nMessage-ID: <1@client.example>\nX-A: 1\n\nHello\n.\n"
)

EHLO, MAIL, RCPT1, RCPT2 = (
    "EHLO client.example",
    f"MAIL FROM:<{SENDER}>",
    f"RCPT TO:<{ONE}>",
    f"RCPT TO:<{TWO}>",
)
MSG = [MAIL, RCPT1, RCPT2, "DATA"]
#: What the client says; GONE: it closes the connection.
DIALOGUES: dict[str, list[str]] = {
    "two messages": [EHLO, *MSG, *MSG, "QUIT"],
    "gone inside a message": [EHLO, MAIL, RCPT1, "GONE"],
    "gone at once": ["GONE"],
    "reset": [EHLO, MAIL, RCPT1, "RSET", *MSG, "QUIT"],
    "reset of nothing": [EHLO, "RSET", "RSET", *MSG, "RSET", "QUIT"],
    "EHLO inside a message": [EHLO, MAIL, RCPT1, EHLO, *MSG, "QUIT"],
    # Sendmail makes whoever says it a third time wait for a second.
    "EHLO again": [EHLO, EHLO, *MSG, MAIL, "QUIT"],
    "EHLO after a message": [EHLO, *MSG, EHLO, MAIL, "QUIT"],
    "no EHLO": [*MSG, "QUIT"],
    "unknown commands": [EHLO, "FOO bar baz", MAIL, "FROB", RCPT1, "NOOP", "DATA", "QUIT"],
}


#: Those that show nothing more with a second filter.
ALONE = {"gone at once", "reset of nothing", "no EHLO"}


def reply(text: str) -> bytes:
    """Return the packet of a reply text."""
    return packet("y", text.encode() + b"\0")


#: What filters say: a letter, a reply text, or nothing, and the connection closed.
SAYINGS = {
    "accept": packet("a"),
    "reject": packet("r"),
    "tempfail": packet("t"),
    "discard": packet("d"),
    "5xx": reply("550 5.7.9 no thanks"),
    "4xx": reply("450 4.7.9 later"),
    "plain": reply("550 no code"),
    "percent": reply("550 5.7.9 100%% no"),
    "single": reply("450 4.7.9 no%n %x"),
    "lines": reply("550-5.7.9 one\r\n550 5.7.9 two"),
    "421": reply("421 4.3.0 go away"),
    "closes": b"",
}
STEPS = "CHMRTULNBE"
CASES: dict[str, dict[str, bytes | None]] = {
    "continue": {},
    **{f"{step} {name}": {step: said} for step in STEPS for name, said in SAYINGS.items()},
    **{
        f"first {step} {name}": {f"{step}1": SAYINGS[name]}
        for step in "HMRTLE"
        for name in ("accept", "reject", "tempfail", "discard", "5xx", "closes")
    },
}

#: Where ours does not do what the real one does, and why.
DIFFERENT = {
    ("postfix", "U accept"): "smtpd closes the connection at the next MAIL, without a reply",
}

#: A command that comes where the mail server would refuse it itself is left out.
NEEDS = {"MAIL": "idle", "RCPT": "mail", "DATA": "rcpt"}


class Client:
    """Plays a dialogue, and goes by the replies; *say* says something and returns the reply."""

    def play(self, steps: list[str]) -> list[tuple[str, str]]:
        """Return what was said and answered, without what succeeded."""
        replies = [("greeting", self.greeting())]
        state = "idle"
        for step in steps:
            if replies[-1][1].startswith(("421", "closed")):
                break
            verb = step.partition(" ")[0]
            if verb in NEEDS and state != NEEDS[verb] and not (verb == "RCPT" and state == "rcpt"):
                continue
            if step == "GONE":
                break
            answer = self.say(step)
            replies.append((step, answer))
            good = answer[:1] in "23"
            if verb in ("RSET", "EHLO"):
                state = "idle"
            elif verb in NEEDS and good:
                state = {"MAIL": "mail", "RCPT": "rcpt", "DATA": "idle"}[verb]
                if verb == "DATA":
                    replies.append((".", self.content()))
            elif verb == "DATA":
                # What comes after a refused DATA is the client's choice: it gives up.
                state = "idle"
                if not answer.startswith("421"):
                    replies.append(("RSET", self.say("RSET")))
        self.gone()
        # What the mail server says for itself, and of a success, is its own.
        return [each for each in replies if each[1][:1] not in "23" and each[1][:3] != "500"]

    def greeting(self) -> str:
        raise NotImplementedError

    def say(self, step: str) -> str:
        raise NotImplementedError

    def content(self) -> str:
        raise NotImplementedError

    def gone(self) -> None:
        raise NotImplementedError


class Real(Client):
    """To a real server."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, 30)
        self.file = self.socket.makefile("rb")

    def read(self) -> str:
        lines = []
        while not lines or lines[-1][3:4] == "-":
            line = self.file.readline()
            if not line:
                return "closed"
            lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
        return "\n".join(lines)

    def greeting(self) -> str:
        return self.read()

    def say(self, step: str) -> str:
        try:
            self.socket.sendall(step.encode() + b"\r\n")
            return self.read()
        except ConnectionError:
            return "closed"

    def content(self) -> str:
        self.socket.sendall(on_the_wire(MESSAGE))
        return self.read()

    def gone(self) -> None:
        self.file.close()
        self.socket.close()


class Simulated(Client):
    """To ours."""

    def __init__(self, server: ours.MailServer) -> None:
        self.session = server.session(helo="")
        self.recipients: list[ours.Recipient] = []

    @staticmethod
    def text(reply: ours.SmtpReply | None, good: str = "250 ok") -> str:
        return good if reply is None else str(reply).replace("\r\n", "\n")

    def greeting(self) -> str:
        return self.text(self.session.greeting, "220 hello")

    def say(self, step: str) -> str:
        verb, _, rest = step.partition(" ")
        address = rest.partition(":")[2]
        if verb == "EHLO":
            return self.text(self.session.helo(rest))
        if verb == "MAIL":
            return self.text(self.session.mail(address))
        if verb == "RCPT":
            answer = self.session.rcpt(address)
            if answer is None:
                self.recipients.append(ours.Recipient(address))
            return self.text(answer)
        if verb == "DATA":
            return self.text(self.session.data(), "354 go on")
        if verb == "RSET":
            self.session.reset()
        elif verb == "QUIT":
            self.session.quit()
        elif verb != "NOOP":
            return self.text(self.session.unknown(step), "500 what")
        return "250 ok"

    def content(self) -> str:
        message = ours.Message.from_bytes(MESSAGE, SENDER, self.recipients)
        return self.session.content(message).reply.replace("\r\n", "\n")

    def gone(self) -> None:
        self.session.quit()
        self.session.close()


#: Macros that the servers of these tests send besides the ordinary ones, or leave out.
ODD = {"{client_addr}", "{if_addr}"}


def told(connections: list[list[tuple[str, bytes]]]) -> list[list[str]]:
    """Return what a filter was told, without what differs from machine to machine."""
    result = []
    for packets in connections:
        lines = []
        for letter, data in packets:
            if letter == "D":
                names = data[1:].split(b"\0")[:-1][::2]
                kept = sorted({name.decode() for name in names} - ODD)
                lines.append(f"D{data[:1].decode()} {' '.join(kept)}")
            elif letter == "C":
                host, rest = data.split(b"\0", 1)
                lines.append(f"C {host!r} {rest[:1]!r} {rest[3:]!r}")  # without the port
            else:
                lines.append(f"{letter} {data!r}")
        result.append(lines)
    return result


@contextlib.contextmanager
def recorders(mta: Mta, name: str) -> Iterator[list[Recorder]]:
    """Run recorders where the filters of an endpoint are to listen."""
    with contextlib.ExitStack() as stack:
        found = []
        for spec in mta.endpoints[name].filters:
            recorder = Recorder(spec.partition(":")[2], 0o777 & ~mta.umask)
            stack.callback(recorder.close)
            found.append(recorder)
        yield found


def compare(
    mta: Mta,
    name: str,
    scripts: list[dict[str, bytes | None]],
    options: dict[str, Any] | None = None,
) -> None:
    """Play all dialogues to both; *options*: what the filters ask for."""
    with recorders(mta, name) as filters:
        server = ours.MailServer(
            *(f"unix:{each.path}" for each in filters),
            profile=mta.name,
            default_action="tempfail",
            hostname=HOSTNAME,
            strict=False,
        )
        for title, steps in DIALOGUES.items():
            if len(filters) > 1 and title in ALONE:
                continue
            seen = []
            for client in (
                lambda: Real(mta.endpoints[name].address),
                lambda: Simulated(server),
            ):
                for each, answers in zip(filters, scripts):
                    each.load(answers, actions=ACTIONS, **(options or {}))
                replies = client().play(steps)
                seen.append((replies, [told(each.settled()) for each in filters]))
            (real_replies, real), (our_replies, simulated) = seen
            assert real_replies == our_replies, title
            for number, (theirs, mine) in enumerate(zip(real, simulated)):
                assert "\n".join(map("\n".join, theirs)) == "\n".join(map("\n".join, mine)), (
                    f"{title}, filter {number}"
                )


#: Protocol bits (wire spec 1.5).
NO = {"C": 1, "H": 2, "M": 4, "R": 8, "B": 0x10, "L": 0x20, "N": 0x40, "U": 0x100, "T": 0x200}
NR = {
    "L": 0x80, "C": 0x1000, "H": 0x2000, "M": 0x4000, "R": 0x8000,
    "T": 0x10000, "U": 0x20000, "N": 0x40000, "B": 0x80000,
}  # fmt: skip
LISTS = {
    "many": {
        0: "j {client_name} {client_connections}",
        1: "j",
        2: "i,j {mail_addr}",
        3: "",
        4: "i j {mail_addr}",
        5: "i j {mail_addr} {client_connections}",
        6: "i j {rcpt_addr}",
    },
    "empty": dict.fromkeys(range(7), ""),
    "of the headers' end": {6: "i j"},
    "of the end": {5: "i j"},
    "of both ends": {5: "i j", 6: "i"},
}
#: What filters ask for.
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"no {step}": {"protocol": bit} for step, bit in NO.items()},
    "only the end": {"protocol": sum(NO.values())},
    **{f"no reply to {step}": {"protocol": bit} for step, bit in NR.items()},
    "no reply": {"protocol": sum(NR.values())},
    "skip": {"protocol": 0x400},
    "leading space": {"protocol": 0x100000},
    **{f"version {number}": {"version": number} for number in (2, 3, 4, 5)},
    **{f"lists {name}": {"lists": lists} for name, lists in LISTS.items()},
    # What one of the servers does not take.
    "version 1": {"version": 1},
    "version 7": {"version": 7},
    "protocol that was not offered": {"protocol": 0x400000},
}
#: What no filter should say, and one of the servers at least puts up with.
FAULTS = {
    **{f"skip at {step}": {step: packet("s")} for step in STEPS},
    **{f"shutdown at {step}": {step: packet("4")} for step in "CHMRTU"},
    "no connection at M": {"M": packet("f")},
    "progress at M": {"M": packet("p") + packet("c")},
    "change at M": {"M": packet("h", b"X\0y\0") + packet("c")},
    "data behind a verdict": {"M": packet("c", b"x")},
    "no refusal": {"M": reply("250 2.0.0 fine")},
    "no refusal at the end": {"E": reply("250 2.0.0 fine")},
    "other class": {"M": reply("550 4.7.1 mixed")},
    "other class at the end": {"E": reply("550 4.7.1 mixed")},
    "nothing behind the enhanced code": {"M": reply("550 5.7.1")},
    "no text": {"M": reply("")},
    "two enhanced codes": {"M": reply("550-5.7.1 a\r\n550 5.7.2 b")},
    "no enhanced codes": {"M": reply("550-a\r\n550 b")},
    "body in two places": {
        "E": packet("b", b"one\r\n")
        + packet("h", b"X\0y\0")
        + packet("b", b"two\r\n")
        + packet("c")
    },
}

POSTFIX = pytest.param("postfix", marks=[pytest.mark.postfix, pytest.mark.row(198)])
SENDMAIL = pytest.param("sendmail", marks=[pytest.mark.sendmail, pytest.mark.row(197)])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mta_name", [POSTFIX, SENDMAIL])
def test_one_filter(mta_name: str, case: str, request: pytest.FixtureRequest) -> None:
    """One filter that answers one step in a certain way."""
    mta = request.getfixturevalue(mta_name)
    if (mta_name, case) in DIFFERENT:
        with pytest.raises(AssertionError):
            compare(mta, "solo-unix", [CASES[case]])
    else:
        compare(mta, "solo-unix", [CASES[case]])


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("answers", [{}, {"R1": SAYINGS["reject"]}, {"T": SAYINGS["discard"]}])
@pytest.mark.parametrize("mta_name", [POSTFIX, SENDMAIL])
def test_options(
    mta_name: str, answers: dict[str, bytes | None], case: str, request: pytest.FixtureRequest
) -> None:
    """One filter that asks for something else than all steps, and that answers them."""
    mta = request.getfixturevalue(mta_name)
    protocol = OPTIONS[case].get("protocol", 0)
    silent = dict.fromkeys(step for step, bit in NR.items() if protocol & bit)
    spoken = {step: said for step, said in answers.items() if step[0] not in silent}
    compare(mta, "solo-unix", [{**spoken, **silent}], OPTIONS[case])


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.parametrize("mta_name", [POSTFIX, SENDMAIL])
def test_faults(mta_name: str, case: str, request: pytest.FixtureRequest) -> None:
    """One filter that does what it should not."""
    compare(request.getfixturevalue(mta_name), "solo-unix", [FAULTS[case]])


@pytest.mark.parametrize(
    "case",
    # What a text says makes no difference to the other filter.
    [
        case
        for case in CASES
        if case.split()[-1] not in ("5xx", "4xx", "plain", "percent", "single", "lines")
    ],
)
@pytest.mark.parametrize("which", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("mta_name", [POSTFIX, SENDMAIL])
def test_two_filters(mta_name: str, which: int, case: str, request: pytest.FixtureRequest) -> None:
    """Two filters, of which one answers so, and the other lets everything pass."""
    scripts: list[dict[str, bytes | None]] = [{}, {}]
    scripts[which] = CASES[case]
    mta = request.getfixturevalue(mta_name)
    if (mta_name, case) in DIFFERENT:
        with pytest.raises(AssertionError):
            compare(mta, "pair", scripts)
    else:
        compare(mta, "pair", scripts)
