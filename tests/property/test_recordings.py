"""Recordings: whatever was recorded comes back, and whatever a file holds is read or refused."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from Milter import mta
from Milter._pcap import Capture
from Milter._recording import Head, Reader, head_line, line_of
from Milter._replay import open_source
from Milter._trace import (
    FILTER,
    KINDS,
    LARGEST,
    MTA,
    Record,
    Style,
    Tap,
    Watch,
    without_content,
)

SENDERS = st.sampled_from([MTA, FILTER])


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any record."""
    kind = draw(st.sampled_from(list(KINDS)))
    has_sender, has_data, has_text = KINDS[kind]
    return Record(
        draw(st.integers(1, 10**9)),
        draw(st.integers(0, 10**15)) / 10**6,
        kind,
        draw(SENDERS) if has_sender else "",
        draw(st.binary(min_size=1, max_size=40)) if has_data else b"",
        draw(st.text(max_size=20)) if has_text else "",
    )


@given(st.lists(records()), st.booleans())
def test_comes_back(written: list[Record], content: bool) -> None:
    """What is written is what is read, byte by byte, and each record is one line."""
    head = Head("2026-11-21T13:35:00.000000Z", content)
    data = head_line(head) + b"".join(map(line_of, written))
    reader = Reader(io.BytesIO(data), "f")
    assert (head, written, []) == (reader.head, list(reader), reader.warnings)
    assert len(written) + 1 == data.count(b"\n")


@given(st.lists(records(), min_size=1), st.data())
def test_cut_anywhere(written: list[Record], data: st.DataObject) -> None:
    """Of a recording that was cut in its last line, the lines before are read."""
    lines = [head_line(Head("x")), *map(line_of, written)]
    kept = data.draw(st.integers(1, len(lines[-1]) - 2))
    reader = Reader(io.BytesIO(b"".join(lines[:-1]) + lines[-1][:kept]), "f")
    assert (written[:-1], 1) == (list(reader), len(reader.warnings))


PACKETS = st.lists(st.binary(min_size=1, max_size=50), max_size=5)


@given(PACKETS, st.binary(max_size=30), st.lists(st.integers(1, 40)))
def test_streams(packets: list[bytes], rest: bytes, sizes: list[int]) -> None:
    """However bytes are cut, the packets come out, and not one byte is lost."""
    data = b"".join(len(packet).to_bytes(4, "big") + packet for packet in packets) + rest
    tap = Tap(1)
    found: list[Record] = []
    left = data
    for size in [*sizes, len(data) + 1]:
        found += tap.feed(MTA, left[:size], 0.0) if left else []
        left = left[size:]
    found += tap.end(MTA, 0.0)
    assert packets == [record.data for record in found[: len(packets)]]
    assert data == b"".join(
        (len(record.data).to_bytes(4, "big") if record.kind == "packet" else b"") + record.data
        for record in found
    )
    assert all(len(record.data) <= LARGEST for record in found)


# Letters that there are, with data that sometimes fits.
ODD = st.tuples(
    SENDERS,
    st.sampled_from(b"ODCHMRTLNBEAQKUcartdsyphimb+2-eq4fXl"),
    st.one_of(
        st.binary(max_size=20),
        st.lists(st.binary(max_size=6), max_size=4).map(lambda words: b"\0".join([*words, b""])),
        st.binary(min_size=12, max_size=16),
    ),
)


@given(st.lists(ODD), st.booleans())
def test_any_conversation(packets: list[tuple[str, int, bytes]], content: bool) -> None:
    """Whatever is said can be shown, on one line and without control characters."""
    watch = Watch(Style(content=content))
    for sender, letter, data in packets:
        shown = watch.see(Record(1, 0.0, "packet", sender, bytes([letter]) + data))
        if shown.said is not None:
            assert shown.said.text.isprintable()
    assert len(packets) == watch.figures.packets


@given(ODD)
def test_without_content_stays_what_it_is(packet: tuple[str, int, bytes]) -> None:
    """A packet without its content is as long, and says the same but for that."""
    sender, letter, data = packet
    record = Record(1, 0.0, "packet", sender, bytes([letter]) + data)
    blank = without_content(record)
    before, after = (Watch(Style(content=False)).see(each).said for each in (record, blank))
    assert (before is None) == (after is None)
    if before is not None and after is not None and before.name == "UNKNOWN":
        # All of it may be content, and is written over (docs/cli.md).
        assert (before.name, before.title) == (after.name, after.title)
        assert set(blank.data[1:]) <= set(b"x\r\n\0")
        assert len(record.data) == len(blank.data)
    elif before is not None:
        assert before == after
    assert blank == without_content(blank)


@given(st.one_of(st.binary(), st.sampled_from([b"{", b"\x0a\x0d\x0d\x0a", b"\xd4\xc3\xb2\xa1"])))
def test_any_file(data: bytes) -> None:
    """A file with anything in it is read, or refused in one line."""
    text = ""
    try:
        list(open_source(io.BufferedReader(io.BytesIO(data)), "f"))  # type: ignore[arg-type]
    except mta.RecordingError as error:
        text = str(error)
    assert "\n" not in text


@given(st.binary(max_size=400))
def test_any_capture(data: bytes) -> None:
    """So is anything behind the head of a capture, of frames that are IP."""
    head = bytes.fromhex("d4c3b2a1 0200 0400 00000000 00000000 ffff0000 65000000")
    text = "f, byte "
    try:
        list(Capture(io.BytesIO(head + data), "f", 1))
    except mta.RecordingError as error:
        text = str(error)
    assert text.startswith("f, byte ")
