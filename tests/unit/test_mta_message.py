"""Messages, their bytes, and what becomes of them (wire spec 1.3 and 5)."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from Milter import mta
from Milter._heldmessage import RULES, HeldMessage, server_fault
from Milter._message import shown

RAW = (
    b"Received: from a\r\n\tby b;\r\n now\r\n"
    b"Subject:hi\r\n"
    b"X-Odd : \xff \r\n"
    b"subject:  two blanks\r\n"
    b"Empty:\r\n"
    b"\r\n"
    b"First\r\n"
    b"\r\n"
    b"last\r\n"
)
HEADERS = [
    (b"Received", b" from a\n\tby b;\n now"),
    (b"Subject", b"hi"),
    (b"X-Odd ", b" \xff "),
    (b"subject", b"  two blanks"),
    (b"Empty", b""),
]


def simple(*headers: str, recipients: tuple[str, ...] = ("<c@d>",)) -> mta.Message:
    """A message with these headers, NAME:VALUE each."""
    text = "".join(f"{header}\n" for header in headers) + "\nbody\n"
    return mta.Message.from_bytes(text.encode(), "<a@b>", recipients)


def lines(message: mta.Message) -> list[str]:
    """The headers, NAME:VALUE each."""
    return [(header.name + b":" + header.value).decode() for header in message.headers]


# -- bytes ---------------------------------------------------------------------------------------


def test_headers_and_body() -> None:
    """Names, values, blanks and folding are kept; folds are LF and the blank that was there."""
    message = mta.Message.from_bytes(RAW)
    assert HEADERS == message.headers
    assert b"First\r\n\r\nlast\r\n" == message.body
    assert ("<>", [], []) == (message.sender, message.sender_params, message.recipients)


def test_bytes_come_back() -> None:
    """A message with CR LF comes back as it was, and so does one with LF where that is wanted."""
    assert RAW == mta.Message.from_bytes(RAW).as_bytes()
    unix = RAW.replace(b"\r\n", b"\n")
    assert RAW == mta.Message.from_bytes(unix).as_bytes()
    assert unix == mta.Message.from_bytes(unix).as_bytes(b"\n")
    assert unix == mta.Message.from_bytes(RAW).as_bytes(b"\n")


@pytest.mark.parametrize(
    ("data", "headers", "body"),
    [
        (b"", [], b""),
        (b"\n", [], b""),
        (b"\r\n", [], b""),
        (b"\nx", [], b"x"),
        (b"A: b", [(b"A", b" b")], b""),
        (b"A: b\n", [(b"A", b" b")], b""),
        (b"A: b\n\n", [(b"A", b" b")], b""),
        (b"A: b\n\n\n", [(b"A", b" b")], b"\r\n"),
        (b"A: b\n\nx\ry\n", [(b"A", b" b")], b"x\ry\r\n"),
        (b"A: b\n\nx\n\r\ny", [(b"A", b" b")], b"x\r\n\r\ny"),
        # A line that is no header ends them, as at an MTA, and belongs to the body.
        (b"A: b\nno header\nC: d\n", [(b"A", b" b")], b"no header\r\nC: d\r\n"),
        (b" folded nothing\nA: b\n", [], b" folded nothing\r\nA: b\r\n"),
        (b": no name\n", [], b": no name\r\n"),
        (b"a b: c\n", [], b"a b: c\r\n"),
        (b"A: b\nX-\xe9: c\n", [(b"A", b" b")], b"X-\xe9: c\r\n"),
        # The line of a mailbox file.
        (b"From a@b Fri Nov 20\nA: b\n\nx", [(b"A", b" b")], b"x"),
        (b"From a@b", [], b""),
        (b"From: a@b\n", [(b"From", b" a@b")], b""),
        # Blank lines that are not empty go on with the header.
        (b"A: b\n \nC:\n", [(b"A", b" b\n "), (b"C", b"")], b""),
        (b"A:b\rc\n", [(b"A", b"b\rc")], b""),
    ],
)
def test_odd_messages(data: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Where headers end, and what counts as one."""
    message = mta.Message.from_bytes(data)
    assert (headers, body) == (message.headers, message.body)


def test_envelope() -> None:
    """Sender and recipients are given beside the bytes, recipients with parameters or without."""
    to = mta.Recipient("<c@d>", ("NOTIFY=NEVER",))
    message = mta.Message.from_bytes(b"", "<a@b>", [to, "e@f"], ["SIZE=1"])
    assert [to, mta.Recipient("e@f", ())] == message.recipients
    assert ("<a@b>", ["SIZE=1"]) == (message.sender, message.sender_params)


def test_from_file(tmp_path: Path) -> None:
    """A file is read as its bytes are; one that is not there is an OSError."""
    path = tmp_path / "message.eml"
    path.write_bytes(RAW)
    message = mta.Message.from_file(path, "<a@b>", ["<c@d>"], ["SIZE=1"])
    assert mta.Message.from_bytes(RAW, "<a@b>", ["<c@d>"], ["SIZE=1"]) == message
    assert message == mta.Message.from_file(str(path), "<a@b>", ["<c@d>"], ["SIZE=1"])
    with pytest.raises(FileNotFoundError):
        mta.Message.from_file(tmp_path / "none.eml")


def test_get_all() -> None:
    """All values of a name, without regard to case or to blanks before the colon."""
    message = mta.Message.from_bytes(RAW)
    assert [b"hi", b" two blanks"] == message.get_all("SUBJECT")
    assert [b"\xff "] == message.get_all(b"x-odd")
    assert [] == message.get_all("None")


NAMES = st.text(
    st.characters(codec="ascii", min_codepoint=33, exclude_characters=":\x7f"), min_size=1
).map(str.encode)
LINES = st.binary().map(lambda line: line.replace(b"\n", b"").rstrip(b"\r"))
FOLDED = st.lists(LINES, min_size=1, max_size=3).map(lambda parts: b"\n\t".join(parts))


@given(st.lists(st.tuples(NAMES, FOLDED)), st.binary())
def test_any_message_comes_back(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Whatever the headers' bytes and whatever the body, it is read as it was written."""
    head = b"".join(name + b":" + value + b"\n" for name, value in headers)
    if head.startswith(b"From "):
        return
    message = mta.Message.from_bytes(head.replace(b"\n", b"\r\n") + b"\r\n" + body)
    assert headers == message.headers
    assert message == mta.Message.from_bytes(message.as_bytes())
    assert message.body.replace(b"\r\n", b"\n") == body.replace(b"\r\n", b"\n")


@given(st.binary())
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Any bytes are a message, and none is lost but the lines' ends."""
    message = mta.Message.from_bytes(data)
    assert message == mta.Message.from_bytes(message.as_bytes())


# -- changes -------------------------------------------------------------------------------------

AHEAD = ["X-A: 1", "B: 2", "x-a: 3"]

HEADER_CHANGES: list[tuple[str, list[mta.Modification], list[str]]] = [
    ("add", [mta.AddHeader("N", "v")], [*AHEAD, "N: v"]),
    ("add twice", [mta.AddHeader("N", "v"), mta.AddHeader("N", "w")], [*AHEAD, "N: v", "N: w"]),
    ("insert at 0", [mta.InsertHeader(0, "N", "v")], ["N: v", *AHEAD]),
    ("insert at 1", [mta.InsertHeader(1, "N", "v")], ["X-A: 1", "N: v", "B: 2", "x-a: 3"]),
    ("insert at the end", [mta.InsertHeader(3, "N", "v")], [*AHEAD, "N: v"]),
    ("insert beyond", [mta.InsertHeader(2147483647, "N", "v")], [*AHEAD, "N: v"]),
    ("change the first", [mta.ChangeHeader(1, "X-A", "v")], ["X-A: v", "B: 2", "x-a: 3"]),
    ("change number 0", [mta.ChangeHeader(0, "X-A", "v")], ["X-A: v", "B: 2", "x-a: 3"]),
    ("change the second", [mta.ChangeHeader(2, "X-A", "v")], ["X-A: 1", "B: 2", "X-A: v"]),
    ("change one too many", [mta.ChangeHeader(3, "X-A", "v")], [*AHEAD, "X-A: v"]),
    ("change what is not there", [mta.ChangeHeader(1, "N", "v")], [*AHEAD, "N: v"]),
    ("delete the first", [mta.DeleteHeader(1, "x-A")], ["B: 2", "x-a: 3"]),
    ("delete number 0", [mta.DeleteHeader(0, "x-A")], ["B: 2", "x-a: 3"]),
    ("delete the second", [mta.DeleteHeader(2, "X-A")], ["X-A: 1", "B: 2"]),
    ("delete one too many", [mta.DeleteHeader(3, "X-A")], AHEAD),
    ("delete what is not there", [mta.DeleteHeader(1, "N")], AHEAD),
    ("delete twice", [mta.DeleteHeader(1, "X-A"), mta.DeleteHeader(1, "X-A")], ["B: 2"]),
    (
        "delete from the end",
        [mta.DeleteHeader(2, "X-A"), mta.DeleteHeader(1, "X-A")],
        ["B: 2"],
    ),
    ("what was added can be changed", [mta.AddHeader("N", "v"), mta.ChangeHeader(1, "N", "w")],
     [*AHEAD, "N: w"]),
    ("values are taken as they are", [mta.AddHeader("N", " v\n\tw")], [*AHEAD, "N:  v\n\tw"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"), [row[1:] for row in HEADER_CHANGES], ids=[r[0] for r in HEADER_CHANGES]
)
def test_header_changes(changes: list[mta.Modification], expected: list[str]) -> None:
    """Adding, inserting (from 0), changing and deleting (from 1, by name) as in wire spec 5."""
    message = simple(*AHEAD)
    assert expected == lines(message.apply(changes))
    assert AHEAD == lines(message)


def test_leading_space() -> None:
    """With HDR_LEADSPC the MTA puts no blank before a new value (2.4)."""
    changes: list[mta.Modification] = [
        mta.AddHeader("N", "v"),
        mta.InsertHeader(0, "M", " v"),
        mta.ChangeHeader(1, "B", "\tw"),
    ]
    assert ["M: v", "X-A: 1", "B:\tw", "x-a: 3", "N:v"] == lines(
        simple(*AHEAD).apply(changes, leading_space=True)
    )


def test_numbers_after_a_deletion() -> None:
    """Postfix counts anew after a deletion, Sendmail goes on counting what it deleted (5)."""
    changes: list[mta.Modification] = [
        mta.DeleteHeader(1, "X-A"),
        mta.ChangeHeader(2, "X-A", "v"),
    ]
    assert ["B: 2", "x-a: 3", "X-A: v"] == lines(simple(*AHEAD).apply(changes))
    assert ["B: 2", "X-A: v"] == lines(simple(*AHEAD).apply(changes, renumber=False))
    insert: list[mta.Modification] = [mta.DeleteHeader(1, "X-A"), mta.InsertHeader(1, "N", "v")]
    assert ["B: 2", "N: v", "x-a: 3"] == lines(simple(*AHEAD).apply(insert))
    assert ["N: v", "B: 2", "x-a: 3"] == lines(simple(*AHEAD).apply(insert, renumber=False))


def test_body() -> None:
    """The pieces of a new body are put together; one that is empty empties it; else it stays."""
    message = simple()
    assert b"body\r\n" == message.apply([mta.Quarantine("x")]).body
    pieces: list[mta.Modification] = [mta.ReplaceBody(b"1"), mta.ReplaceBody(b"2\r\n")]
    assert b"12\r\n" == message.apply(pieces).body
    assert b"" == message.apply([mta.ReplaceBody(b"")]).body


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (mta.AddRecipient("<r@e>"), ["<c@d>", "<x@y>", "<r@e>"]),
        (mta.AddRecipient("r@e"), ["<c@d>", "<x@y>", "r@e"]),
        (mta.AddRecipient("c@D"), ["<c@d>", "<x@y>"]),
        (mta.AddRecipient("C@d"), ["<c@d>", "<x@y>", "C@d"]),
        (mta.DeleteRecipient("<c@d>"), ["<x@y>"]),
        (mta.DeleteRecipient("c@D"), ["<x@y>"]),
        (mta.DeleteRecipient("<C@d>"), ["<c@d>", "<x@y>"]),
        (mta.DeleteRecipient("<n@e>"), ["<c@d>", "<x@y>"]),
        (mta.DeleteRecipient("c"), ["<c@d>", "<x@y>"]),
    ],
)
def test_recipients(change: mta.Modification, expected: list[str]) -> None:
    """Recipients are told apart without brackets, the domain without regard to case."""
    message = simple(recipients=("<c@d>", "<x@y>"))
    assert expected == [to.address for to in message.apply([change]).recipients]
    assert ["<c@d>", "<x@y>"] == [to.address for to in message.recipients]


def test_recipient_parameters() -> None:
    """Parameters of an added recipient are separated by blanks."""
    after = simple().apply([mta.AddRecipient("<r@e>", "NOTIFY=NEVER  ORCPT=x")])
    assert mta.Recipient("<r@e>", ("NOTIFY=NEVER", "ORCPT=x")) == after.recipients[-1]


def test_sender() -> None:
    """The sender changes; its parameters only if new ones are given."""
    message = mta.Message.from_bytes(b"", "<a@b>", ["<c@d>"], ["SIZE=1"])
    after = message.apply([mta.ChangeSender("<n@e>")])
    assert ("<n@e>", ["SIZE=1"]) == (after.sender, after.sender_params)
    after = message.apply([mta.ChangeSender("<n@e>", "RET=HDRS ENVID=x")])
    assert ("<n@e>", ["RET=HDRS", "ENVID=x"]) == (after.sender, after.sender_params)
    after = message.apply([mta.ChangeSender("<>", "")])
    assert ("<>", []) == (after.sender, after.sender_params)
    assert ("<a@b>", ["SIZE=1"]) == (message.sender, message.sender_params)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (mta.AddHeader("X", "a\n\tb"), r"add header X: a\n\tb"),
        (mta.InsertHeader(0, "X", "v"), "insert header at 0: X: v"),
        (mta.ChangeHeader(2, "X", "\x1b[31m"), r"change header 2 of X: \x1b[31m"),
        (mta.DeleteHeader(1, "X"), "delete header 1 of X"),
        (mta.ReplaceBody(b"abc"), "replace body: 3 bytes"),
        (mta.AddRecipient("<r@e>"), "add recipient <r@e>"),
        (mta.AddRecipient("<r@e>", "A=1"), "add recipient <r@e> A=1"),
        (mta.DeleteRecipient("<r@e>"), "delete recipient <r@e>"),
        (mta.ChangeSender("<n@e>", ""), "change sender <n@e>"),
        (mta.Quarantine("wh\udcffy é"), "quarantine: wh\\udcffy é"),
    ],
)
def test_shown(change: mta.Modification, text: str) -> None:
    """A change is one line for a terminal, nothing in which the terminal could obey."""
    assert text == str(change)


CHANGES: list[mta.Modification] = [
    mta.AddHeader("X", "v"),
    mta.InsertHeader(0, "X", "v"),
    mta.ChangeHeader(1, "X", "v"),
    mta.DeleteHeader(1, "X"),
    mta.ReplaceBody(b"x"),
    mta.AddRecipient("<r@e>"),
    mta.DeleteRecipient("<r@e>"),
    mta.ChangeSender("<n@e>"),
    mta.Quarantine("why"),
]


def test_changes_are_values() -> None:
    """Changes are compared and hashed by what they say, and stay as they are."""
    assert len(CHANGES) == len({*CHANGES, *(copy.copy(change) for change in CHANGES)})
    for change in CHANGES:
        for field in dataclasses.fields(change):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(change, field.name, None)


def test_odd_addresses() -> None:
    """Only brackets on both sides are taken off; without a domain, case matters."""
    sent = simple(recipients=("<c@d", "Local"))
    assert sent.recipients == sent.apply([mta.DeleteRecipient("c@d")]).recipients
    assert sent.recipients == sent.apply([mta.DeleteRecipient("local")]).recipients
    assert sent.recipients == sent.apply([mta.DeleteRecipient("@Local")]).recipients
    assert 1 == len(sent.apply([mta.DeleteRecipient("<Local>")]).recipients)


@given(st.text())
def test_shown_is_printable(text: str) -> None:
    """Whatever a filter says, what is shown of it is printable."""
    assert shown(text).isprintable()


# -- by the rules of a mail server -----------------------------------------------------------------
# What Postfix 3.7.11 and Sendmail 8.17.1.9 stored, written down; tests/integration/test_outcome.py
# asks them again.

#: A word for each header of the message; R is the server's own Received header.
WORDS = {
    "R": "Received: R", "F": "From: f", "T": "To: t", "S": "Subject: s", "D": "Date: d",
    "M": "Message-ID: m", "1": "X-T: 1", "2": "X-T: 2", "3": "X-T: 3",
}  # fmt: skip
WHOLE = "R F T S D M 1 2 3"


def changed(rules: str, *filters: list[mta.Modification], words: str = WHOLE, **more: bool) -> str:
    """The headers after these changes of filters in a row, in words where there are some."""
    message = simple(*(WORDS[word] for word in words.split()[1:]))
    held = HeldMessage(message, rules)
    for changes in filters:
        held.change(changes, **more)
    back = {line: word for word, line in WORDS.items()}
    return " ".join(back.get(line, line) for line in lines(held.stored("R")))


def add(name: str, value: str) -> mta.Modification:
    """A header is added."""
    return mta.AddHeader(name, value)


def insert(index: int, name: str = "N") -> mta.Modification:
    """A header is inserted."""
    return mta.InsertHeader(index, name, "v")


def change(number: int, name: str, value: str = "n") -> mta.Modification:
    """A header is changed."""
    return mta.ChangeHeader(number, name, value)


def delete(number: int, name: str) -> mta.Modification:
    """A header is deleted."""
    return mta.DeleteHeader(number, name)


BY_RULES: list[tuple[list[mta.Modification], str, str]] = [
    ([], WHOLE, WHOLE),
    # Where an added header goes: Postfix has one place, Sendmail that of the first of its name, or
    # the one that it would have put it itself.
    ([add("N", "v")], "R F T S D M 1 2 3 N: v", "R F T S D M 1 2 3 N: v"),
    ([add("x-t", "v")], "R F T S D M 1 2 3 x-t: v", "R F T S D M x-t: v 1 2 3"),
    ([add("Date", "v")], "R F T S D M 1 2 3 Date: v", "R Date: v F T S D M 1 2 3"),
    ([add("message-id", "v")], "R F T S D M 1 2 3 message-id: v",
     "R Message-Id: v F T S D M 1 2 3"),
    ([add("Received", "v")], "R F T S D M 1 2 3 Received: v", "Received: v R F T S D M 1 2 3"),
    ([add("Return-Path", "v")], "R F T S D M 1 2 3 Return-Path: v",
     "Return-Path: v R F T S D M 1 2 3"),
    ([add("Date", "v"), add("Date", "w")], "R F T S D M 1 2 3 Date: v Date: w",
     "R Date: w Date: v F T S D M 1 2 3"),
    ([add("Date", "")], "R F T S D M 1 2 3 Date: ", WHOLE),
    ([add("N", "")], "R F T S D M 1 2 3 N: ", "R F T S D M 1 2 3 N: "),
    ([add("Resent-To", "v")], "R F T S D M 1 2 3 Resent-To: v", WHOLE),
    ([add("Resent-Else", "v")], "R F T S D M 1 2 3 Resent-Else: v",
     "R F T S D M 1 2 3 Resent-Else: v"),
    ([add("", "v")], "R F T S D M 1 2 3 : v", WHOLE),
    # What is counted for an inserted one: at Sendmail seven places that nobody sees, too.
    ([insert(0)], "N: v R F T S D M 1 2 3", "N: v R F T S D M 1 2 3"),
    ([insert(1)], "R N: v F T S D M 1 2 3", "R N: v F T S D M 1 2 3"),
    ([insert(2)], "R F N: v T S D M 1 2 3", "R N: v F T S D M 1 2 3"),
    ([insert(8)], "R F T S D M 1 2 N: v 3", "R N: v F T S D M 1 2 3"),
    ([insert(9)], "R F T S D M 1 2 3 N: v", "R F N: v T S D M 1 2 3"),
    ([insert(16)], "R F T S D M 1 2 3 N: v", "R F T S D M 1 2 3 N: v"),
    ([insert(4294967295)], "R F T S D M 1 2 3 N: v", "N: v R F T S D M 1 2 3"),
    ([delete(1, "From"), insert(9)], "R T S D M 1 2 3 N: v",
     "R N: v T S D M 1 2 3"),
    # The server's own Received header is nobody's to change.
    ([change(1, "Received")], "R F T S D M 1 2 3 Received: n", "Received: n R F T S D M 1 2 3"),
    ([delete(1, "Received")], WHOLE, WHOLE),
    ([insert(0, "Received"), change(1, "Received")], "Received: n R F T S D M 1 2 3",
     "Received: n R F T S D M 1 2 3"),
    # What is counted for a changed one.
    ([change(2, "x-t")], "R F T S D M 1 x-t: n 3", "R F T S D M 1 X-T: n 3"),
    ([change(4, "x-t")], "R F T S D M 1 2 3 x-t: n", "R F T S D M x-t: n 1 2 3"),
    ([change(2, "Date")], "R F T S D M 1 2 3 Date: n", "R Date: n F T S D M 1 2 3"),
    ([change(4294967295, "X-T")], "R F T S D M 1 2 3 X-T: n", "R F T S D M X-T: n 2 3"),
    ([add("X-T", "v"), change(1, "X-T")], "R F T S D M X-T: n 2 3 X-T: v",
     "R F T S D M X-T: n 1 2 3"),
    ([delete(1, "X-T"), change(2, "X-T")], "R F T S D M 2 X-T: n", "R F T S D M X-T: n 3"),
    ([delete(1, "X-T"), change(1, "X-T")], "R F T S D M X-T: n 3", "R F T S D M X-T: n 2 3"),
    ([delete(1, "X-T"), delete(1, "X-T")], "R F T S D M 3", "R F T S D M 2 3"),
    ([delete(3, "X-T"), change(4, "X-T")], "R F T S D M 1 2 X-T: n", "R F T S D M X-T: n 1 2"),
    ([change(1, "X-T ")], "R F T S D M 1 2 3 X-T : n", "R F T S D M 1 2 3 X-T : n"),
    ([change(1, "Subject:"), delete(1, "Subject:")], "R F T S D M 1 2 3 Subject:: n", WHOLE),
    # Names that are none: at Postfix what stands behind them is no header any more, either.
    ([insert(3, "X N"), insert(2), insert(7)], "R F N: v T X N: v S D M 1 2 3 N: v",
     "R N: v X N: v N: v F T S D M 1 2 3"),
    ([add("X N", "v"), add("X-T", "v"), change(4, "X-T")],
     "R F T S D M 1 2 3 X N: v X-T: v X-T: n", "R F T S D M X-T: v 1 2 X-T: n X N: v"),
    ([insert(1, " X")], "Received: R\n X: v F T S D M 1 2 3", "R  X: v F T S D M 1 2 3"),
    ([add(" X", "v"), delete(3, "X-T")], "R F T S D M 1 2", "R F T S D M 1 2  X: v"),
    # Sendmail cuts what stands in the place of a header of its own.
    ([add("Date", "x" * 3000)], "R F T S D M 1 2 3 Date: " + "x" * 3000,
     "R Date: " + "x" * 2046 + " F T S D M 1 2 3"),
    # Line feeds that fold nothing.
    ([add("N", "a\nb")], "R F T S D M 1 2 3 N: a\n\tb", "R F T S D M 1 2 3 N: a b"),
    ([add("N", "a\n b\nc")], "R F T S D M 1 2 3 N: a\n b\n\tc", "R F T S D M 1 2 3 N: a  b c"),
    ([add("N", "a\n b")], "R F T S D M 1 2 3 N: a\n b", "R F T S D M 1 2 3 N: a\n b"),
    ([add("N", "a\n")], "R F T S D M 1 2 3 N: a\n\t", "R F T S D M 1 2 3 N: a "),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "postfix", "sendmail"), BY_RULES)
def test_headers_by_rules(changes: list[mta.Modification], postfix: str, sendmail: str) -> None:
    """Headers are where each mail server has them after the changes of one filter."""
    assert postfix == changed("postfix", changes)
    assert sendmail == changed("sendmail", changes)


BY_RULES_IN_A_ROW: list[tuple[list[mta.Modification], list[mta.Modification], str, str]] = [
    ([insert(0)], [insert(1, "O")], "N: v O: v R F T S D M 1 2 3", "N: v O: v R F T S D M 1 2 3"),
    # What a filter deleted has no number for the next one, but at Sendmail a place.
    ([delete(1, "X-T")], [delete(1, "X-T")], "R F T S D M 3", "R F T S D M 3"),
    ([delete(1, "X-T")], [add("x-t", "v")], "R F T S D M 2 3 x-t: v", "R F T S D M X-T: v 2 3"),
    ([delete(1, "X-T"), delete(3, "X-T")], [change(2, "X-T")], "R F T S D M 2 X-T: n",
     "R F T S D M 2 X-T: n"),
    ([delete(1, "Message-ID")], [change(1, "Message-Id")], "R F T S D 1 2 3 Message-Id: n",
     "R F T S D Message-ID: n 1 2 3"),
    ([insert(1, "Received"), delete(1, "Received")], [add("Received", "w")],
     "R F T S D M 1 2 3 Received: w", "Received: w R F T S D M 1 2 3"),
    ([delete(1, "Message-ID")], [add("Message-Id", "v")], "R F T S D 1 2 3 Message-Id: v",
     "R Message-Id: v F T S D 1 2 3"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second", "postfix", "sendmail"), BY_RULES_IN_A_ROW)
def test_filters_in_a_row(
    first: list[mta.Modification], second: list[mta.Modification], postfix: str, sendmail: str
) -> None:
    """The server remembers for the next filter what it did for the one before."""
    assert postfix == changed("postfix", first, second)
    assert sendmail == changed("sendmail", first, second)


def test_message_sent_on() -> None:
    """Sendmail keeps Resent headers where the message came with some."""
    message = simple("Resent-From: r", "From: f")
    after = message.apply([add("Resent-To", "v")], rules="sendmail")
    assert ["Resent-From: r", "From: f", "Resent-To: v"] == lines(after)


def test_leading_space_by_rules() -> None:
    """With HDR_LEADSPC no server puts a blank."""
    made = [add("N", "v"), change(1, "Subject", "\tv"), insert(0)]
    for rules in ("postfix", "sendmail"):
        after = changed(rules, made, leading_space=True)
        assert "N:v R F T Subject:\tv D M 1 2 3 N:v" == after


def test_own_received_header() -> None:
    """It is counted where it is left out; nobody's rules have none."""
    message = simple("From: f", "To: t")
    for rules in ("postfix", "sendmail"):
        assert ["N: v", "From: f", "To: t"] == lines(message.apply([insert(1)], rules=rules))
        after = message.apply([insert(1)], rules=rules, received="from x")
        assert ["Received: from x", "N: v", "From: f", "To: t"] == lines(after)
    assert ["From: f", "N: v", "To: t"] == lines(message.apply([insert(1)], received="x"))


def test_next_filter_sees() -> None:
    """Not the server's own header; at Postfix no header behind what is none."""
    message = simple("From: f", "Blank : 1")
    for rules, folded, blank in (
        ("postfix", "N: a\n\tb", "Blank: 1"),
        ("sendmail", "N: a\nb", "Blank: 1"),
    ):
        held = HeldMessage(message, rules)
        held.change([add("N", "a\nb"), add("Resent-To", "r")])
        assert ["From: f", blank, folded, "Resent-To: r"] == lines(held.seen())
    held = HeldMessage(message, "postfix")
    held.change([add("no header", "v"), add("N", "v")])
    assert ["From: f", "Blank: 1"] == lines(held.seen())
    assert b"no header: v\r\nN: v\r\n\r\nbody\r\n" == held.seen().body
    held.change([change(1, "N", "w")])
    assert ["From: f", "Blank: 1", "no header: v", "N: v", "N: w"] == lines(held.stored())


@pytest.mark.parametrize(
    ("pieces", "seen_by_postfix", "seen_by_sendmail", "stored"),
    [
        ((b"one\r\n", b"two\r\n"), b"one\r\ntwo\r\n", b"one\r\ntwo\r\n", b"one\r\ntwo\r\n"),
        ((b"one\r\ntwo",), b"one\r\ntwo\r\n", b"one\r\ntwo", b"one\r\ntwo\r\n"),
        ((b"a\nb\r", b"\n\r\r\n"), b"a\r\nb\r\n\r\r\n", b"a\r\nb\r\n\r\r\n", b"a\r\nb\r\n\r\r\n"),
        ((b"",), b"", b"", b""),
        ((), b"body\r\n", b"body\r\n", b"body\r\n"),
    ],
)  # fmt: skip
def test_body_by_rules(
    pieces: tuple[bytes, ...], seen_by_postfix: bytes, seen_by_sendmail: bytes, stored: bytes
) -> None:
    """Lines end in CR LF, in the end the last one too."""
    for rules, seen in (("postfix", seen_by_postfix), ("sendmail", seen_by_sendmail)):
        held = HeldMessage(simple(), rules)
        held.change([mta.ReplaceBody(piece) for piece in pieces])
        assert seen == held.seen().body
        assert stored == held.stored().body


ENVELOPES: list[tuple[list[mta.Modification], list[str], list[str]]] = [
    ([], ["<c@d>", "<x@y>"], ["<c@d>", "<x@y>"]),
    # A recipient of the client's has an ORCPT at Postfix, one that a filter adds has none.
    ([mta.AddRecipient("c@d")], ["<c@d>", "<x@y>", "<c@d>"], ["<c@d>", "<x@y>"]),
    ([mta.AddRecipient("<c@d>", "ORCPT=rfc822;C@d")], ["<c@d>", "<x@y>"], ["<c@d>", "<x@y>"]),
    ([mta.AddRecipient("r@e"), mta.AddRecipient("<R@E>")], ["<c@d>", "<x@y>", "<r@e>"],
     ["<c@d>", "<x@y>", "<r@e>", "<R@E>"]),
    ([mta.AddRecipient("r@e"), mta.AddRecipient("r@e", "NOTIFY=NEVER")],
     ["<c@d>", "<x@y>", "<r@e>", "<r@e>"], ["<c@d>", "<x@y>", "<r@e>"]),
    ([mta.AddRecipient("r@e", "FOO=1")], ["<c@d>", "<x@y>", "<r@e>"], ["<c@d>", "<x@y>"]),
    ([mta.AddRecipient("r@e", "NOTIFY=BAD")], ["<c@d>", "<x@y>", "<r@e>"], ["<c@d>", "<x@y>"]),
    ([mta.AddRecipient(""), mta.AddRecipient("<>")], ["<c@d>", "<x@y>"], ["<c@d>", "<x@y>"]),
    ([mta.AddRecipient("<r@e>, <s@e>")], ["<c@d>", "<x@y>", "<r@e>"],
     ["<c@d>", "<x@y>", "<r@e>", "<s@e>"]),
    ([mta.AddRecipient("R <r@e>")], ["<c@d>", "<x@y>", "<r@e>"], ["<c@d>", "<x@y>", "R <r@e>"]),
    ([mta.AddRecipient("<@x:r@e>")], ["<c@d>", "<x@y>", "<r@e>"],
     ["<c@d>", "<x@y>", "<@x:r@e>"]),
    ([mta.AddRecipient('"r"@e'), mta.DeleteRecipient("r@e")], ["<c@d>", "<x@y>"],
     ["<c@d>", "<x@y>", '<"r"@e>']),
    ([mta.DeleteRecipient("c@d")], ["<x@y>"], ["<x@y>"]),
    ([mta.DeleteRecipient("C@d"), mta.DeleteRecipient("<x@Y>")], ["<c@d>", "<x@y>"],
     ["<c@d>", "<x@y>"]),
    ([mta.AddRecipient("C <c@d>", "NOTIFY=NEVER"), mta.AddRecipient("x@y (X)", "ORCPT=rfc822;x@y")],
     ["<c@d>", "<x@y>", "<c@d>"], ["<c@d>", "<x@y>"]),
    ([mta.DeleteRecipient("c@d (C)")], ["<x@y>"], ["<x@y>"]),
    ([mta.AddRecipient('"(r)"@e')], ["<c@d>", "<x@y>", '<"(r)"@e>'],
     ["<c@d>", "<x@y>", '<"(r)"@e>']),
    ([mta.DeleteRecipient("x <c@d> y")], ["<x@y>"], ["<x@y>"]),
    ([mta.DeleteRecipient(""), mta.DeleteRecipient("<>")], ["<c@d>", "<x@y>"], ["<c@d>", "<x@y>"]),
    ([mta.DeleteRecipient("c@d"), mta.AddRecipient("c@d"), mta.AddRecipient("c@d")],
     ["<x@y>", "<c@d>"], ["<x@y>", "<c@d>"]),
    ([mta.AddRecipient("r@e"), mta.DeleteRecipient("R@E"), mta.AddRecipient("r@e")],
     ["<c@d>", "<x@y>", "<r@e>", "<r@e>"], ["<c@d>", "<x@y>", "<r@e>"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "postfix", "sendmail"), ENVELOPES)
def test_recipients_by_rules(
    changes: list[mta.Modification], postfix: list[str], sendmail: list[str]
) -> None:
    """Who is a recipient already, and whom a deletion means."""
    message = simple(recipients=("<c@d>", "<x@y>"))
    for rules, expected in (("postfix", postfix), ("sendmail", sendmail)):
        assert expected == [to.address for to in message.apply(changes, rules=rules).recipients]


def test_recipients_that_the_client_doubled() -> None:
    """Each server has its own way to tell whether it was the same one."""
    never = mta.Recipient("<c@d>", ("NOTIFY=NEVER",))
    message = mta.Message.from_bytes(b"", "<a@b>", ["<c@d>", "<C@d>", never, "<c@d>"])
    plain = mta.Recipient("<c@d>")
    assert [plain, never] == message.apply([], rules="postfix").recipients
    assert [plain, mta.Recipient("<C@d>")] == message.apply([], rules="sendmail").recipients


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", None, ()),
        ("", "NOTIFY=SUCCESS ORCPT=x;y", ("ORCPT=x;y", "NOTIFY=DELAY,FAILURE,SUCCESS")),
        ("NOTIFY=NEVER", None, ("NOTIFY=DELAY,FAILURE",)),
        ("NOTIFY=NEVER", "NOTIFY=NEVER", ("NOTIFY=NEVER",)),
        ("NOTIFY=SUCCESS", "NOTIFY=DELAY", ("NOTIFY=DELAY,SUCCESS",)),
    ],
)  # fmt: skip
def test_recipient_deleted_and_added(
    before: str, after: str | None, expected: tuple[str, ...]
) -> None:
    """Sendmail goes on to tell what it was to tell of the one that was deleted."""
    to = mta.Recipient("<c@d>", tuple(before.split()))
    message = mta.Message.from_bytes(b"", "<a@b>", [to])
    changes = [mta.DeleteRecipient("c@d"), mta.AddRecipient("c@d", after)]
    assert [("<c@d>", expected)] == message.apply(changes, rules="sendmail").recipients
    given = tuple((after or "").split())
    assert [("<c@d>", given)] == message.apply(changes, rules="postfix").recipients


OWN_PARAMS = "SIZE=1 RET=HDRS ENVID=o"


@pytest.mark.parametrize(
    ("address", "params", "postfix", "sendmail"),
    [
        ("<n@e>", None, ("<n@e>", OWN_PARAMS), ("<n@e>", OWN_PARAMS)),
        ("n@e", "", ("<n@e>", OWN_PARAMS), ("<n@e>", "SIZE=1")),
        ("N <n@e>", "ENVID=x",
         ("<n@e>", "SIZE=1 RET=HDRS ENVID=x"), ("N <n@e>", "SIZE=1 ENVID=x")),
        ("<n@e>", "SIZE=2 FOO=1", ("<n@e>", OWN_PARAMS), ("<n@e>", "SIZE=1")),
        ("<>", None, ("<>", OWN_PARAMS), ("<>", OWN_PARAMS)),
        ("", "ENVID=x", ("<>", "SIZE=1 RET=HDRS ENVID=x"), ("<a@b>", OWN_PARAMS)),
    ],
)  # fmt: skip
def test_sender_by_rules(
    address: str, params: str | None, postfix: tuple[str, str], sendmail: tuple[str, str]
) -> None:
    """What an address stands for, and what of its parameters counts."""
    message = mta.Message.from_bytes(b"", "<a@b>", ["<c@d>"], OWN_PARAMS.split())
    for rules, expected in (("postfix", postfix), ("sendmail", sendmail)):
        after = message.apply([mta.ChangeSender(address, params)], rules=rules)
        assert expected == (after.sender, " ".join(after.sender_params))


def test_message_is_not_changed() -> None:
    """A held message is another one."""
    message = simple(*AHEAD)
    before = copy.deepcopy(message)
    for rules in (None, *RULES):
        held = HeldMessage(message, rules)
        held.change([*CHANGES, mta.DeleteHeader(1, "X-A"), mta.DeleteRecipient("<c@d>")])
        held.stored().headers.clear()
        held.seen().recipients.clear()
        assert before == message


def test_no_such_rules() -> None:
    """Rules that nobody has are an error that names those that there are."""
    with pytest.raises(ValueError, match=r"rules of a mail server: 'exim'; .*postfix, sendmail"):
        simple().apply([], rules="exim")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ([], False),
        ([mta.ReplaceBody(b"1"), add("N", "v"), mta.ReplaceBody(b"2")], True),
        ([add("N", "v"), mta.ReplaceBody(b"1"), mta.ReplaceBody(b"2"), add("N", "v")], False),
        ([change(1, "")], True),
        ([delete(1, "")], True),
        ([add("", "v"), insert(0, "")], False),
    ],
)
def test_server_fault(changes: list[mta.Modification], fault: bool) -> None:
    """Postfix gives up on what it cannot do, Sendmail and nobody do not."""
    expected = "451 4.3.5 Server configuration problem - try again later" if fault else None
    assert expected == server_fault(changes, "postfix")
    assert server_fault(changes, "sendmail") is None
    assert server_fault(changes, None) is None
