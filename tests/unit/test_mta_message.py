"""Messages, their bytes, and what becomes of them (wire spec 1.3 and 5)."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from Milter import mta
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
