"""Messages from bytes and back: the tree of parts, with the bytes that each was made from.

Owns where header, parts and delimiters begin and end (RFC 5322, 2045, 2046), and that what nobody
changed is written as it was read. It knows nothing of names, charsets and encodings.

Why not the standard library's parser: it takes a recursion per level and quadratic time for nested
parts, and keeps no bytes, so that a message does not come out as it went in.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from email.message import Message
from typing import Any, Callable, Optional, TypeVar, Union

_FIELD = re.compile(rb"([!-9;-~]*)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)\n?")
_UNIX_FROM = re.compile(rb"From [^\n]*\n?")
_STRAY_CONTINUATION = re.compile(rb"[ \t][^\n]*\n?")
_LATER_FIELD = re.compile(rb"^[!-9;-~]+[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.MULTILINE)
_LIKELY_DELIMITER = re.compile(rb"^--([^\s\"\\][^\s\"\\]{0,200})[ \t]*$", re.MULTILINE)
_SEPARATOR = re.compile(rb"(?:\A|(?<=\n))\n+")

Node = TypeVar("Node", bound="Message[Any, Any]")
Span = tuple[int, int]


class TreeLimits:
    """How far a message is taken apart.

    depth: containers within each other; parts: parts in all; fields: header fields in all. What
    exceeds them is left as one part, in which ``unparsed`` is true.
    """

    def __init__(self, depth: int, parts: int, fields: int) -> None:
        """Take the limits."""
        self.depth = depth
        self.parts = parts
        self.fields = fields


class Source:
    """What a part was made from, and how to tell whether it still is what it was."""

    __slots__ = (
        "around",
        "boundary",
        "children",
        "data",
        "end",
        "header_end",
        "header_start",
        "headers",
        "payload",
        "pieces",
        "separated",
        "start",
        "unparsed",
    )

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.start = self.header_start = self.header_end = self.end = start
        self.separated = False  # whether a blank line ends the header
        self.unparsed = False
        self.headers: list[tuple[str, Any]] = []
        self.payload: Any = None
        self.children: tuple[Any, ...] = ()
        #: The body: bytes of `data`, and parts, in their order.
        self.pieces: list[Union[Span, Any]] = []
        self.boundary: Any = None
        self.around: tuple[Any, Any] = (None, None)

    def same_body(self, node: Any) -> bool:
        """Tell whether no one has put anything else in, next to or between the parts."""
        payload = node._payload
        if isinstance(payload, list):
            return (
                payload is self.payload
                and len(payload) == len(self.children)
                and all(a is b for a, b in zip(payload, self.children))
                and (node.preamble, node.epilogue) == self.around
                and (self.boundary is None or node.get_boundary() == self.boundary)
            )
        return payload is self.payload

    def body(self) -> bytes:
        """Return the body as it was read."""
        return self.data[self.header_end : self.end]

    def raw_fields(self) -> dict[tuple[str, str], bytes]:
        """Return how each field was written."""
        fields = (
            (_field(match), match.group())
            for match in _fields(self.data, self.header_start, self.header_end)
        )
        return {field: raw for field, raw in fields if field[0]}


def _fields(data: bytes, position: int, end: int) -> Iterator[re.Match[bytes]]:
    while position < end:
        match = _FIELD.match(data, position, end)
        if match:
            yield match
        else:
            match = _STRAY_CONTINUATION.match(data, position, end)
            if not match:
                return
        position = match.end()


def _text(data: bytes) -> str:
    return data.decode("ascii", "surrogateescape")


def _field(match: re.Match[bytes]) -> tuple[str, str]:
    name, value = match.groups()
    return _text(name), _text(value.lstrip(b" \t\n"))


class _Frame:
    """A container whose end has not been seen yet."""

    __slots__ = ("boundary", "children", "node", "source", "start")

    def __init__(self, node: Any, source: Source, start: int, boundary: Optional[bytes]) -> None:
        self.node = node
        self.source = source
        self.start = start  # of the body
        self.boundary = boundary  # None for message/*, and after the close delimiter
        self.children: list[Any] = []


class Parser:
    """Takes one message apart; lines end in LF."""

    def __init__(self, data: bytes, new: Callable[[], Any], limits: TreeLimits) -> None:
        """Prepare to parse ``data`` into nodes that ``new`` makes."""
        self.data = data
        self.new = new
        self.limits = limits
        self.parts = limits.parts
        self.fields = limits.fields
        self.frames: list[_Frame] = []
        #: The delimiters looked for, and the frames that look for them, innermost last.
        self.delimiters: dict[bytes, list[int]] = {}

    def parse(self) -> Any:
        """Return the message."""
        root = node = self.new()
        position = 0
        while True:
            position = self.header(node, position)
            position, node = self.body(node, position)
            if node is None:
                return root

    def header(self, node: Any, position: int, end: Optional[int] = None) -> int:
        """Read a part's header, no further than ``end``; return where its body begins."""
        data = self.data
        end = len(data) if end is None else end
        source = node._source = Source(data, position)
        match = _UNIX_FROM.match(data, position, end)
        if match:
            node.set_unixfrom(_text(match.group().rstrip(b"\n")))
            position = match.end()
        source.header_start = position
        headers = node._headers
        while position < end:
            if data.startswith(b"\n", position):
                source.separated = True
                position += 1
                break
            if data.startswith(b"--", position) and self.is_delimiter(position):
                break
            match = _FIELD.match(data, position, end)
            if match:
                field = _field(match)
                if field[0]:
                    headers.append(field)
            else:
                match = _STRAY_CONTINUATION.match(data, position, end)
                if not match or headers:
                    break
            self.fields -= 1
            if self.fields < 0:
                source.unparsed = True
                break
            position = match.end()
        source.header_end = position
        source.headers = list(headers)
        return position

    def body(self, node: Any, position: int) -> tuple[int, Any]:
        """Read a body up to where the next part begins; return that and the part, or None."""
        source = node._source
        if not source.unparsed:
            kind = node.get_content_maintype()
            if kind in ("multipart", "message"):
                if len(self.frames) >= self.limits.depth or self.parts <= 0:
                    source.unparsed = True
                elif kind == "multipart":
                    boundary = node.get_boundary()
                    if boundary is not None:
                        self.open(node, position, as_bytes(boundary))
                        return self.advance(position, position)
                elif node.get_content_type() == "message/delivery-status":
                    return self.delivery_status(node, position)
                else:
                    self.open(node, position, None)
                    return position, self.child()
        found = self.find_delimiter(position)
        end = found[0] if found else len(self.data)
        if not found and self.delimiters and self.data.endswith(b"\n", position):
            end -= 1  # the newline that would belong to the missing close delimiter
        self.finish_leaf(node, position, end)
        return self.advance(end, end, found)

    def finish_leaf(self, node: Any, start: int, end: int) -> None:
        source = node._source
        source.end = end
        source.pieces = [(start, end)]
        source.payload = node._payload = _text(self.data[start:end])

    def delivery_status(self, node: Any, position: int) -> tuple[int, Any]:
        """Read groups of fields, with blank lines between them (RFC 3464 section 2.1)."""
        found = self.find_delimiter(position)
        end = found[0] if found else len(self.data)
        frame = self.open(node, position, None)
        while position < end:
            match = _SEPARATOR.search(self.data, position, end)
            if self.parts <= 1 or self.fields <= 0:
                match = None  # the rest becomes one group
            stop = match.start() if match else end
            child = self.child()
            self.finish_leaf(child, self.header(child, position, stop), stop)
            if match:
                frame.source.pieces.append(match.span())
            position = match.end() if match else end
        return self.advance(end, end, found)

    def open(self, node: Any, position: int, boundary: Optional[bytes]) -> _Frame:
        frame = _Frame(node, node._source, position, boundary)
        if boundary is not None:
            self.delimiters.setdefault(boundary, []).append(len(self.frames))
            frame.source.boundary = node.get_boundary()
        self.frames.append(frame)
        return frame

    def child(self) -> Any:
        """Begin a part of the innermost container."""
        self.parts -= 1
        frame = self.frames[-1]
        child = self.new()
        if frame.node.get_content_type() == "multipart/digest":
            child.set_default_type("message/rfc822")
        frame.children.append(child)
        frame.source.pieces.append(child)
        return child

    def advance(
        self, position: int, text_start: int, found: Optional[tuple[int, int, int, bool]] = None
    ) -> tuple[int, Any]:
        """Go over delimiters, and text that belongs to no part, to where the next part begins."""
        while True:
            if found is None:
                found = self.find_delimiter(position)
            start, end, index, closing = found or (len(self.data), len(self.data), -1, True)
            while len(self.frames) > index + 1:
                self.close_frame(text_start, start)
                text_start = start
            if index < 0:
                return end, None
            frame = self.frames[index]
            if closing or self.parts <= 0:
                self.forget(frame, index)
                if not closing:  # too many parts: the rest is the last one's, not looked into
                    frame.source.pieces.append((text_start, end))
                    child = self.child()
                    following = self.find_delimiter(end)
                    stop = following[0] if following else len(self.data)
                    child._source = Source(self.data, end)
                    child._source.unparsed = True
                    self.finish_leaf(child, end, stop)
                    position, text_start, found = stop, stop, following
                    if following is None:
                        found = (len(self.data), len(self.data), -1, True)
                    continue
                # What follows is the epilogue, up to the delimiter of a container around this one.
                frame.source.pieces.append((text_start, end))
                position, text_start, found = end, end, None
                continue
            frame.source.pieces.append((text_start, end))
            return end, self.child()

    def forget(self, frame: _Frame, index: int) -> None:
        """Look no more for a container's delimiter."""
        if frame.boundary is not None:
            waiting = self.delimiters[frame.boundary]
            waiting.remove(index)
            if not waiting:
                del self.delimiters[frame.boundary]
            frame.boundary = None

    def close_frame(self, text_start: int, end: int) -> None:
        """End the innermost container; bytes from ``text_start`` on are in no part of it."""
        index = len(self.frames) - 1
        frame = self.frames[index]
        self.forget(frame, index)
        self.frames.pop()
        source = frame.source
        source.end = end
        if text_start < end:
            source.pieces.append((text_start, end))
        node = frame.node
        if frame.children:
            source.payload = node._payload = frame.children
            source.children = tuple(frame.children)
            if source.boundary is not None:
                self.surroundings(node, source)
        else:
            source.boundary = None
            self.finish_leaf(node, frame.start, end)

    def surroundings(self, node: Any, source: Source) -> None:
        """Set preamble and epilogue as the standard library does."""
        first, last = source.pieces[0], source.pieces[-1]
        assert isinstance(first, tuple)
        text = self.data[first[0] : first[1]]
        preamble = text[: text.rfind(b"\n", 0, len(text) - 1) + 1] if text else b""
        node.preamble = _text(preamble[:-1]) if preamble else None
        closed = len(source.pieces) > 2 and isinstance(source.pieces[-1], tuple)
        if closed and isinstance(last, tuple):
            previous = source.pieces[-2]
            text = self.data[last[0] : last[1]]
            if isinstance(previous, tuple):
                node.epilogue = _text(text)
            elif text.startswith((b"--", b"\n--")) and text.endswith(b"\n"):
                node.epilogue = ""
        source.around = (node.preamble, node.epilogue)

    def is_delimiter(self, position: int) -> bool:
        """Tell whether the line at ``position``, which begins with "--", is one looked for."""
        return bool(self.delimiters) and self.match_delimiter(position) is not None

    def match_delimiter(self, position: int) -> Optional[tuple[int, int, bool]]:
        """Return the end of the line, the frame's index, and whether it closes."""
        newline = self.data.find(b"\n", position)
        end = len(self.data) if newline < 0 else newline
        text = self.data[position + 2 : end].rstrip(b" \t")
        index, closing = -1, False
        waiting = self.delimiters.get(text)
        if waiting:
            index = waiting[-1]
        if text.endswith(b"--"):
            waiting = self.delimiters.get(text[:-2])
            if waiting and waiting[-1] > index:
                index, closing = waiting[-1], True
        if index < 0:
            return None
        return min(end + 1, len(self.data)), index, closing

    def find_delimiter(self, position: int) -> Optional[tuple[int, int, int, bool]]:
        """Find the next delimiter of any open container, from the beginning of a line on.

        Returns where it begins, with the newline before it, where it ends, the frame's index and
        whether it closes.
        """
        data = self.data
        if not self.delimiters:
            return None
        start = position
        if not data.startswith(b"--", position):
            start = data.find(b"\n--", position)
        while start >= 0:
            line = start if start == position and data.startswith(b"--", position) else start + 1
            found = self.match_delimiter(line)
            if found:
                return (start, *found)
            start = data.find(b"\n--", line)
        return None


def as_bytes(text: str) -> bytes:
    """Encode text that was made from bytes by `Parser`."""
    try:
        return text.encode("ascii", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def likely_boundary(body: bytes) -> Optional[bytes]:
    """Return what looks like the boundary of a multipart body."""
    match = _LIKELY_DELIMITER.search(body)
    return match.group(1) if match else None


def later_fields(body: bytes) -> Optional[bytes]:
    """Return a body without the lines before its first blank line that are no fields.

    None if there is no field among them.
    """
    head, _, rest = body.partition(b"\n\n")
    fields = _LATER_FIELD.findall(head + b"\n")
    return b"".join(fields) + b"\n" + rest if fields else None


def write_message(node: Any, write: Callable[[bytes], Any]) -> None:
    """Write a message: each part that nobody changed as it was read, the others anew."""
    source: Optional[Source] = getattr(node, "_source", None)
    same_body = source is not None and source.same_body(node)
    if source is not None and source.headers == node._headers:
        write(source.data[source.header_start : source.header_end])
        if not same_body and not source.separated:
            write(b"\n")
    else:
        raw = source.raw_fields() if source is not None else {}
        for field in node._headers:
            line = raw.get(field) if isinstance(field[1], str) else None
            line = _folded(node, *field) if line is None else line
            write(line if line.endswith(b"\n") else line + b"\n")
        write(b"\n")
    if source is not None and same_body:
        for index, piece in enumerate(source.pieces):
            if isinstance(piece, tuple):
                write(source.data[piece[0] : piece[1]])
                continue
            write_part(piece, write)
            following = source.pieces[index + 1 : index + 2]
            if following and not unchanged(piece):
                # The newline before a delimiter belongs to it, but an empty part has none.
                start = following[0][0] if isinstance(following[0], tuple) else 0
                if not source.data.startswith(b"\n", start):
                    write(b"\n")
        return
    write_body(node, write)


def unchanged(node: Any) -> bool:
    """Tell whether a part, not counting the parts in it, will be written as it was read."""
    source: Optional[Source] = getattr(node, "_source", None)
    return source is not None and source.headers == node._headers and source.same_body(node)


def write_part(node: Any, write: Callable[[bytes], Any]) -> None:
    """Write a part, which may begin with an mbox separator line that is part of its bytes."""
    source: Optional[Source] = getattr(node, "_source", None)
    if source is not None:
        write(source.data[source.start : source.header_start])
    write_message(node, write)


def write_body(node: Any, write: Callable[[bytes], Any]) -> None:
    """Write a body that was changed."""
    payload = node._payload
    if payload is None:
        return
    if not isinstance(payload, list):
        write(payload_bytes(node, payload))
    elif node.get_content_maintype() == "message":
        separator = b""
        for part in payload:
            write(separator)
            write_part(part, write)
            separator = b"\n"
    else:
        boundary = _boundary(node)
        if node.preamble is not None:
            write(as_bytes(node.preamble) + b"\n")
        for part in payload:
            write(b"--" + boundary + b"\n")
            write_part(part, write)
            write(b"\n")
        write(b"--" + boundary + b"--\n")
        if node.epilogue is not None:
            write(as_bytes(node.epilogue))


def _boundary(node: Any) -> bytes:
    boundary = node.get_boundary()
    if not boundary:
        boundary = f"==============={secrets.token_hex(16)}=="
        node.set_boundary(boundary)
    return as_bytes(boundary)


def payload_bytes(node: Any, payload: Any) -> bytes:
    if isinstance(payload, (bytes, bytearray)):
        return bytes(payload)
    text = str(payload)
    for charset in ("ascii", node.get_content_charset() or "ascii", "utf-8"):
        try:
            return text.encode(charset, "surrogateescape")
        except (UnicodeError, LookupError):
            pass
    return text.encode("utf-8", "replace")


def _folded(node: Any, name: str, value: Any) -> bytes:
    try:
        return bytes(node.policy.fold_binary(name, value))
    except Exception:  # an odd value that was set by a filter; it must not lose the message
        return as_bytes(f"{name}: " + " ".join(str(value).split()))
