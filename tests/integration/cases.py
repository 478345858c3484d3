"""The table of cases that both mail servers are put through, over unix and TCP sockets.

A case is a script for the filter, a session for the SMTP client, and what must come of it: the
replies, the callbacks in order, and the message as it is stored. Where Postfix and Sendmail differ
the expectation is a `By`. Expectations come from the wire spec (2.4, 2.7, 3.2, 4, 5) and from what
the two servers do with pymilter on libmilter behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .smtp import BODY, EHLO, GREETING, HEADERS, ONE, QUIT, SENDER, STANDARD, TWO, Say
from .smtp import message_steps as message

Headers = Sequence[tuple[str, str]]


class By(NamedTuple):
    """A value for each mail server."""

    postfix: Any
    sendmail: Any


def pick(value: Any, mta: str) -> Any:
    """Return what a value is for this mail server."""
    return getattr(value, mta) if isinstance(value, By) else value


@dataclass(frozen=True)
class Kept:
    """A message as it must be stored. Defaults: the ordinary message as it was sent."""

    sender: Any = SENDER
    recipients: Any = (ONE, TWO)
    #: All headers in order. The MTA's own trace line is ("Received", "*").
    headers: Any = (("Received", "*"), *HEADERS)
    body: Any = BODY
    #: Whether it is in quarantine, and the reason where the MTA keeps one.
    quarantine: Any = None
    #: Recipient -> NOTIFY, looked at only if given.
    notify: Any = None


#: The MTA accepts the message and drops it.
DISCARDED = "discarded"
#: The MTA does not accept a message.
NOTHING = "nothing"


@dataclass(frozen=True)
class Case:
    """One row of the table; see the module's docstring."""

    id: str
    #: Rules of the script, as in scripted_filter.py.
    rules: Sequence[dict[str, Any]] = ()
    #: The rest of the script.
    script: dict[str, Any] = field(default_factory=dict)
    steps: Any = STANDARD
    #: The content sent where a step has none of its own.
    headers: Headers = HEADERS
    body: str | bytes = BODY
    #: Replies other than success, by label.
    replies: Any = field(default_factory=dict)
    #: Names of the callbacks in order, None: not looked at.
    callbacks: Any = None
    #: What must be stored of the message of each content step that was accepted, by label.
    #: A single value is for the label "content".
    stored: Any = Kept()
    #: Calls whose arguments are looked at: callback -> list of argument tuples.
    calls: Any = field(default_factory=dict)
    #: Exceptions of the script's own calls: [method, type, text]; must match exactly.
    raised: Any = ()
    mtas: tuple[str, ...] = ("postfix", "sendmail")
    #: Why the case cannot be played on pymilter with libmilter.
    ours: str = ""
    #: Other endpoints than those for every case.
    endpoints: tuple[str, ...] = ("unix", "inet")


# -- callbacks in order ----------------------------------------------------------------------------

ENVELOPE = ("envfrom", "envrcpt", "envrcpt", "data")
CONTENT = ("header",) * len(HEADERS) + ("eoh", "body", "eom")
OPENING = ("negotiate", "connect", "hello")
FULL = (*OPENING, *ENVELOPE, *CONTENT, "close")


def up_to(step: str, *more: str) -> tuple[str, ...]:
    """Return the callbacks up to the first *step*, then *more*, then close."""
    return (*FULL[: FULL.index(step) + 1], *more, "close")


# -- every verdict at every step -------------------------------------------------------------------

STEPS = ("connect", "hello", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom")

#: The SMTP command whose reply a verdict at a step becomes; `content` for the rest.
ANSWERED_AT = {
    "connect": "mail",
    "hello": "mail",
    "envfrom": "mail",
    "envrcpt": "rcpt1",
    "data": "data",
}

#: Verdict, and what setreply is given before it.
VERDICTS: dict[str, tuple[str, list[str]]] = {
    "continue": ("CONTINUE", []),
    "accept": ("ACCEPT", []),
    "discard": ("DISCARD", []),
    "reject": ("REJECT", []),
    "tempfail": ("TEMPFAIL", []),
    # The percent sign is doubled in what the filter says, and comes out single (wire spec 4.5).
    "reject-text": ("REJECT", ["550", "5.7.1", "not for 50%% of us"]),
    "reject-lines": ("REJECT", ["554", "5.7.2", "one", "two", "three"]),
    "tempfail-text": ("TEMPFAIL", ["450", "4.7.1", "later"]),
    "tempfail-lines": ("TEMPFAIL", ["451", "4.7.2", "not", "now"]),
    "tempfail-421": ("TEMPFAIL", ["421", "4.7.0", "gone fishing"]),
    # Texts whose class is not the verdict's are not used (wire spec 4.1).
    "reject-4xx": ("REJECT", ["450", "4.7.1", "never seen"]),
    "tempfail-5xx": ("TEMPFAIL", ["550", "5.7.1", "never seen"]),
}

POSTFIX_TEMPFAIL = "451 4.7.1 Service unavailable - try again later"
SENDMAIL_TEMPFAIL = "451 4.3.2 Please try again later"


def spoken(parts: list[str], about: str = "") -> str:
    """Return the SMTP reply that a setreply becomes, *about* whom Sendmail says it."""
    code, xcode, *lines = [part.replace("%%", "%") for part in parts]
    if len(lines) > 1:
        return f"{code} " + "\n".join(f"{xcode} {line}" for line in lines)
    return f"{code} {xcode} {about}{lines[0]}"


def refusal(step: str, verdict: str, text: list[str]) -> By:
    """Return the replies of each MTA to a REJECT or TEMPFAIL at *step*."""
    reject = verdict == "REJECT"
    label = ANSWERED_AT.get(step, "content")
    if text and (text[0][0] == "5") != reject:
        text = []
    # Sendmail names the address in replies of one line, but not with the code 451.
    about = {"envfrom": f"<{SENDER}>... ", "envrcpt": f"<{ONE}>... "}.get(step, "")
    if text and text[0] == "451":
        about = ""

    if text and text[0] == "421":
        if step == "connect":
            # Both say it in their own words there.
            return By(
                {"greeting": "421 mail.example.org Service unavailable - try again later"},
                {"greeting": "421 4.7.0 mail.example.org closing connection"},
            )
        label = "ehlo" if step == "hello" else label
        return By({label: spoken(text)}, {label: spoken(text)})

    if text:
        postfix = spoken(text)
    else:
        postfix = "550 5.7.1 Command rejected" if reject else POSTFIX_TEMPFAIL

    if text and step != "connect":
        sendmail = spoken(text, about)
    elif not reject:
        sendmail = SENDMAIL_TEMPFAIL
    elif step in ("connect", "hello"):
        # Of a text for CONNECT Sendmail keeps the class only (wire spec 2.7).
        sendmail = "550 5.0.0 Command rejected"
    elif label == "content":
        sendmail = "554 5.7.1 Command rejected"
    else:
        sendmail = f"550 5.7.1 {about}Command rejected"
    replies = By({label: postfix}, {label: sendmail})
    if step == "connect" and reject:
        replies.postfix["greeting"] = "554 mail.example.org ESMTP not accepting connections"
        replies.sendmail["greeting"] = "554 mail.example.org ESMTP not accepting messages"
    return replies


def verdicts() -> Iterator[Case]:
    """Yield a case for every verdict at every step."""
    for step in STEPS:
        for name, (verdict, text) in VERDICTS.items():
            rule: dict[str, Any] = {"on": step, "return": verdict}
            if text:
                rule["do"] = [["setreply", *text]]
            if step == "envrcpt":
                rule["args"] = {"0": f"<{ONE}>"}
            stored: Any = Kept()
            replies: Any = {}
            callbacks: Any = up_to(step)
            if verdict == "CONTINUE":
                callbacks = FULL
            elif verdict in ("REJECT", "TEMPFAIL"):
                replies = refusal(step, verdict, text)
                stored = NOTHING
                if step == "envrcpt" and name == "tempfail-421":
                    # A recipient's refusal leaves the transaction open, and its end aborts it.
                    callbacks = up_to(step, "abort")
                elif step == "envrcpt":
                    callbacks = FULL
                    stored = Kept(recipients=(TWO,))
            elif verdict == "DISCARD":
                stored = DISCARDED
                if step == "connect":
                    # Postfix goes on; Sendmail leaves the filter alone; mail is unaffected.
                    callbacks = By(FULL, up_to(step))
                    stored = Kept()
                elif step == "hello":
                    callbacks = FULL
                    stored = Kept()
                elif step == "envrcpt":
                    # Seen from the filter the transaction was still open when the MTA left it.
                    callbacks = up_to(step, "abort")
            yield Case(
                f"{step}-{name}",
                [rule],
                replies=replies,
                callbacks=callbacks,
                stored=stored,
            )


# -- every modification ----------------------------------------------------------------------------


def eom(*actions: list[Any], verdict: str | None = "CONTINUE", **more: Any) -> dict[str, Any]:
    """Return a rule for the end of a message."""
    return {"on": "eom", "do": list(actions), "return": verdict, **more}


RECEIVED = ("Received", "*")
FROM, TO, FOLDED, SUBJECT, DATE, MESSAGE_ID, FIRST, SECOND = HEADERS


def modifications() -> Iterator[Case]:
    """Yield the cases in which a filter changes the message or its envelope."""
    # Headers.
    yield Case(
        "addheader",
        [eom(["addheader", "X-Added", "a value"])],
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "a value"))),
    )
    yield Case(
        "addheader-twice",
        [eom(["addheader", "X-Added", "one"], ["addheader", "X-Added", "two"])],
        stored=Kept(
            headers=By(
                (RECEIVED, *HEADERS, ("X-Added", "one"), ("X-Added", "two")),
                # Sendmail puts it before the first of that name.
                (RECEIVED, *HEADERS, ("X-Added", "two"), ("X-Added", "one")),
            )
        ),
    )
    yield Case(
        "addheader-folded",
        [eom(["addheader", "X-Added", "one\n\ttwo\n three"])],
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "one\n\ttwo\n three"))),
    )
    yield Case(
        "addheader-empty-value",
        [eom(["addheader", "X-Added", ""])],
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", ""))),
    )
    yield Case(
        "addheader-long",
        [eom(["addheader", "X-Added", {"repeat": ["0123456789", 90]}])],
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "0123456789" * 90))),
    )
    yield Case(
        "addheader-known-name",
        [eom(["addheader", "X-Thing", "third"])],
        stored=Kept(
            headers=By(
                (RECEIVED, *HEADERS, ("X-Thing", "third")),
                (RECEIVED, *HEADERS[:-2], ("X-Thing", "third"), FIRST, SECOND),
            )
        ),
    )
    yield Case(
        "insert-at-0",
        [eom(["addheader", "X-Top", "t", 0])],
        stored=Kept(headers=(("X-Top", "t"), RECEIVED, *HEADERS)),
    )
    yield Case(
        "insert-at-0-twice",
        [eom(["addheader", "X-Top", "1", 0], ["addheader", "X-Top", "2", 0])],
        stored=Kept(headers=(("X-Top", "2"), ("X-Top", "1"), RECEIVED, *HEADERS)),
    )
    yield Case(
        "insert-at-1",
        [eom(["addheader", "X-Second", "s", 1])],
        # Sendmail counts lines of its own that nobody sees.
        stored=Kept(headers=(RECEIVED, ("X-Second", "s"), *HEADERS)),
    )
    yield Case(
        "insert-past-the-end",
        [eom(["addheader", "X-Last", "l", 1000])],
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Last", "l"))),
    )
    for number, changed in (
        (1, (FROM, TO, FOLDED, SUBJECT, DATE, MESSAGE_ID, ("X-Thing", "new"), SECOND)),
        (2, (FROM, TO, FOLDED, SUBJECT, DATE, MESSAGE_ID, FIRST, ("X-Thing", "new"))),
        # Both MTAs take 0 for 1.
        (0, (FROM, TO, FOLDED, SUBJECT, DATE, MESSAGE_ID, ("X-Thing", "new"), SECOND)),
    ):
        yield Case(
            f"chgheader-{number}",
            [eom(["chgheader", "X-Thing", number, "new"])],
            stored=Kept(headers=(RECEIVED, *changed)),
        )
    yield Case(
        "chgheader-past-the-last",
        [eom(["chgheader", "X-Thing", 3, "third"])],
        stored=Kept(
            headers=By(
                (RECEIVED, *HEADERS, ("X-Thing", "third")),
                (RECEIVED, *HEADERS[:-2], ("X-Thing", "third"), FIRST, SECOND),
            )
        ),
    )
    yield Case(
        "chgheader-not-there",
        [eom(["chgheader", "X-New", 1, "new"])],
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-New", "new"))),
    )
    yield Case(
        "chgheader-other-case",
        [eom(["chgheader", "sUBJECT", 1, "Changed"])],
        stored=Kept(
            headers=By(
                (
                    RECEIVED,
                    FROM,
                    TO,
                    FOLDED,
                    ("sUBJECT", "Changed"),
                    DATE,
                    MESSAGE_ID,
                    FIRST,
                    SECOND,
                ),
                (
                    RECEIVED,
                    FROM,
                    TO,
                    FOLDED,
                    ("Subject", "Changed"),
                    DATE,
                    MESSAGE_ID,
                    FIRST,
                    SECOND,
                ),
            )
        ),
    )
    for name, nothing in (("empty", ""), ("none", None)):
        yield Case(
            f"delete-header-{name}",
            [eom(["chgheader", "X-Thing", 1, nothing])],
            stored=Kept(headers=(RECEIVED, FROM, TO, FOLDED, SUBJECT, DATE, MESSAGE_ID, SECOND)),
        )
    yield Case(
        "delete-header-folded",
        [eom(["chgheader", "X-Folded", 1, ""])],
        stored=Kept(headers=(RECEIVED, FROM, TO, SUBJECT, DATE, MESSAGE_ID, FIRST, SECOND)),
    )
    yield Case(
        "delete-headers-downwards",
        [eom(["chgheader", "X-Thing", 2, ""], ["chgheader", "X-Thing", 1, ""])],
        stored=Kept(headers=(RECEIVED, FROM, TO, FOLDED, SUBJECT, DATE, MESSAGE_ID)),
    )
    yield Case(
        "delete-headers-upwards",
        [eom(["chgheader", "X-Thing", 1, ""], ["chgheader", "X-Thing", 2, ""])],
        # Postfix numbers the rest anew after a deletion, so there is no second any more.
        stored=Kept(
            headers=By(
                (RECEIVED, FROM, TO, FOLDED, SUBJECT, DATE, MESSAGE_ID, SECOND),
                (RECEIVED, FROM, TO, FOLDED, SUBJECT, DATE, MESSAGE_ID),
            )
        ),
    )
    yield Case("delete-header-not-there", [eom(["chgheader", "X-New", 1, ""])])
    # Recipients and sender.
    yield Case(
        "addrcpt",
        [eom(["addrcpt", "<added@dest.example>"])],
        stored=Kept(recipients=("added@dest.example", ONE, TWO)),
    )
    yield Case(
        "addrcpt-parameters",
        # In quarantine, where the envelope can be read at Postfix too.
        [eom(["addrcpt", "<added@dest.example>", "NOTIFY=NEVER"], ["quarantine", "look"])],
        stored=Kept(
            recipients=("added@dest.example", ONE, TWO),
            quarantine=By("", "look"),
            notify={"added@dest.example": "NEVER"},
        ),
    )
    yield Case("delrcpt", [eom(["delrcpt", f"<{ONE}>"])], stored=Kept(recipients=(TWO,)))
    yield Case("delrcpt-not-there", [eom(["delrcpt", "<nobody@dest.example>"])])
    yield Case(
        "delrcpt-addrcpt",
        [
            eom(
                ["delrcpt", f"<{ONE}>"],
                ["delrcpt", f"<{TWO}>"],
                ["addrcpt", "<other@dest.example>"],
            )
        ],
        stored=Kept(recipients=("other@dest.example",)),
    )
    yield Case(
        "chgfrom", [eom(["chgfrom", "<new@sender.example>"])], stored=Kept("new@sender.example")
    )
    yield Case("chgfrom-null", [eom(["chgfrom", "<>"])], stored=Kept(""))
    yield Case(
        "chgfrom-parameters",
        [eom(["chgfrom", "<new@sender.example>", "RET=HDRS ENVID=abc"])],
        stored=Kept("new@sender.example"),
    )
    # The body.
    yield Case(
        "replacebody",
        [eom(["replacebody", "another\r\nbody\r\n"])],
        stored=Kept(body="another\nbody\n"),
    )
    yield Case(
        "replacebody-bytes",
        [eom(["replacebody", {"latin1": "gr\xfc\xdfe\r\n"}])],
        stored=Kept(body=b"gr\xfc\xdfe\n"),
    )
    yield Case(
        "replacebody-pieces",
        [eom(["replacebody", "one\r\n"], ["replacebody", "tw"], ["replacebody", "o\r\n"])],
        stored=Kept(body="one\ntwo\n"),
    )
    yield Case("replacebody-empty", [eom(["replacebody", ""])], stored=Kept(body=""))
    for name, lines in (("two-chunks", 2000), ("many-chunks", 8000)):
        # 50 bytes a line: 100,000 and 400,000 bytes, which leave in chunks of 65535.
        yield Case(
            f"replacebody-{name}",
            [eom(["replacebody", {"repeat": ["." * 48 + "\r\n", lines]}])],
            stored=Kept(body=("." * 48 + "\n") * lines),
        )
    # Quarantine.
    yield Case(
        "quarantine",
        [eom(["quarantine", "smells of fish"])],
        stored=Kept(quarantine=By("", "smells of fish")),
    )
    # Together, and with each verdict.
    everything: list[list[Any]] = [
        ["chgfrom", "<new@sender.example>"],
        ["delrcpt", f"<{ONE}>"],
        ["addrcpt", "<added@dest.example>"],
        ["chgheader", "Subject", 1, "Changed"],
        ["chgheader", "X-Thing", 2, ""],
        ["addheader", "X-Added", "at the end"],
        ["addheader", "X-Top", "at the top", 0],
        ["replacebody", "another body\r\n"],
        ["progress"],
    ]
    whole = Kept(
        "new@sender.example",
        ("added@dest.example", TWO),
        (
            ("X-Top", "at the top"),
            RECEIVED,
            FROM,
            TO,
            FOLDED,
            ("Subject", "Changed"),
            DATE,
            MESSAGE_ID,
            FIRST,
            ("X-Added", "at the end"),
        ),
        "another body\n",
    )
    for verdict in ("CONTINUE", "ACCEPT"):
        yield Case(
            f"everything-{verdict.lower()}",
            [eom(*everything, verdict=verdict)],
            stored=whole,
            callbacks=FULL,
            endpoints=("unix", "inet", "inet6"),
        )
    yield Case(
        "everything-discard",
        [eom(*everything, verdict="DISCARD")],
        stored=DISCARDED,
        callbacks=FULL,
    )
    yield Case(
        "everything-reject",
        [eom(*everything, verdict="REJECT")],
        replies=refusal("eom", "REJECT", []),
        stored=NOTHING,
        callbacks=FULL,
    )
    yield Case(
        "everything-tempfail",
        [eom(*everything, verdict="TEMPFAIL")],
        replies=refusal("eom", "TEMPFAIL", []),
        stored=NOTHING,
        callbacks=FULL,
    )
    yield Case(
        "everything-raise",
        [eom(*everything, **{"raise": "on purpose"})],
        replies={"content": "451 4.3.0 pymilter: untrapped exception in scripted"},
        stored=NOTHING,
        callbacks=FULL,
    )
    yield Case(
        "quarantine-reject",
        [eom(["quarantine", "no use"], verdict="REJECT")],
        replies=refusal("eom", "REJECT", []),
        stored=NOTHING,
    )
    # Nothing of the kind outside the end of the message (API spec 1.10).
    for step in ("connect", "envfrom", "header", "body"):
        yield Case(
            f"modify-in-{step}",
            [
                {
                    "on": step,
                    "nth": 1,
                    "do": [
                        ["addheader", "X-Added", "v"],
                        ["delrcpt", f"<{ONE}>"],
                        ["quarantine", "no"],
                    ],
                }
            ],
            raised=(
                ("addheader", "error", "cannot add header"),
                ("delrcpt", "error", "cannot delete recipient"),
                ("quarantine", "error", "cannot quarantine message"),
            ),
        )


# -- what arrives ----------------------------------------------------------------------------------


def arrivals() -> Iterator[Case]:
    """Yield the cases about what a filter gets to see."""
    mail = Say("mail", f"MAIL FROM:<{SENDER}> SIZE=1000 BODY=8BITMIME")
    rcpt = Say("rcpt1", f"RCPT TO:<{ONE}> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;one@dest.example")
    yield Case(
        "arguments",
        steps=(GREETING, EHLO, mail, rcpt, *message()[2:], QUIT),
        callbacks=FULL,
        calls={
            "hello": [("client.example",)],
            "envfrom": [(f"<{SENDER}>", "SIZE=1000", "BODY=8BITMIME")],
            "envrcpt": [
                (f"<{ONE}>", "NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;one@dest.example"),
                (f"<{TWO}>",),
            ],
            "data": [()],
            "header": [*HEADERS],
            "eoh": [()],
            "body": [({"latin1": BODY.replace("\n", "\r\n")},)],
            "eom": [()],
            "close": [()],
        },
        endpoints=("unix", "inet", "inet6"),
    )
    yield Case(
        "offer",
        calls={"negotiate": [(0x1FF, 0x1FFFFF, 0, 0)]},
    )
    yield Case(
        "helo-not-ehlo",
        steps=(GREETING, Say("helo", "HELO old.example"), *message(), QUIT),
        callbacks=FULL,
        calls={"hello": [("old.example",)]},
    )
    yield Case(
        "null-sender",
        steps=(GREETING, EHLO, *message(sender=""), QUIT),
        calls={"envfrom": [("<>",)]},
        stored=Kept(""),
    )
    spaced = (*HEADERS, ("X-Two", " two blanks"), ("X-Tab", "\ta tab"), ("X-Empty", ""))
    yield Case(
        "one-leading-blank-removed",
        headers=spaced,
        calls={
            "header": [*HEADERS, ("X-Two", " two blanks"), ("X-Tab", "\ta tab"), ("X-Empty", "")]
        },
        stored=Kept(headers=(RECEIVED, *spaced)),
    )
    yield Case(
        "header-leading-space",
        [
            eom(
                ["addheader", "X-None", "none"],
                ["addheader", "X-One", " one"],
                ["chgheader", "Subject", 1, "  two"],
                ["addheader", "X-Top", " top", 0],
            )
        ],
        {"options": ["header_leading_space"]},
        calls={"header": [(name, f" {value}") for name, value in HEADERS]},
        # Values are written as they are, so the one without a blank gets none. The comparison
        # takes one blank away, as it is put there without this option.
        stored=Kept(
            headers=(
                ("X-Top", "top"),
                RECEIVED,
                FROM,
                TO,
                FOLDED,
                ("Subject", " two"),
                DATE,
                MESSAGE_ID,
                FIRST,
                SECOND,
                ("X-None", "none"),
                ("X-One", "one"),
            )
        ),
    )
    yield Case(
        "no-body",
        body="",
        callbacks=tuple(name for name in FULL if name != "body"),
        stored=Kept(body=""),
    )
    # As long as it gets: where a filter listens Postfix cuts a header at 60,000 bytes, whatever its
    # header_size_limit is. Folded, as no line of a message may be that long. Sendmail would not
    # take such a header at all.
    endless = (*HEADERS, ("X-Endless", "\n ".join(["0123456789" * 90] * 66)))
    yield Case(
        "header-of-59500-bytes",
        headers=endless,
        calls={"header": list(endless)},
        stored=Kept(headers=(RECEIVED, *endless)),
        mtas=("postfix",),
    )
    many = (*HEADERS, *((f"X-Number-{number}", str(number)) for number in range(300)))
    for name, decorate in (("", {}), ("-noreply", {"header": [["noreply"]]})):
        yield Case(
            f"many-headers{name}",
            [eom(["chgheader", "X-Number-299", 1, "last"])],
            {"decorate": decorate},
            headers=many,
            callbacks=(*up_to("data")[:-1], *["header"] * len(many), "eoh", "body", "eom", "close"),
            calls={"header": list(many)},
            stored=Kept(headers=(RECEIVED, *many[:-1], ("X-Number-299", "last"))),
        )
    big = ("0123456789" * 7 + "\n") * 3000  # 71 bytes a line, 72 with CRLF: 216,000 bytes
    sent = big.replace("\n", "\r\n").encode()
    chunks = [sent[start : start + 65535] for start in range(0, len(sent), 65535)]
    yield Case(
        "big-body",
        body=big,
        callbacks=(*up_to("eoh")[:-1], *["body"] * 4, "eom", "close"),
        calls={"body": [({"latin1": chunk.decode()},) for chunk in chunks]},
        stored=Kept(body=big),
    )
    yield Case(
        "big-body-noreply",
        [eom(["addheader", "X-Added", "v"])],
        {"decorate": {"body": [["noreply"]]}},
        body=big,
        calls={"body": [({"latin1": chunk.decode()},) for chunk in chunks]},
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "v")), body=big),
    )
    yield Case(
        "skip",
        [{"on": "body", "return": "SKIP"}, eom(["addheader", "X-Added", "v"])],
        body=big,
        callbacks=FULL,
        calls={"body": [({"latin1": chunks[0].decode()},)]},
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "v")), body=big),
    )
    yield Case(
        "skip-later",
        [{"on": "body", "nth": 2, "return": "SKIP"}],
        body=big,
        callbacks=(*up_to("eoh")[:-1], "body", "body", "eom", "close"),
        stored=Kept(body=big),
    )
    yield Case(
        "eight-bit-body",
        steps=(
            GREETING,
            EHLO,
            Say("mail", f"MAIL FROM:<{SENDER}> BODY=8BITMIME"),
            *message()[1:],
            QUIT,
        ),
        body=b"gr\xfc\xdfe \x80\xff\n",
        calls={"body": [({"latin1": "gr\xfc\xdfe \x80\xff\r\n"},)]},
        stored=Kept(body=b"gr\xfc\xdfe \x80\xff\n"),
    )
    latin = (*HEADERS, ("X-Latin", "gr\udcfc\udcdfe"))
    yield Case(
        "eight-bit-header",
        headers=latin,
        # Not UTF-8: each byte becomes a lone surrogate, as in API spec 2.6.
        calls={"header": [*HEADERS, ("X-Latin", "gr\udcfc\udcdfe")]},
        stored=Kept(headers=(RECEIVED, *latin)),
    )
    yield Case(
        "eight-bit-header-as-bytes",
        script={"decorate": {"header": [["decode", "bytes"]]}},
        headers=latin,
        calls={
            "header": [
                *((name, {"latin1": value}) for name, value in HEADERS),
                ("X-Latin", {"latin1": "gr\xfc\xdfe"}),
            ]
        },
        stored=Kept(headers=(RECEIVED, *latin)),
    )
    yield Case(
        "eight-bit-header-replaced",
        script={"decorate": {"header": [["decode", "replace"]]}},
        headers=latin,
        calls={"header": [*HEADERS, ("X-Latin", "gr\ufffd\ufffde")]},
        stored=Kept(headers=(RECEIVED, *latin)),
    )
    yield Case(
        "utf-8-header-without-smtputf8",
        [eom(["addheader", "X-Added", "größer"])],
        headers=(*HEADERS, ("X-Utf", "grüße")),
        calls={"header": [*HEADERS, ("X-Utf", "grüße")]},
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Utf", "grüße"), ("X-Added", "größer"))),
    )
    yield Case(
        "surrogates-written-back",
        [eom(["addheader", "X-Copy", "gr\udcfc\udcdfe"])],
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Copy", "gr\udcfc\udcdfe"))),
        ours="pymilter raises UnicodeEncodeError (API spec 1.10)",
    )


# -- commands that no callback is for --------------------------------------------------------------


def commands() -> Iterator[Case]:
    """Yield the cases about other SMTP commands than those of a message."""
    foo = Say("1-unknown", "FOO bar baz")
    # Postfix passes the first word on, Sendmail all of the line (wire spec 2.7).
    seen = By([("FOO",)], [("FOO bar baz",)])
    middle = (*OPENING, "unknown", *FULL[3:])
    refused = By(
        "500 5.5.2 Error: command not recognized",
        '500 5.5.1 Command unrecognized: "FOO bar baz"',
    )
    rejected = "550 5.7.1 Command rejected"
    for name, verdict, text, replies in (
        ("continue", "CONTINUE", [], refused),
        # The command fails anyway; the filter may choose the words.
        ("reject", "REJECT", [], By(rejected, rejected)),
        ("tempfail", "TEMPFAIL", [], By(POSTFIX_TEMPFAIL, SENDMAIL_TEMPFAIL)),
        ("text", "REJECT", ["550", "5.7.9", "what?"], By("550 5.7.9 what?", "550 5.7.9 what?")),
    ):
        yield Case(
            f"unknown-{name}",
            [{"on": "unknown", "return": verdict, "do": [["setreply", *text]] if text else []}],
            steps=(GREETING, EHLO, foo, *message(), QUIT),
            replies=By({"1-unknown": replies.postfix}, {"1-unknown": replies.sendmail}),
            callbacks=middle,
            calls={"unknown": seen},
        )
    yield Case(
        "unknown-in-transaction",
        steps=(GREETING, EHLO, *message()[:3], foo, *message()[3:], QUIT),
        replies=By({"1-unknown": refused.postfix}, {"1-unknown": refused.sendmail}),
        callbacks=(*OPENING, "envfrom", "envrcpt", "envrcpt", "unknown", "data", *CONTENT, "close"),
    )
    without_data = ("connect", "hello", "envfrom", "envrcpt", "header", "eoh", "body", "unknown")
    yield Case(
        "unknown-then-no-data",
        script={"callbacks": without_data},
        steps=(GREETING, EHLO, *message()[:3], foo, *message()[3:], QUIT),
        replies=By({"1-unknown": refused.postfix}, {"1-unknown": refused.sendmail}),
        callbacks=(*OPENING, "envfrom", "envrcpt", "envrcpt", "unknown", *CONTENT, "close"),
        ours="libmilter drops what follows, and the MTA waits (wire spec 3.3, Q1)",
    )
    quiet = (
        Say("1-noop", "NOOP"),
        Say("1-vrfy", f"VRFY <{ONE}>"),
        *message(),
        Say("2-noop", "NOOP"),
        QUIT,
    )
    yield Case(
        "noop-and-vrfy-are-not-seen",
        steps=(GREETING, EHLO, *quiet),
        replies={"1-vrfy": "252"},
        callbacks=FULL,
    )
    yield Case(
        "help-is-unknown-to-postfix",
        steps=(GREETING, EHLO, Say("1-help", "HELP"), *message(), QUIT),
        replies={"1-help": "500 5.5.2 Error: command not recognized"},
        callbacks=middle,
        calls={"unknown": [("HELP",)]},
        mtas=("postfix",),
    )
    # RSET, and what else ends a transaction.
    start = message()[:2]
    for name, again in (
        ("rset", (Say("1-rset", "RSET"),)),
        ("ehlo-again", (Say("2-ehlo", "EHLO other.example"),)),
    ):
        hello = ("hello",) if name == "ehlo-again" else ()
        for where, before in (("mail", start[:1]), ("rcpt", start)):
            seen_before = ("envfrom", "envrcpt")[: len(before)]
            relabelled = tuple(Say(f"1-{step.label}", step.text) for step in before)
            yield Case(
                f"{name}-after-{where}",
                steps=(GREETING, EHLO, *relabelled, *again, *message(), QUIT),
                callbacks=(*OPENING, *seen_before, "abort", *hello, *FULL[3:]),
            )
    yield Case(
        "quit-in-transaction",
        steps=(GREETING, EHLO, *start, QUIT),
        callbacks=(*OPENING, "envfrom", "envrcpt", "abort", "close"),
        stored=NOTHING,
    )
    yield Case(
        "rset-without-transaction",
        steps=(GREETING, EHLO, Say("1-rset", "RSET"), *message(), Say("2-rset", "RSET"), QUIT),
        callbacks=FULL,
    )
    yield Case(
        "quit-at-once",
        steps=(GREETING, QUIT),
        callbacks=("negotiate", "connect", "close"),
        stored=NOTHING,
    )
    # Chunked, which Sendmail does not know: one DATA callback for the first chunk.
    # Postfix adds what a local client leaves out, From, Date and Message-ID, and shows it.
    half = b"From: a@client.example\r\nDate: now\r\nMessage-ID: <1@b>\r\n\r\nfirst\r\n"
    rest = b"second\r\n"
    yield Case(
        "bdat",
        steps=(
            GREETING,
            EHLO,
            *message()[:3],
            Say("1-bdat", b"BDAT %d\r\n%b" % (len(half), half)),
            Say("content", b"BDAT %d LAST\r\n%b" % (len(rest), rest)),
            QUIT,
        ),
        calls={
            "data": [()],
            "header": [("From", "a@client.example"), ("Date", "now"), ("Message-ID", "<1@b>")],
            "body": [({"latin1": "first\r\nsecond\r\n"},)],
        },
        stored=None,
        mtas=("postfix",),
    )


# -- several messages ------------------------------------------------------------------------------


def sequences() -> Iterator[Case]:
    """Yield the cases with more than one message on a connection."""
    three = (GREETING, EHLO, *message("1-"), *message("2-"), *message("3-"), QUIT)
    middle_only = Kept(headers=(RECEIVED, *HEADERS, ("X-Middle", "yes")))
    yield Case(
        "three-messages",
        [eom(["addheader", "X-Middle", "yes"], message=2)],
        steps=three,
        callbacks=(*OPENING, *(*ENVELOPE, *CONTENT) * 3, "close"),
        stored={"1-content": Kept(), "2-content": middle_only, "3-content": Kept()},
    )
    yield Case(
        "second-of-three-rejected",
        [eom(["setreply", "550", "5.7.1", "not this one"], verdict="REJECT", message=2)],
        steps=three,
        replies={"2-content": "550 5.7.1 not this one"},
        callbacks=(*OPENING, *(*ENVELOPE, *CONTENT) * 3, "close"),
        stored={"1-content": Kept(), "3-content": Kept()},
    )
    yield Case(
        "second-of-three-refused-at-mail",
        [{"on": "envfrom", "message": 2, "return": "TEMPFAIL"}],
        steps=three,
        replies=By({"2-mail": POSTFIX_TEMPFAIL}, {"2-mail": SENDMAIL_TEMPFAIL}),
        callbacks=(
            *OPENING, *ENVELOPE, *CONTENT, "envfrom", *ENVELOPE, *CONTENT, "close",
        ),
        stored={"1-content": Kept(), "3-content": Kept()},
    )  # fmt: skip
    yield Case(
        "first-of-three-accepted-early",
        [{"on": "envfrom", "message": 1, "return": "ACCEPT"}],
        steps=three,
        callbacks=(*OPENING, "envfrom", *(*ENVELOPE, *CONTENT) * 2, "close"),
        stored={"1-content": Kept(), "2-content": Kept(), "3-content": Kept()},
    )
    yield Case(
        "second-of-three-discarded",
        [{"on": "header", "message": 2, "return": "DISCARD"}],
        steps=three,
        callbacks=(
            *OPENING, *ENVELOPE, *CONTENT, *ENVELOPE, "header", *ENVELOPE, *CONTENT, "close",
        ),
        stored={"1-content": Kept(), "2-content": DISCARDED, "3-content": Kept()},
    )  # fmt: skip
    yield Case(
        "second-of-three-raises",
        [{"on": "header", "message": 2, "raise": "on purpose"}],
        steps=three,
        replies={"2-content": "451 4.3.0 pymilter: untrapped exception in scripted"},
        callbacks=(
            *OPENING, *ENVELOPE, *CONTENT, *ENVELOPE, "header", *ENVELOPE, *CONTENT, "close",
        ),
        stored={"1-content": Kept(), "3-content": Kept()},
    )  # fmt: skip
    yield Case(
        "text-of-one-message-not-in-the-next",
        [
            eom(["setreply", "550", "5.7.1", "first"], verdict="REJECT", message=1),
            eom(verdict="REJECT", message=2),
        ],
        steps=three,
        replies=By(
            {"1-content": "550 5.7.1 first", "2-content": "550 5.7.1 Command rejected"},
            {"1-content": "550 5.7.1 first", "2-content": "554 5.7.1 Command rejected"},
        ),
        stored={"3-content": Kept()},
    )
    yield Case(
        "all-recipients-refused-then-a-message",
        [{"on": "envrcpt", "message": 1, "return": "REJECT"}],
        steps=(GREETING, EHLO, *message("1-")[:3], Say("1-rset", "RSET"), *message(), QUIT),
        replies=By(
            {"1-rcpt1": "550 5.7.1 Command rejected", "1-rcpt2": "550 5.7.1 Command rejected"},
            {
                "1-rcpt1": f"550 5.7.1 <{ONE}>... Command rejected",
                "1-rcpt2": f"550 5.7.1 <{TWO}>... Command rejected",
            },
        ),
        callbacks=(*OPENING, "envfrom", "envrcpt", "envrcpt", "abort", *FULL[3:]),
    )


# -- filters that want less, and filters that misbehave --------------------------------------------


def manners() -> Iterator[Case]:
    """Yield the cases about what the filter overrides, decorates, raises and returns."""
    # A filter that overrides one callback gets that one only; what is sent is what it asked for.
    for wanted in ("connect", "hello", "envfrom", "envrcpt", "data", "header", "eoh", "body"):
        yield Case(
            f"only-{wanted}",
            [eom(["addheader", "X-Added", "v"])],
            {"callbacks": [wanted]},
            callbacks=tuple(name for name in FULL if name in ("negotiate", wanted, "eom", "close")),
            stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "v"))),
            ours=(
                ""
                if wanted == "envfrom"
                else "libmilter calls abort after a message without MAIL (wire spec 3.3, Q6)"
            ),
        )
    yield Case(
        "only-eom",
        [eom(["addheader", "X-Added", "v"])],
        {"callbacks": []},
        callbacks=("negotiate", "eom", "close"),
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "v"))),
        ours="libmilter calls abort after a message without MAIL (wire spec 3.3, Q6)",
    )
    names = ("connect", "hello", "envfrom", "envrcpt", "data", "header", "eoh", "body")
    everywhere = {"decorate": {name: [["noreply"]] for name in names}}
    yield Case(
        "noreply-everywhere",
        [eom(["addheader", "X-Added", "v"])],
        everywhere,
        callbacks=FULL,
        calls={"header": list(HEADERS)},
        stored=Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "v"))),
    )
    yield Case(
        "noreply-everywhere-reject-at-eom",
        [eom(["setreply", "550", "5.7.1", "no"], verdict="REJECT")],
        everywhere,
        replies={"content": "550 5.7.1 no"},
        callbacks=FULL,
        stored=NOTHING,
    )
    yield Case(
        "noreply-three-messages",
        [eom(["addheader", "X-Middle", "yes"], message=2)],
        everywhere,
        steps=(GREETING, EHLO, *message("1-"), *message("2-"), *message("3-"), QUIT),
        callbacks=(*OPENING, *(*ENVELOPE, *CONTENT) * 3, "close"),
        stored={
            "1-content": Kept(),
            "2-content": Kept(headers=(RECEIVED, *HEADERS, ("X-Middle", "yes"))),
            "3-content": Kept(),
        },
    )
    untrapped = "451 4.3.0 pymilter: untrapped exception in scripted"
    for step, label in (("header", "content"), ("envfrom", "rcpt1"), ("body", "content")):
        for name, rule in (
            ("raises", {"raise": "on purpose"}),
            ("rejects", {"return": "REJECT"}),  # the decorator raises then, API spec 2.5
        ):
            replies = {label: untrapped}
            if label == "rcpt1":
                replies["rcpt2"] = untrapped
            yield Case(
                f"noreply-{step}-{name}",
                [{"on": step, "nth": 1, **rule}],
                {"decorate": {step: [["noreply"]]}},
                replies=replies,
                stored=NOTHING,
                ours="pymilter drops it and the mail passes (design, section 5)",
            )
    # Exceptions, each step, each policy.
    for step in STEPS:
        text = ["451", "4.3.0", "pymilter: untrapped exception in scripted"]
        raising: dict[str, Any] = {"on": step, "raise": "on purpose"}
        if step == "envrcpt":
            raising["args"] = {"0": f"<{ONE}>"}
        yield Case(
            f"raise-in-{step}",
            [raising],
            replies=refusal(step, "TEMPFAIL", text),
            callbacks=FULL if step == "envrcpt" else up_to(step),
            stored=Kept(recipients=(TWO,)) if step == "envrcpt" else NOTHING,
        )
    for policy, replies, stored in (
        ("REJECT", {"content": "554 5.3.0 pymilter: untrapped exception in scripted"}, NOTHING),
        ("CONTINUE", {}, Kept()),
        ("ACCEPT", {}, Kept()),
    ):
        yield Case(
            f"raise-policy-{policy.lower()}",
            [{"on": "header", "nth": 2, "raise": "on purpose"}],
            {"policy": policy},
            replies=replies,
            callbacks=(
                FULL if policy == "CONTINUE" else (*OPENING, *ENVELOPE, "header", "header", "close")
            ),
            stored=stored,
        )
    yield Case(
        "return-none",
        [eom(["addheader", "X-Added", "v"], verdict=None)],
        replies={"content": untrapped},
        stored=NOTHING,
    )
    for event in ("abort", "close"):
        yield Case(
            f"raise-in-{event}",
            [{"on": event, "raise": "on purpose"}],
            steps=(GREETING, EHLO, *(Say(f"1-{s.label}", s.text) for s in message()[:2]),
                   Say("1-rset", "RSET"), *message(), QUIT),
            callbacks=(*OPENING, "envfrom", "envrcpt", "abort", *FULL[3:]),
        )  # fmt: skip
    for step, label in (("envfrom", "mail"), ("header", "content"), ("eom", "content")):
        yield Case(
            f"unknown-verdict-in-{step}",
            [{"on": step, "return": 99}],
            replies={label: untrapped},
            stored=NOTHING,
            ours="libmilter sends nothing, and the MTA waits (design, section 5)",
        )
    yield Case(
        "noreply-without-the-option",
        [{"on": "envfrom", "return": "NOREPLY"}],
        callbacks=FULL,
        ours="libmilter sends nothing, and the MTA waits (wire spec 2.3)",
    )
    yield Case(
        "skip-outside-body",
        [{"on": "envfrom", "return": "SKIP"}],
        callbacks=FULL,
        ours="libmilter sends it, and the MTAs take it for something else (wire spec 2.4)",
    )
    yield Case(
        "progress-outside-eom",
        [{"on": step, "do": [["progress"]]} for step in STEPS],
        callbacks=FULL,
        ours="libmilter sends it, and Sendmail drops the filter (wire spec 4.6)",
    )
    # Recipients that the MTA itself refuses.
    nosuch = "nosuch@mail.example.org"
    unknown_user = By(
        f"550 5.1.1 <{nosuch}>: Recipient address rejected: User unknown in virtual mailbox table",
        f"550 5.1.1 <{nosuch}>... User unknown",
    )
    steps = (
        GREETING,
        EHLO,
        *message()[:2],
        Say("rcpt3", f"RCPT TO:<{nosuch}>"),
        *message()[2:],
        QUIT,
    )
    refused = By({"rcpt3": unknown_user.postfix}, {"rcpt3": unknown_user.sendmail})
    yield Case(
        "rejected-recipient-not-seen",
        steps=steps,
        replies=refused,
        callbacks=FULL,
        calls={"envrcpt": [(f"<{ONE}>",), (f"<{TWO}>",)]},
    )
    for verdict in ("CONTINUE", "REJECT", "TEMPFAIL"):
        yield Case(
            f"rejected-recipient-{verdict.lower()}",
            [{"on": "envrcpt", "args": {"0": f"<{nosuch}>"}, "return": verdict}],
            {"options": ["rejected_recipients"]},
            steps=steps,
            replies=refused,
            callbacks=(*OPENING, "envfrom", "envrcpt", *FULL[4:]),
            calls={"envrcpt": [(f"<{ONE}>",), (f"<{nosuch}>",), (f"<{TWO}>",)]},
        )


def smtputf8() -> Iterator[Case]:
    """Yield the cases with addresses that are not ASCII; Debian's Sendmail is built without."""
    sender, recipient = "grüße@client.example", "fünf@dest.example"
    steps = (
        GREETING,
        EHLO,
        Say("mail", f"MAIL FROM:<{sender}> SMTPUTF8"),
        Say("rcpt1", f"RCPT TO:<{recipient}>"),
        *message()[3:],
        QUIT,
    )
    headers = (("Subject", "Größe"), FROM, DATE, MESSAGE_ID, ("X-Other", "grün"))
    callbacks = (
        *OPENING,
        "envfrom",
        "envrcpt",
        "data",
        *["header"] * len(headers),
        "eoh",
        "body",
        "eom",
        "close",
    )
    yield Case(
        "smtputf8",
        [
            eom(
                ["addheader", "X-Added", "größer"],
                ["chgheader", "Subject", 1, "kleiner: ½"],
                ["chgfrom", "<füße@client.example>"],
            )
        ],
        steps=steps,
        headers=headers,
        callbacks=callbacks,
        calls={
            "envfrom": [(f"<{sender}>", "SMTPUTF8")],
            "envrcpt": [(f"<{recipient}>",)],
            "header": list(headers),
        },
        stored=Kept(
            "füße@client.example",
            (recipient,),
            (RECEIVED, ("Subject", "kleiner: ½"), *headers[1:], ("X-Added", "größer")),
        ),
        mtas=("postfix",),
    )
    yield Case(
        "smtputf8-recipients",
        [eom(["delrcpt", f"<{recipient}>"], ["addrcpt", f"<{ONE}>"])],
        steps=steps,
        headers=headers,
        stored=Kept(sender, (ONE,), (RECEIVED, *headers)),
        mtas=("postfix",),
    )
    yield Case(
        "smtputf8-as-bytes",
        script={
            "decorate": {"envfrom": [["decode", "bytes"]], "envrcpt": [["decode", "bytes"]]},
        },
        steps=steps,
        headers=headers,
        calls={
            "envfrom": [
                ({"latin1": f"<{sender}>".encode().decode("latin-1")}, {"latin1": "SMTPUTF8"})
            ],
            "envrcpt": [({"latin1": f"<{recipient}>".encode().decode("latin-1")},)],
        },
        stored=Kept(sender, (recipient,), (RECEIVED, *headers)),
        mtas=("postfix",),
    )


GROUPS = (verdicts, modifications, arrivals, commands, sequences, manners, smtputf8)
CASES = [case for group in GROUPS for case in group()]
