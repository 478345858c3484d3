"""Recordings: files of what MTAs and filters said to each other.

Owns the file format, which docs/cli.md describes. What a record is, is Milter._trace's to say.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, BinaryIO, Final, NamedTuple, Optional, Union

from Milter._message import from_wire, shown
from Milter._mtacodec import MilterError
from Milter._trace import FILTER, KINDS, MTA, Record

FORMAT: Final = "milter-recording"
VERSION: Final = 1

LATEST: Final = 1e12  # seconds; no time can be later in a recording

_MOST: Final = 2**63 - 1  # connections

# Longer than any line can be: a packet of the largest size, each byte written out.
_LINE: Final = 64 * 1024 * 1024


class RecordingError(MilterError, ValueError):
    """A file that is no recording, or a broken one; the text names the file and the place in it."""


RecordingError.__module__ = "Milter.mta"  # as users import it, and tracebacks name it


class Head(NamedTuple):
    """What a recording says of itself."""

    began: str
    """When, in UTC, as ISO 8601 has it; the records' times count from then."""
    content: bool = True
    """False: what people wrote to each other was written over (Milter._trace.without_content)."""


def now(when: Optional[float] = None) -> str:
    """Returns a time, in seconds since 1970, as a recording has it; by default it is now."""
    moment = datetime.fromtimestamp(time.time() if when is None else when, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# -- lines ---------------------------------------------------------------------------------------


def head_line(head: Head) -> bytes:
    """Returns the first line of a recording."""
    value = {"format": FORMAT, "version": VERSION, "began": head.began, "content": head.content}
    return json.dumps(value).encode("ascii") + b"\n"


def line_of(record: Record) -> bytes:
    """Returns the line of a record."""
    sender, data, text = KINDS[record.kind]
    value: dict[str, Any] = {
        "connection": record.connection,
        "time": round(record.time, 6),
        "what": record.kind,
    }
    if sender:
        value["from"] = record.sender
    if data and record.kind == "packet":
        # Apart, as each is UTF-8 by itself or not.
        value["letter"] = from_wire(record.data[:1])
        value["data"] = from_wire(record.data[1:])
    elif data:
        value["data"] = from_wire(record.data)
    if text:
        value["text"] = record.text
    return json.dumps(value).encode("ascii") + b"\n"


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("bytes are a string")
    return value.encode("utf-8", "surrogateescape")


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        raise ValueError("no JSON object") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def parse_head(line: bytes) -> Head:
    """Reads the first line.

    Raises:
        ValueError: it is none; the text says why.
    """
    value = _object(line)
    if value.get("format") != FORMAT:
        raise ValueError(f'"format" is not "{FORMAT}"')
    version = value.get("version")
    if version != VERSION or isinstance(version, bool):
        raise ValueError(f"version {shown(str(version))[:20]} of the format; known is {VERSION}")
    began, content = value.get("began"), value.get("content")
    if not isinstance(began, str) or not isinstance(content, bool):
        raise ValueError('"began" or "content" is missing')
    return Head(began, content)


def parse_line(line: bytes) -> Record:
    """Reads the line of a record.

    Raises:
        ValueError: it is none; the text says why.
    """
    value = _object(line)
    number, when, kind = value.get("connection"), value.get("time"), value.get("what")
    if type(number) is not int or not 1 <= number <= _MOST:
        raise ValueError('"connection" is no number from 1 on')
    if not isinstance(when, (int, float)) or isinstance(when, bool) or not 0 <= when <= LATEST:
        raise ValueError('"time" is no number of seconds')
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f'"what" is {shown(str(kind))[:20]!r}, none of {", ".join(KINDS)}')
    has_sender, has_data, has_text = KINDS[kind]
    sender, data, text = value.get("from"), b"", value.get("text")
    if not has_sender:
        sender = ""
    elif sender not in (MTA, FILTER):
        raise ValueError(f'"from" is neither "{MTA}" nor "{FILTER}"')
    try:
        if has_data:
            data = _bytes(value.get("data"))
        if kind == "packet":
            letter = _bytes(value.get("letter"))
            if len(letter) != 1:
                raise ValueError("a letter is one byte")
            data = letter + data
    except UnicodeEncodeError:
        raise ValueError('"data" has a character that stands for no byte') from None
    if not has_text:
        text = ""
    elif not isinstance(text, str):
        raise ValueError('"text" is missing')
    return Record(number, float(when), kind, sender, data, text)


# -- writing -------------------------------------------------------------------------------------


class Writer:
    """Writes a recording. Each record is in the file as soon as it is written here.

    A context manager, which closes the file. After an OSError from :meth:`write` nothing more can
    be written; what is in the file is whole.

    Args:
        path: of the file, which must not exist; only its owner may read it.
        head: what it says of itself; its time is that from which the records' count.

    Raises:
        OSError: it cannot be made, or exists.
    """

    def __init__(self, path: Union[str, os.PathLike[str]], head: Head) -> None:
        """Makes the file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file: Optional[int] = os.open(path, flags, 0o600)
        try:
            os.fchmod(self._file, 0o600)  # the umask may have taken more
            self._put(head_line(head))
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Writer:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Closes the file."""
        self.close()

    def write(self, *records: Record) -> None:
        """Adds records."""
        if records and self._file is not None:
            self._put(b"".join(map(line_of, records)))

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            while written < len(data):
                # The disk is full, or nearly so; the next write says why.
                written += os.write(self._file, data[written:])
        except OSError:
            try:
                os.ftruncate(self._file, before)
            except OSError:
                pass  # a device; the reader knows what to do with half a line
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; more than once."""
        descriptor, self._file = self._file, None
        if descriptor is not None:
            os.close(descriptor)


# -- reading -------------------------------------------------------------------------------------


class Reader:
    """Reads a recording.

    Args:
        file: at its beginning.
        name: of the file, for errors.

    Attributes:
        head: what it says of itself.
        warnings: what was read around, a line each.

    Raises:
        RecordingError: it is none.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Reads the first line."""
        self.warnings: list[str] = []
        self._file = file
        self._name = name
        self._number = 1
        try:
            self.head = parse_head(self._line())
        except ValueError as error:
            raise self._error(error) from None

    def __iter__(self) -> Iterator[Record]:
        """Yields the records.

        Raises:
            RecordingError: a line is none, and not the last one that was cut.
        """
        while True:
            line = self._line()
            if not line:
                return
            self._number += 1
            try:
                record = parse_line(line)
            except ValueError as error:
                if line.endswith(b"\n"):
                    raise self._error(error) from None
                self.warnings.append(
                    f"{shown(self._name)}, line {self._number}: cut off; the rest was read"
                )
                return
            yield record

    def _line(self) -> bytes:
        line = self._file.readline(_LINE)
        if len(line) >= _LINE:
            raise self._error(ValueError("too long"))
        return line

    def _error(self, error: ValueError) -> RecordingError:
        return RecordingError(f"{shown(self._name)}, line {self._number}: {error}")
