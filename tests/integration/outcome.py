"""The same changes of a filter, made by a real mail server and by `Message.apply`'s rules.

A `Case` is a message and what up to two filters in a row do to it. `real` sends it through a mail
server whose filters are recorders that ask for those changes; `simulated` lets `HeldMessage` make
them. Both end in an `Outcome`, in which only what the mail server does to any message has been
taken out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from Milter import mta as ours
from Milter._heldmessage import HeldMessage, server_fault

from .mta import HOSTNAME, Mta, Stored
from .mta_postfix import Postfix
from .mta_sendmail import Sendmail
from .recorder import CONTINUE, Recorder, packet
from .smtp import EHLO, GREETING, ONE, QUIT, SENDER, TWO, Say, play

Changes = Sequence[ours.Modification]
#: Protocol bit with which a filter says that it gives the blank behind the colon itself.
LEADING_SPACE = 0x100000

MESSAGE = (
    b"From: a@client.example\nTo: b@dest.example\nSubject: s\n"
    b"Date: Sat, 21 Nov 2026 12:00:00 +0000\nMessage-ID: <1@client.example>\n"
    b"X-T: 1\nX-T: 2\nX-T: 3\n\nHello,\n\n.dot\n"
)

#: Headers that a server made itself, for a message that lacked them.
GENERATED = {
    "date": r" \w{3}, .* GMT",
    "from": f" {re.escape(SENDER)}",
    "message-id": rf" <.*@{re.escape(HOSTNAME)}>",
    "resent-date": r" \w{3}, .* GMT",
    "resent-from": f" {re.escape(SENDER)}",
    "resent-message-id": rf" <.*@{re.escape(HOSTNAME)}>",
    # A place-holder in a queue file, which the delivery agent fills in.
    "return-path": r" <\udc81g>",
}


@dataclass(frozen=True)
class Case:
    """A message, its envelope, and the changes of one filter or of two in a row."""

    id: str
    filters: tuple[Changes, ...]
    content: bytes = MESSAGE
    mail: str = f"<{SENDER}>"
    rcpts: tuple[str, ...] = (f"<{ONE}>", f"<{TWO}>")
    leading_space: bool = False
    #: The mail servers it is for: both, unless what a server does to any message gets in the way.
    mtas: tuple[str, ...] = ("postfix", "sendmail")


@dataclass(frozen=True)
class Outcome:
    """What became of the message, and what a second filter saw of it."""

    sender: str
    recipients: list[str]
    #: Headers and folds, as they stand in the file, the server's own Received line where it stands.
    headers: str
    body: bytes
    quarantine: bool
    second: tuple[list[tuple[str, str]], bytes] | None = None
    #: Recipient and NOTIFY, in order of the alphabet; where the server's file tells.
    notify: list[tuple[str, str]] | None = None
    #: ENVID and RET (HDRS or not), as above.
    dsn: tuple[str, bool] | None = None


Result = Union[Outcome, str, None]
"""An outcome; the reply with which the server refused the message; None: nobody gets it."""


def encoded(change: ours.Modification) -> bytes:
    """Return the packet that asks for a change (wire spec 1.4)."""

    def text(*parts: str) -> bytes:
        return b"".join(part.encode("utf-8", "surrogateescape") + b"\0" for part in parts)

    if isinstance(change, ours.AddHeader):
        return packet("h", text(change.name, change.value))
    if isinstance(change, ours.InsertHeader):
        return packet("i", struct.pack("!I", change.index) + text(change.name, change.value))
    if isinstance(change, ours.ChangeHeader):
        return packet("m", struct.pack("!I", change.index) + text(change.name, change.value))
    if isinstance(change, ours.DeleteHeader):
        return packet("m", struct.pack("!I", change.index) + text(change.name, ""))
    if isinstance(change, ours.ReplaceBody):
        return packet("b", change.data)
    if isinstance(change, ours.AddRecipient):
        if change.params is None:
            return packet("+", text(change.address))
        return packet("2", text(change.address, change.params))
    if isinstance(change, ours.DeleteRecipient):
        return packet("-", text(change.address))
    if isinstance(change, ours.ChangeSender):
        return packet(
            "e", text(change.address, *([] if change.params is None else [change.params]))
        )
    return packet("q", text(change.reason))


def quarantined(case: Case) -> bool:
    """Tell whether a filter puts the message aside."""
    return any(
        isinstance(change, ours.Quarantine) for changes in case.filters for change in changes
    )


# -- by a real mail server -------------------------------------------------------------------------


def real(case: Case, mta: Mta, filters: Sequence[Recorder]) -> tuple[Result, str]:
    """Send the message through *mta*, with *filters* behind its endpoint "pair".

    Returns the result, and what the server's own Received header says.
    """
    mta.clear()
    for number, recorder in enumerate(filters):
        changes = case.filters[number] if number < len(case.filters) else ()
        recorder.load(
            {"E": b"".join(map(encoded, changes)) + CONTINUE},
            protocol=LEADING_SPACE if case.leading_space else 0,
        )
    steps = (
        GREETING,
        EHLO,
        Say("mail", f"MAIL FROM:{case.mail}"),
        *(Say(f"rcpt{number}", f"RCPT TO:{to}") for number, to in enumerate(case.rcpts)),
        Say("data", "DATA"),
        Say("content"),
        QUIT,
    )
    transcript = play(mta.endpoints["pair"].address, steps, case.content)
    for recorder in filters:
        recorder.settled()
    reply = transcript.replies["content"]
    if not reply.startswith("250"):
        return reply, ""
    stored = mta.stored(reply)
    if stored is None:
        return None, ""
    received = next(v for name, v in stored.headers if name == "Received" and HOSTNAME in v)
    # Its own folds are tabs; what begins with a blank is a filter's.
    received = re.split(r"\n(?!\t)", received)[0]
    headers = [
        f"{name}:{value}\n"
        for name, value in stored.headers
        if not re.fullmatch(GENERATED.get(name.lower(), "(?!)"), value)
    ]
    second = None
    if len(case.filters) > 1:
        (packets,) = filters[1].connections
        second = (
            [pair(data) for letter, data in packets if letter == "L"],
            b"".join(data for letter, data in packets if letter == "B"),
        )
    body = stored.body
    if mta.name == "sendmail" and body and not body.endswith(b"\n"):
        body += b"\n"  # as the delivery agent would
    notify, dsn = remembered(mta, stored)
    outcome = Outcome(
        stored.sender,
        stored.recipients,
        "".join(headers),
        body,
        stored.quarantine is not None,
        second,
        notify,
        dsn,
    )
    return (outcome, received[1:])


def pair(data: bytes) -> tuple[str, str]:
    """Return name and value of a header that a filter was told."""
    name, value, _ = data.decode("utf-8", "surrogateescape").split("\0")
    return (name, value)


def remembered(
    mta: Mta, stored: Stored
) -> tuple[list[tuple[str, str]] | None, tuple[str, bool] | None]:
    """Return what the server's file says of notifications; None where it has been delivered."""
    if isinstance(mta, Postfix):
        if stored.quarantine is None:
            return None, None
        text = mta.envelope(stored.queue_id)
        envid = re.findall(r"^named_attribute: envelope_id=(.*)$", text, re.M)
        ret = re.findall(r"^named_attribute: ret_flags=(.*)$", text, re.M)
        notify, flags = [], 0
        for line in text.splitlines():
            key, _, value = line.partition(": ")
            if value.startswith("notify_flags="):
                flags = int(value.partition("=")[2])
            elif key in ("recipient", "canceled_recipient"):
                words = {1: "NEVER", 2: "SUCCESS", 4: "FAILURE", 8: "DELAY"}
                if key == "recipient":
                    named = ",".join(word for bit, word in words.items() if flags & bit)
                    notify.append((value, named))
                flags = 0
        return sorted(notify), ("".join(envid[-1:]), ret[-1:] == ["2"])
    assert isinstance(mta, Sendmail)
    lines = mta.control(stored.queue_id).split("\n")
    notify = []
    envid_, flags_ = "", ""
    for line in lines:
        if line.startswith("R"):
            marks, _, address = line[1:].partition(":")
            # N: it has a NOTIFY of its own; without, failures and delays are told.
            words_ = {"S": "SUCCESS", "F": "FAILURE", "D": "DELAY"}
            named = ",".join(word for mark, word in words_.items() if mark in marks)
            own = (named or "NEVER") if "N" in marks else ""
            notify.append((address.removeprefix("<").removesuffix(">"), own))
        elif line.startswith("Z"):
            envid_ = line[1:]
        elif line.startswith("F"):
            flags_ = line[1:]
    return sorted(notify), (envid_, "n" in flags_)


# -- by the rules ----------------------------------------------------------------------------------


def simulated(case: Case, rules: str, received: str) -> Result:
    """Let the rules make the changes; *received*: what the server's own header says."""
    sender, *params = case.mail.split()
    recipients = [
        ours.Recipient(address, tuple(words))
        for address, *words in (to.split() for to in case.rcpts)
    ]
    message = ours.Message.from_bytes(case.content, sender, recipients, params)
    held = HeldMessage(message, rules)
    second = None
    for number, changes in enumerate(case.filters):
        fault = server_fault(changes, rules)
        if fault is not None:
            return fault
        if number == 1:
            seen = held.seen()
            second = (
                [
                    (text(name), text(value if case.leading_space else cut(value)))
                    for name, value in seen.headers
                ],
                seen.body,
            )
        held.change(changes, leading_space=case.leading_space)
    after = held.stored(received)
    if not after.recipients and not (rules == "postfix" and quarantined(case)):
        return None
    told = rules == "sendmail" or quarantined(case)
    return Outcome(
        bare(after.sender),
        sorted(bare(to.address) for to in after.recipients),
        text(b"".join(name + b":" + value + b"\n" for name, value in after.headers)),
        after.body.replace(b"\r\n", b"\n"),
        quarantined(case),
        second,
        sorted((bare(to.address), notify(to.params)) for to in after.recipients) if told else None,
        (param(after.sender_params, "ENVID"), param(after.sender_params, "RET") == "HDRS")
        if told
        else None,
    )


def cut(value: bytes) -> bytes:
    """Return a header's value without its first blank (wire spec 1.3)."""
    return value[1:] if value.startswith(b" ") else value


def text(data: bytes) -> str:
    """Return bytes as `mta.Stored` has them."""
    return data.decode("utf-8", "surrogateescape")


def bare(address: str) -> str:
    """Return an address without its brackets."""
    return address.removeprefix("<").removesuffix(">")


def param(params: Sequence[str], name: str) -> str:
    """Return the value of an ESMTP parameter, "" if there is none."""
    return next((word.partition("=")[2] for word in params if word.startswith(f"{name}=")), "")


def notify(params: Sequence[str]) -> str:
    """Return NOTIFY in the order in which `remembered` has it."""
    words = param(params, "NOTIFY").split(",")
    return ",".join(word for word in ("NEVER", "SUCCESS", "FAILURE", "DELAY") if word in words)
