"""The table of what filters do to a message, for `outcome`, and random rows beside it."""

from __future__ import annotations

import random
from collections.abc import Iterator

from Milter.mta import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    InsertHeader,
    Modification,
    Quarantine,
    ReplaceBody,
)

from .outcome import MESSAGE, Case, Changes
from .smtp import ONE, SENDER, TWO

ADDED, OTHER = "added@dest.example", "other@dest.example"
#: Far more than there are headers, and the most that is no negative number.
MANY, MOST = 1000, 2147483647
#: What is a negative number to Sendmail.
MINUS_ONE = 4294967295

ASIDE = Quarantine("look")


def add(name: str, value: str) -> AddHeader:
    """Return the change that adds a header."""
    return AddHeader(name, value)


def ins(index: int, name: str, value: str = "v") -> InsertHeader:
    """Return the change that inserts a header."""
    return InsertHeader(index, name, value)


def chg(index: int, name: str, value: str = "n") -> ChangeHeader:
    """Return the change of a header's value."""
    return ChangeHeader(index, name, value)


def rm(index: int, name: str) -> DeleteHeader:
    """Return the deletion of a header."""
    return DeleteHeader(index, name)


#: Changes of headers, by id; played on `MESSAGE`.
HEADERS: dict[str, Changes] = {
    "nothing": [],
    "add": [add("X-N", "v")],
    "add two": [add("X-N", "1"), add("X-N", "2")],
    "add a known name": [add("X-T", "4")],
    "add a known name, other case": [add("x-t", "4")],
    "add Subject": [add("Subject", "2"), add("Subject", "3")],
    # Sendmail has a place for these, above the message's own.
    **{
        f"add {name}": [add(name, "v")]
        for name in (
            "Date", "From", "message-id", "Received", "Return-Path", "Full-Name", "To", "Cc",
            "Bcc", "Resent-To", "Resent-From", "resent-date", "Resent-Message-Id", "Resent-Sender",
            "Resent-Bcc", "Resent-Reply-To", "Resent-Cc", "Resent-Else", "Apparently-To",
        )
    },
    "add Date twice": [add("Date", "1"), add("Date", "2")],
    "add Date, change the first": [add("Date", "1"), chg(1, "Date")],
    "add Date, change the second": [add("Date", "1"), chg(2, "Date")],
    "add Date, delete the first": [add("Date", "1"), rm(1, "Date")],
    "add an empty Date": [add("Date", "")],
    "add an empty Date, and another": [add("Date", ""), add("Date", "2")],
    "add an empty Date, change the first": [add("Date", ""), chg(1, "Date")],
    "add Received twice": [add("Received", "1"), add("Received", "2")],
    "add Received, change the first": [add("Received", "1"), chg(1, "Received")],
    "add Received, delete the first": [add("Received", "1"), rm(1, "Received")],
    "add Return-Path twice, insert": [
        add("Return-Path", "1"), add("Return-Path", "2"), ins(0, "X-0"), ins(1, "X-1"),
    ],
    "add Full-Name, change the second": [
        add("Full-Name", "1"), add("Full-Name", "2"), chg(2, "Full-Name"),
    ],
    **{f"insert at {at}": [ins(at, "X-N")] for at in (*range(20), MANY, MOST, MINUS_ONE)},
    "insert twice at 0": [ins(0, "X-1"), ins(0, "X-2")],
    "insert a known name": [ins(0, "X-T")],
    "insert a known name, change the first": [ins(0, "X-T"), chg(1, "X-T")],
    "insert a known name, change the second": [ins(0, "X-T"), chg(2, "X-T")],
    "insert Date": [ins(0, "Date")],
    "insert Date at the end": [ins(MANY, "Date")],
    "insert Date, add Date": [ins(0, "Date", "1"), add("Date", "2")],
    "insert Date, change the first": [ins(0, "Date", "1"), chg(1, "Date")],
    "insert Date, change the second": [ins(0, "Date", "1"), chg(2, "Date")],
    "insert Resent-To": [ins(5, "Resent-To")],
    "insert Received": [ins(0, "Received")],
    "insert Received, change it": [ins(0, "Received"), chg(1, "Received")],
    "insert Received below, change it": [ins(1, "Received"), chg(1, "Received")],
    "insert two Received, change the second": [
        ins(0, "Received", "1"), ins(0, "Received", "2"), chg(2, "Received"),
    ],
    "insert Received, delete it": [ins(0, "Received"), rm(1, "Received")],
    "insert an empty value": [ins(0, "X-N", "")],
    "insert, delete, insert": [ins(4, "X-A"), rm(1, "X-A"), ins(4, "X-B")],
    "insert many": [
        ins(0, "A"), ins(3, "B"), rm(1, "A"), ins(3, "C"), ins(9, "D"), ins(8, "E"),
    ],
    "insert at minus one, twice": [ins(MINUS_ONE, "X-1"), ins(MINUS_ONE - 5, "X-2")],
    **{f"change number {n}": [chg(n, "X-T")] for n in (0, 1, 2, 3, 4, MOST, MINUS_ONE)},
    "change, other case": [chg(2, "x-t"), chg(1, "SUBJECT")],
    "change one too many, other case": [chg(4, "x-t")],
    "change what is not there": [chg(1, "X-N")],
    "change what is not there, number 7": [chg(7, "X-N")],
    "change what is not there, minus one": [chg(MINUS_ONE, "X-N")],
    "change to a blank": [chg(1, "X-T", " ")],
    "change Date": [chg(1, "date")],
    "change the second Date": [chg(2, "Date")],
    "change the second Date to a blank": [chg(2, "Date", " ")],
    "change Received, which is not seen": [chg(1, "Received")],
    "change the second Received": [chg(2, "Received")],
    "change Return-Path": [chg(1, "Return-Path")],
    "change Resent-From": [chg(1, "Resent-From")],
    "change part of a name": [chg(1, "X"), chg(1, "Sub")],
    "change a name with a blank": [chg(1, "X-T ")],
    "change a name with a colon": [chg(1, "Subject:"), rm(1, "Subject:")],
    **{f"delete number {n}": [rm(n, "X-T")] for n in (0, 1, 2, 3, 4, MINUS_ONE)},
    "delete what is not there": [rm(1, "X-N")],
    "delete Date": [rm(1, "Date")],
    "delete the second Date": [rm(2, "Date")],
    "delete Received, which is not seen": [rm(1, "Received")],
    "delete Return-Path": [rm(1, "Return-Path")],
    "delete Subject": [rm(1, "subject")],
    "delete all": [rm(1, name) for name in ("From", "To", "Subject", "Date", "Message-ID")],
    "delete twice": [rm(1, "X-T"), rm(1, "X-T")],
    "delete upwards": [rm(1, "X-T"), rm(2, "X-T"), rm(3, "X-T")],
    "delete downwards": [rm(3, "X-T"), rm(2, "X-T"), rm(1, "X-T")],
    "delete, change the first": [rm(1, "X-T"), chg(1, "X-T")],
    "delete, change the second": [rm(1, "X-T"), chg(2, "X-T")],
    "delete the last, change it": [rm(3, "X-T"), chg(3, "X-T")],
    "delete the last, change the next": [rm(3, "X-T"), chg(4, "X-T")],
    "delete, add": [rm(1, "X-T"), add("X-T", "4")],
    "delete all of a name, add": [rm(1, "X-T"), rm(2, "X-T"), rm(3, "X-T"), add("X-T", "4")],
    "delete Subject, add it": [rm(1, "Subject"), add("Subject", "v")],
    "delete Subject, add and change it": [
        rm(1, "Subject"), add("Subject", "v"), chg(1, "Subject"), chg(2, "Subject", "m"),
    ],
    "delete Date, add it": [rm(1, "Date"), add("Date", "2")],
    "delete Date, change the first": [rm(1, "Date"), chg(1, "Date")],
    "delete Date, change the second": [rm(1, "Date"), chg(2, "Date")],
    "delete Date, add it, insert": [rm(1, "Date"), add("Date", "2"), ins(3, "X-3", "")],
    "delete From and Message-ID, add them": [
        rm(1, "Message-ID"), rm(1, "From"), add("Message-id", "1"), add("from", "2"),
    ],
    **{f"delete, insert at {at}": [rm(1, "X-T"), ins(at, "X-N")] for at in (1, 6, 7, 8, 13, 14)},
    "delete the first, insert below it": [rm(1, "From"), ins(1, "X-1"), ins(2, "X-2")],
    "add, change the first": [add("X-T", "4"), chg(1, "X-T")],
    "add two, change the first": [add("X-N", "1"), add("X-N", "2"), chg(1, "X-N")],
    "add two, change the second": [add("X-N", "1"), add("X-N", "2"), chg(2, "X-N")],
    "Subject to and fro": [
        add("Subject", "2"), add("Subject", "3"), rm(2, "Subject"), add("Subject", "4"),
        chg(3, "Subject"),
    ],
    # Names and values that are none.
    **{
        f"value {value!r}": [add("X-N", value), chg(1, "Subject", value), ins(0, "X-0", value)]
        for value in (
            " v", "  v", "\tv", "v ", "a\n\tb", "a\n b\n\tc", "a\nb", "a\n", "a\n ", "\na", "\n a",
            "a\n\n b", "a\nb\n c", "a\n b\nc", "a\rb", "a\r", "a\x01\x7fb", "grüß", "gr\udcfc",
            "gr\udc80\udc9f\udcff", "v" * 900,
        )
    },
    "empty values": [add("X-N", ""), ins(0, "X-0", "")],
    "name with a blank": [add("X N", "v")],
    "name with a blank behind": [add("X-N ", "v"), add("X-T ", "v")],
    "name with a colon": [add("X:N", "v"), add("X-N:", "v")],
    "name with a blank before, last": [add(" X-N", "v")],
    "name not ASCII": [add("X-é", "v")],
    "name that is none, insert": [ins(3, "X N"), ins(2, "X-2"), ins(6, "X-6"), ins(4, "X-4")],
    "names that are none, insert": [ins(3, "X N"), ins(2, "N"), ins(7, "N")],
    "name that is none, change behind it": [add("X N", "v"), add("X-T", "v"), chg(4, "X-T")],
    "name with a blank before, on top": [ins(1, " X")],
    "name with a blank before, deleted": [add(" X", "v"), rm(3, "X-T")],
    "long Date": [add("Date", "v" * 3000)],
    "long value": [add("X-N", "v" * 3000)],
}  # fmt: skip

BARE = b"Subject: s\nX-T: 1\n\nHello\n"
#: Changes of a message without Date, From and Message-ID, which Sendmail makes in the end. (Postfix
#: makes them before its filters see the message.)
GENERATED: dict[str, Changes] = {
    "nothing": [],
    "add Date": [add("Date", "1")],
    "change Date": [chg(1, "Date")],
    "change the second Date": [chg(2, "Date")],
    "insert Date": [ins(0, "Date")],
    "insert Date, change both": [ins(0, "Date"), chg(1, "Date"), chg(2, "Date", "m")],
    "add From, change it": [add("From", "x"), chg(1, "From")],
    "add From, change the second": [add("From", "x"), chg(2, "From")],
    "change From, add another": [chg(1, "From"), add("From", "y")],
    "add From, delete it": [add("From", "x"), rm(1, "From")],
    "delete Date, add it": [rm(1, "Date"), add("Date", "1")],
    "delete Date, change it": [rm(1, "Date"), chg(1, "Date")],
    "insert among them": [ins(0, "X-0"), ins(3, "X-3"), ins(5, "X-5"), ins(7, "X-7")],
}

#: A message that has been sent on.
RESENT = MESSAGE.replace(
    b"From:",
    b"Resent-From: r@client.example\nResent-Date: Sat, 21 Nov 2026 12:00:00 +0000\n"
    b"Resent-Message-ID: <2@client.example>\nFrom:",
    1,
)
#: As it comes from elsewhere: more trace, odd spelling, folds.
ODD = (
    b"Received: from x by y;\n\tyesterday\nReceived: from z by x\nX-Odd : v\nX-Tab\t:v\n"
    b"X-Empty:\nX-Blank:  \nX-Fold:\n one\n\ttwo\n \nX-Latin: gr\xfc\xdf\n" + MESSAGE
)
OTHERS: dict[str, tuple[bytes, Changes]] = {
    "resent, add": (RESENT, [add("X-N", "v"), add("Resent-To", "x@y"), add("Resent-Date", "2")]),
    "resent, delete": (RESENT, [rm(1, "Resent-From"), add("Resent-From", "v")]),
    "odd, nothing": (ODD, []),
    "odd, change": (ODD, [chg(1, "X-Odd"), chg(1, "X-Tab"), chg(1, "X-Empty"), chg(1, "X-Fold")]),
    "odd, delete": (ODD, [rm(1, "X-Odd"), rm(1, "X-Blank"), rm(1, "X-Fold"), rm(1, "X-Latin")]),
    "odd, add": (ODD, [add("X-Odd", "2"), add("X-Fold", "a\n b")]),
    "odd, Received": (ODD, [chg(1, "Received"), rm(2, "Received"), add("Received", "m")]),
    "odd, insert": (ODD, [ins(at, f"X-{at}") for at in (0, 2, 5, 9, 14, 17)]),
    "no body": (MESSAGE.partition(b"\n\n")[0] + b"\n\n", [add("X-N", "v")]),
    "no body, a new one": (MESSAGE.partition(b"\n\n")[0] + b"\n\n", [ReplaceBody(b"new\r\n")]),
    "no empty line": (MESSAGE.partition(b"\n\n")[0] + b"\n", [add("X-N", "v")]),
    "no empty line, a new body": (MESSAGE.partition(b"\n\n")[0] + b"\n", [ReplaceBody(b"n\r\n")]),
    "a line that is no header": (
        MESSAGE.replace(b"\n\n", b"\nno header\nX: y\n\n", 1), [add("X-N", "v")],
    ),
    "a name that is not ASCII": (
        MESSAGE.replace(b"X-T: 3", b"X-\xe9: 3", 1), [add("X-N", "v"), chg(1, "X-é")],
    ),
}  # fmt: skip

#: Pieces of a new body.
BODIES: dict[str, tuple[bytes, ...]] = {
    "one": (b"new\r\n",),
    "two": (b"one\r\n", b"two\r\n"),
    "cut in a line": (b"on", b"e\r", b"\ntwo\r\n"),
    "empty": (b"",),
    "empty, then more": (b"", b"x\r\n"),
    "more, then empty": (b"x\r\n", b""),
    "no end of line": (b"one\r\ntwo",),
    "line feeds": (b"one\ntwo\n",),
    "line feeds and both": (b"one\ntwo\r\n\n\r\n",),
    "carriage returns": (b"a\rb\r\n\rc\r\n",),
    "one before the end of the line": (b"a\r\r\nb\r\n",),
    "one that ends a piece": (b"a\r", b"b\r\n"),
    "wrong way round": (b"a\n\rb\r\n",),
    "empty lines": (b"\r\n\r\n\r\n",),
    "dots": (b".\r\n..\r\n.x\r\n",),
    "NUL": (b"a\0b\r\n",),
    "8 bit": (b"gr\xfc\xdf\x80\xff\r\n",),
    "From": (b"From x\r\n>From y\r\n",),
    "long line": (b"x" * 5000 + b"\r\n",),
    "many pieces": tuple(b"%d\r\n" % number for number in range(200)),
    "large pieces": (b"0123456789abcde\r\n" * 3855, b"0123456789abcde\r\n" * 3855),
}

to = "<{}>".format
JUST_ONE, BOTH = (to(ONE),), (to(ONE), to(TWO))
# The first one, spelled otherwise.
LOUD, CAPITAL, MIXED = to("ONE@dest.example"), to("One@dest.example"), to("one@Dest.Example")


def plus(address: str, params: str | None = None) -> AddRecipient:
    """Return the change that adds a recipient."""
    return AddRecipient(address, params)


def minus(address: str) -> DeleteRecipient:
    """Return the change that deletes a recipient."""
    return DeleteRecipient(address)


#: Changes of recipients: what the client named, and what the filter does.
RECIPIENTS: dict[str, tuple[tuple[str, ...], Changes]] = {
    "add": (JUST_ONE, [plus(to(ADDED))]),
    "add without brackets": (JUST_ONE, [plus(ADDED)]),
    "add twice": (JUST_ONE, [plus(to(ADDED)), plus(to(ADDED))]),
    "add twice, other case": (JUST_ONE, [plus(to(ADDED)), plus(to("Added@Dest.example"))]),
    "add twice, with and without brackets": (JUST_ONE, [plus(ADDED), plus(to(ADDED))]),
    "add one of the client's": (JUST_ONE, [plus(to(ONE))]),
    "add one of the client's twice": (JUST_ONE, [plus(to(ONE)), plus(to(ONE))]),
    "add one of the client's, other case": (JUST_ONE, [plus(LOUD)]),
    "add one of the client's, other case of the domain": (JUST_ONE, [plus(MIXED)]),
    "add one of the client's with its ORCPT": (JUST_ONE, [plus(to(ONE), f"ORCPT=rfc822;{ONE}")]),
    "add one of the client's, and delete it": (BOTH, [plus(to(ONE)), minus(to(ONE))]),
    "add with NOTIFY": (JUST_ONE, [plus(to(ADDED), "NOTIFY=NEVER")]),
    "add with several": (JUST_ONE, [plus(to(ADDED), "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x@y")]),
    "add with none": (JUST_ONE, [plus(to(ADDED), "")]),
    "add twice, NOTIFY once": (JUST_ONE, [plus(to(ADDED), "NOTIFY=NEVER"), plus(to(ADDED))]),
    "add twice, ORCPT once": (JUST_ONE, [plus(to(ADDED)), plus(to(ADDED), "ORCPT=rfc822;x@y")]),
    "add the client's with NOTIFY": (JUST_ONE, [plus(to(ONE), "NOTIFY=NEVER")]),
    "add the client's that has NOTIFY": ((to(ONE) + " NOTIFY=NEVER",), [plus(to(ONE))]),
    "add the client's, other NOTIFY": (
        (to(ONE) + " NOTIFY=NEVER",),
        [plus(to(ONE), "NOTIFY=SUCCESS")],
    ),
    "add a quoted one without need": (JUST_ONE, [plus(to('"two"@dest.example')), minus(to(TWO))]),
    "add the client's with a phrase": (JUST_ONE, [plus(f"One <{ONE}>", "NOTIFY=NEVER")]),
    "add the client's with a comment": (JUST_ONE, [plus(f"{ONE} (One)", f"ORCPT=rfc822;{ONE}")]),
    "delete with a comment": (BOTH, [minus(f"{ONE} (One)"), minus(f'"x, y" <{TWO}>')]),
    "add nobody": (JUST_ONE, [plus(""), plus("<>")]),
    "delete": (BOTH, [minus(to(ONE))]),
    "delete without brackets": (BOTH, [minus(ONE)]),
    "delete with a phrase": (BOTH, [minus(f"One <{ONE}>")]),
    "delete with blanks": (BOTH, [minus(f" <{ONE}> ")]),
    "delete, other case": (BOTH, [minus(LOUD)]),
    "delete, other case of the domain": (BOTH, [minus(MIXED)]),
    "delete one that came in other case": ((MIXED, to(TWO)), [minus(to(ONE))]),
    "delete as it came in other case": ((MIXED, to(TWO)), [minus(MIXED)]),
    "delete the local part": (BOTH, [minus("<one>")]),
    "delete nobody": (BOTH, [minus(""), minus("<>"), minus(to(OTHER))]),
    "delete twice": (BOTH, [minus(to(ONE)), minus(to(ONE))]),
    "delete all": (BOTH, [minus(to(ONE)), minus(to(TWO))]),
    "delete, add again": (BOTH, [minus(to(ONE)), plus(to(ONE))]),
    "delete, add again twice": (BOTH, [minus(to(ONE)), plus(to(ONE)), plus(to(ONE))]),
    "delete, add, delete": (BOTH, [minus(to(ONE)), plus(to(ONE)), minus(to(ONE))]),
    "delete, add in other case": (BOTH, [minus(to(ONE)), plus(LOUD)]),
    "delete all, add others": (BOTH, [minus(to(ONE)), minus(to(TWO)), plus(to(ADDED))]),
    "add, delete": (JUST_ONE, [plus(to(ADDED)), minus(to(ADDED))]),
    "add, delete, add": (JUST_ONE, [plus(to(ADDED)), minus(to(ADDED)), plus(to(ADDED))]),
    "add twice, delete the second": (
        JUST_ONE,
        [plus(to(ADDED)), plus(to("ADDED@dest.example")), minus(to("ADDED@dest.example"))],
    ),
    "the client's twice": ((to(ONE), to(ONE), to(TWO)), []),
    "the client's twice, deleted": ((to(ONE), to(ONE), to(TWO)), [minus(to(ONE))]),
    "the client's twice, other case": ((to(ONE), CAPITAL, to("one@DEST.example")), []),
    "the client's twice, one deleted": ((to(ONE), CAPITAL), [minus(CAPITAL)]),
    "the client's twice, NOTIFY once": ((to(ONE), to(ONE) + " NOTIFY=NEVER"), []),
    "the client's twice, ORCPT once": ((to(ONE) + " ORCPT=rfc822;a@b", to(ONE), to(TWO)), []),
    "the client's twice, ORCPT once, deleted": (
        (to(ONE) + " ORCPT=rfc822;a@b", to(ONE), to(TWO)),
        [minus(to(ONE))],
    ),
    "add twice, delete in other case between": (
        JUST_ONE,
        [plus(to(ADDED)), minus(to("ADDED@dest.example")), plus(to(ADDED))],
    ),
    "delete in other case, add with ORCPT": (
        JUST_ONE,
        [minus(LOUD), plus(to(ONE), f"ORCPT=rfc822;{ONE}")],
    ),
    "delete one with NOTIFY, add again": (
        (to(ONE) + " NOTIFY=NEVER",),
        [minus(to(ONE)), plus(to(ONE))],
    ),
    "delete, add again with NOTIFY": (JUST_ONE, [minus(to(ONE)), plus(to(ONE), "NOTIFY=SUCCESS")]),
    "delete by ORCPT": ((to(ONE) + " ORCPT=rfc822;o@p", to(TWO)), [minus("<o@p>")]),
    "delete one with ORCPT": ((to(ONE) + " ORCPT=rfc822;o@p", to(TWO)), [minus(to(ONE))]),
    "delete a quoted one": ((to('"one"@dest.example'), to(TWO)), [minus(to(ONE))]),
    "delete quoted": (BOTH, [minus(to('"one"@dest.example'))]),
}

#: Changes of the sender: what the client said, and what the filter does.
SENDERS: dict[str, tuple[str, Changes]] = {
    "change": (to(SENDER), [ChangeSender("<n@e.example>")]),
    "change without brackets": (to(SENDER), [ChangeSender("n@e.example")]),
    "change, other case": (to(SENDER), [ChangeSender("<N@E.Example>")]),
    "change to nobody": (to(SENDER), [ChangeSender("<>")]),
    "change to nothing": (to(SENDER), [ChangeSender("")]),
    "change nobody": ("<>", [ChangeSender("<n@e.example>")]),
    "change twice": (to(SENDER), [ChangeSender("<n@e.example>"), ChangeSender("<m@e.example>")]),
    "change, then to nothing": (to(SENDER), [ChangeSender("<n@e.example>"), ChangeSender("")]),
    "change one with RET and ENVID": (
        to(SENDER) + " RET=HDRS ENVID=orig", [ChangeSender("<n@e.example>")],
    ),
    "change with RET and ENVID": (
        to(SENDER), [ChangeSender("<n@e.example>", "RET=HDRS ENVID=abc")],
    ),
    "change RET and ENVID": (
        to(SENDER) + " RET=HDRS ENVID=orig", [ChangeSender("<n@e.example>", "RET=FULL ENVID=abc")],
    ),
    "change ENVID": (
        to(SENDER) + " RET=HDRS ENVID=orig", [ChangeSender("<n@e.example>", "ENVID=abc")],
    ),
    "change RET": (
        to(SENDER) + " RET=HDRS ENVID=orig", [ChangeSender("<n@e.example>", "RET=FULL")],
    ),
    "change to no parameters": (
        to(SENDER) + " RET=HDRS ENVID=orig", [ChangeSender("<n@e.example>", "")],
    ),
    "change with SIZE": (to(SENDER) + " ENVID=orig", [ChangeSender("<n@e.example>", "SIZE=5")]),
    "change with what nobody knows": (to(SENDER), [ChangeSender("<n@e.example>", "FOO=1")]),
}  # fmt: skip

#: Two filters in a row: the second sees what the first did, and numbers go on.
PAIRS: dict[str, tuple[Changes, Changes]] = {
    "nothing": ([], []),
    "insert, insert": ([ins(0, "A")], [ins(0, "B"), ins(2, "C")]),
    "insert, insert below": ([ins(0, "X-0")], [ins(1, "X-1")]),
    "insert, change": ([ins(0, "X-0")], [chg(1, "X-0")]),
    "insert Received, delete it": (
        [ins(0, "Received"), ins(2, "X-2")], [ins(1, "X-3"), rm(1, "Received")],
    ),
    "insert Received, change it": ([ins(0, "Received"), ins(1, "Received")], [chg(2, "Received")]),
    "change Received, change it": ([chg(1, "Received")], [chg(1, "Received", "m")]),
    "delete, delete": ([rm(1, "X-T")], [rm(1, "X-T")]),
    "delete, change": ([rm(1, "X-T")], [chg(1, "X-T"), chg(3, "X-T", "m")]),
    "delete, add": ([rm(1, "X-T")], [add("X-T", "4"), add("X-T", "5")]),
    "delete two, change": ([rm(1, "X-T"), rm(3, "X-T")], [chg(2, "X-T"), chg(3, "X-T", "m")]),
    "delete two, delete": ([rm(1, "X-T"), rm(3, "X-T")], [rm(2, "X-T"), chg(2, "X-T")]),
    "delete two, add three": (
        [rm(1, "X-T"), rm(2, "X-T")], [add("X-T", "4"), add("X-T", "5"), add("X-T", "6")],
    ),
    "delete Message-ID, add it": ([rm(1, "Message-Id")], [add("Message-Id", "v")]),
    "delete Message-ID, change it": ([rm(1, "Message-Id")], [chg(1, "Message-Id")]),
    "delete, add other case": ([rm(1, "X-T")], [add("x-t", "")]),
    "add an empty Date, again": ([add("Date", "")], [add("Date", "")]),
    "delete Received, add it": (
        [ins(0, "Received", "1"), ins(3, "Received", "2"), rm(2, "Received")],
        [add("Received", "3"), chg(2, "Received")],
    ),
    "name with a blank behind, change": ([add("X-N ", "v")], [chg(1, "X-N"), chg(1, "X-N ")]),
    "delete From, change From": ([rm(1, "From")], [chg(1, "From")]),
    "delete and add Subject, change it": (
        [rm(1, "Subject"), add("Subject", "v")], [chg(1, "Subject"), chg(2, "Subject", "m")],
    ),
    "add Date, change it": ([add("Date", "1")], [chg(1, "Date")]),
    "delete and add Date, insert": (
        [rm(1, "From"), rm(1, "Date"), add("Date", "1")],
        [ins(9, "X-9"), ins(4, "X-4"), chg(1, "Date"), chg(2, "Date", "m")],
    ),
    "add Resent-To, change it": ([add("Resent-To", "1")], [chg(1, "Resent-To")]),
    "add values with blanks": (
        [add("X-N", "1"), add("X-N", ""), add("X-N", " 2")], [chg(2, "X-N")],
    ),
    "add a value that is not folded": ([add("X-N", "a\nb")], [add("X-N", "2")]),
    "add odd names": ([add("X Y", "1"), add("X:Y", "2")], [chg(1, "X"), chg(1, "X Y")]),
    "new body, seen": ([ReplaceBody(b"one\r\ntwo\r\n")], [add("X-N", "v")]),
    "new body without end, seen": ([ReplaceBody(b"one\r\ntwo")], [add("X-N", "v")]),
    "new body with line feeds, seen": ([ReplaceBody(b"one\ntwo\n\n")], [add("X-N", "v")]),
    "new body, new body": ([ReplaceBody(b"one\r\n")], [ReplaceBody(b"2"), ReplaceBody(b"\r\n")]),
    "empty body, seen": ([ReplaceBody(b"")], [add("X-N", "v")]),
    "recipients": (
        [AddRecipient(to(ADDED)), DeleteRecipient(to(ONE))],
        [AddRecipient(to(ADDED)), AddRecipient(to(ONE)), DeleteRecipient(to(TWO))],
    ),
    "sender": ([ChangeSender("<n@e.example>")], [ChangeSender("<m@e.example>", "ENVID=x")]),
    "all of it": (
        [ins(0, "X-0"), add("X-T", "4"), rm(2, "X-T"), ReplaceBody(b"new\r\n")],
        [chg(2, "X-T"), rm(1, "X-0"), ins(2, "X-2"), plus(to(ADDED)), add("Date", "1"), ASIDE],
    ),
}  # fmt: skip

#: What Postfix gives the message back for, to be tried again later.
FAULTS: dict[str, Changes] = {
    "body in pieces with others between": [
        ReplaceBody(b"1\r\n"), add("X-N", "v"), ReplaceBody(b"2\r\n"),
    ],
    "body in one piece between others": [
        add("X-N", "v"), ReplaceBody(b"1\r\n"), ReplaceBody(b"2\r\n"), add("X-M", "v"),
    ],
    "change without a name": [chg(1, "")],
    "delete without a name": [rm(1, "")],
    "add without a name": [add("X-A", "v"), add("", "v")],
}  # fmt: skip


def table() -> Iterator[Case]:
    """Yield all rows."""
    for name, changes in HEADERS.items():
        yield Case(f"header: {name}", (changes,))
    for name in ("add", "add Date", "insert at 0", "change number 1", "empty values"):
        yield Case(f"leading space: {name}", (HEADERS[name],), leading_space=True)
    for value in (" v", "\tv", "a\n b", "  "):
        changes = [add("X-N", value), chg(1, "Subject", value), ins(0, "X-0", value)]
        yield Case(f"leading space: value {value!r}", (changes,), leading_space=True)
    for name, changes in GENERATED.items():
        yield Case(f"generated: {name}", (changes,), BARE, mtas=("sendmail",))
    for name, (content, changes) in OTHERS.items():
        yield Case(f"message: {name}", (changes,), content)
    for name, pieces in BODIES.items():
        yield Case(f"body: {name}", ([ReplaceBody(piece) for piece in pieces],))
    for name, (rcpts, changes) in RECIPIENTS.items():
        # Delivered, and in quarantine, where Postfix shows more of the envelope.
        yield Case(f"recipients: {name}", (changes,), rcpts=rcpts)
        yield Case(f"recipients, aside: {name}", ([*changes, ASIDE],), rcpts=rcpts)
    for name, (mail, changes) in SENDERS.items():
        yield Case(f"sender: {name}", (changes,), mail=mail)
        yield Case(f"sender, aside: {name}", ([*changes, ASIDE],), mail=mail)
    for name, (first, second) in PAIRS.items():
        yield Case(f"two filters: {name}", (first, second))
    for name, changes in FAULTS.items():
        yield Case(f"fault: {name}", (changes,))
    yield Case("quarantine", ([ASIDE],))
    yield Case("quarantine, then changes", ([ASIDE, add("X-N", "v"), plus(to(ADDED))],))
    yield Case("quarantine twice", ([ASIDE, Quarantine("again")],))


CASES = {case.id: case for case in table()}


# -- what the rules do not know --------------------------------------------------------------------

DIFFERENT: dict[str, Case] = {
    "Sendmail writes lists of addresses anew, in one line where they fit": Case(
        "lists", ([add("To", "a@b.example,\n\tc@d.example")],), mtas=("sendmail",)
    ),
    "Sendmail looks whether a local recipient exists": Case(
        "local", ([plus("nosuch")],), mtas=("sendmail",)
    ),
    "Sendmail says what is no SMTP where it leaves a recipient out for its parameters": Case(
        "parameters", ([plus(to(ADDED), "FOO=1")],), mtas=("sendmail",)
    ),
    "Sendmail finds no header of the most negative number": Case(
        "most negative", ([chg(MOST + 1, "X-T")],), mtas=("sendmail",)
    ),
    "Sendmail loses or doubles a carriage return that ends a piece of a new body": Case(
        "carriage return", ([ReplaceBody(b"a\r"), ReplaceBody(b"\r\n")], []), mtas=("sendmail",)
    ),
    "Postfix shows its Received header below what is inserted above and is none": Case(
        "above all", ([ins(0, "X N")], []), mtas=("postfix",)
    ),
    "Postfix takes a header without a name above all for one of its delivery agent's": Case(
        "above all, folded", ([ins(0, " X")],), mtas=("postfix",)
    ),
    "Postfix has a way of its own with routes": Case(
        "route", ([minus(f"<@a,@b:{ONE}>")],), mtas=("postfix",)
    ),
    "Postfix completes an address without a domain": Case(
        "domain of a recipient", ([plus("two"), ASIDE],), mtas=("postfix",)
    ),
    "Postfix completes a sender without a domain": Case(
        "domain of the sender", ([ChangeSender("n")],), mtas=("postfix",)
    ),
    "Postfix makes what it can of an address whose brackets do not match": Case(
        "brackets", ([plus(f"<{ADDED}"), ASIDE],), mtas=("postfix",)
    ),
    "Postfix asks no filter behind one that puts the message aside": Case(
        "aside, then another filter", ([ASIDE], [add("X-N", "v")]), mtas=("postfix",)
    ),
    "Postfix adds Date, From and Message-ID for its own clients before its filters see them": Case(
        "generated", ([],), BARE, mtas=("postfix",)
    ),
    "Postfix keeps the line of a mailbox file as a header": Case(
        "mailbox", ([],), b"From a@b Sat Nov 21\n" + MESSAGE, mtas=("postfix",)
    ),
    "Postfix leaves out Return-Path, Bcc and Content-Length before its filters see them": Case(
        "left out", ([],), b"Bcc: x@y\n" + MESSAGE, mtas=("postfix",)
    ),
}
"""What the rules do not know, and a row that shows it."""

# -- random rows -----------------------------------------------------------------------------------

NAMES = (
    "X-T", "x-t", "X-N", "X-M", "Subject", "subject", "Date", "From", "Message-Id", "To",
    "Received", "Full-Name", "Resent-To", "Resent-Date", "Comments",
)  # fmt: skip
#: Those that hold addresses.
LISTS = {"From", "To", "Resent-To"}
VALUES = ("1", "2", "", " ", " v", "a\n\tb", "a\nb", "a\n", "grüß", "\udcff", "x" * 200)
ADDRESSES = (
    to(ONE), ONE, to(TWO), to(ADDED), to(OTHER), to("ONE@dest.example"), to("other@Dest.Example"),
)  # fmt: skip
LINES = (b"a\r\n", b"b", b"\n", b"\r\n", b".\r\n", b"", b"\xff\r\n", b"c\rd")


def change(chance: random.Random) -> Modification:
    """Return a change of anything but the body."""
    kind, name = chance.randrange(12), chance.choice(NAMES)
    value, number = chance.choice(VALUES), chance.choice((0, 1, 1, 2, 3, 4, 7))
    if name in LISTS:
        value = "".join(value.split())  # Sendmail writes lists of addresses anew
    if kind < 2:
        return AddHeader(name, value)
    if kind < 4:
        return InsertHeader(chance.choice((*range(18), MANY)), name, value)
    if kind < 6:
        return ChangeHeader(number, name, value) if value else DeleteHeader(number, name)
    if kind < 8:
        return DeleteHeader(number, name)
    if kind < 10:
        address = chance.choice(ADDRESSES)
        params = chance.choice((None, None, "", "NOTIFY=NEVER", "NOTIFY=SUCCESS,DELAY"))
        return AddRecipient(address, params)
    if kind < 11:
        return DeleteRecipient(chance.choice(ADDRESSES))
    return ChangeSender(
        chance.choice(("<n@e.example>", "m@e.example", "<>")),
        chance.choice((None, "", "ENVID=new", "RET=HDRS", "RET=FULL ENVID=other")),
    )


def changes(chance: random.Random) -> list[Modification]:
    """Return the changes of one filter."""
    made = [change(chance) for _ in range(chance.randrange(9))]
    if chance.random() < 0.3:
        at = chance.randrange(len(made) + 1)
        made[at:at] = [ReplaceBody(chance.choice(LINES)) for _ in range(chance.randrange(1, 6))]
    return made


def drawn(seed: int) -> Case:
    """Return the random row of this seed: one filter, or two, and sometimes quarantine."""
    chance = random.Random(seed)
    filters = [changes(chance) for _ in range(chance.choice((1, 1, 2)))]
    if chance.random() < 0.5:
        filters[-1].append(ASIDE)
    mail = to(SENDER) + chance.choice(("", "", " RET=HDRS", " RET=FULL ENVID=orig"))
    rcpts = chance.choice(
        (
            (to(ONE),),
            (to(ONE), to(TWO)),
            (to(TWO) + " NOTIFY=NEVER", to(ONE), to(ONE)),
            (to(ONE), to("One@dest.example"), to(TWO) + " NOTIFY=SUCCESS,FAILURE"),
        )
    )
    content = chance.choice((MESSAGE, MESSAGE, RESENT, ODD))
    return Case(
        f"seed {seed}",
        tuple(filters),
        content,
        mail,
        rcpts,
        leading_space=chance.random() < 0.2,
    )
