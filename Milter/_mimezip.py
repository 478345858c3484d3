"""The names in a zip archive, those of archives in it included, within limits.

Owns the reading of the central directory and of stored and deflated members. It reads no further
than it must, trusts no size that the archive declares, and raises nothing but `zipfile.BadZipFile`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from zipfile import BadZipFile

from Milter import _mimenames

_END = b"PK\x05\x06"
_END_64 = b"PK\x06\x06"
_LOCATOR_64 = b"PK\x06\x07"
_ENTRY = b"PK\x01\x02"
_MEMBER = b"PK\x03\x04"

_ENCRYPTED = 0x1
_UTF8 = 0x800
_STORED, _DEFLATED = 0, 8


class ZipLimits:
    """How far an archive is looked into.

    members: names in all; depth: archives in archives; size: unpacked bytes in all, which is what
    an archive costs in time and memory; ratio: the same, as a multiple of the archive's own size.
    """

    def __init__(self, members: int, depth: int, size: int, ratio: int) -> None:
        """Take the limits."""
        self.members = members
        self.depth = depth
        self.size = size
        self.ratio = ratio


class _Budget:
    """What is left of the limits while one archive is read."""

    def __init__(self, limits: ZipLimits, size: int) -> None:
        self.members = limits.members
        self.depth = limits.depth
        self.size = min(limits.size, limits.ratio * size)
        self.names = self.size

    def member(self, names: list[str]) -> None:
        self.members -= 1
        # Members may share one long local header, so names cost more than the archive's size.
        self.names -= sum(map(len, names))
        if self.names < 0:
            raise BadZipFile("Too many bytes in the names of a zip file")
        if self.members < 0:
            raise BadZipFile("Too many members in zip file")


def zip_names(data: bytes, limits: ZipLimits) -> list[str]:
    """Return the names of all members; those of an archive in it come right behind its name.

    Raises zipfile.BadZipFile: it is no zip archive, or it cannot be read as far as is needed (an
    archive in it is encrypted, or packed in a way other than stored or deflated), or it exceeds the
    limits.
    """
    names: list[str] = []
    budget = _Budget(limits, len(data))
    # One entry per archive that is being read: its bytes and what is left of its directory.
    reading = [(data, _directory(data))]
    while reading:
        archive, entries = reading[-1]
        entry = next(entries, None)
        if entry is None:
            reading.pop()
            continue
        budget.member(entry.names)
        names.extend(entry.names)
        if any(is_zip_name(name) for name in entry.names):
            if len(reading) > budget.depth:
                raise BadZipFile("Too many zip files within each other")
            inner = _unpack(archive, entry, budget)
            reading.append((inner, _directory(inner)))
    return names


def is_zip_name(name: str) -> bool:
    """Tell whether a name is that of a zip archive, or may be taken for one."""
    return any(
        form.lower().endswith(".zip") for form in (name, *_mimenames.disguises(name)) if form
    )


class _Entry:
    """One row of a central directory."""

    def __init__(self, names: list[str], flags: int, method: int, size: int, start: int) -> None:
        self.names = names
        self.flags = flags
        self.method = method
        self.size = size
        self.start = start


def _directory(data: bytes) -> Iterator[_Entry]:
    """Go through the central directory, one entry at a time."""
    end = data.rfind(_END, max(0, len(data) - 22 - 0xFFFF))
    if len(data) >= 22 and data.startswith(_END, len(data) - 22):
        end = len(data) - 22  # without a comment, whatever a comment may have looked like
    if end < 0 or end + 22 > len(data):
        raise BadZipFile("File is not a zip file")
    count, size, start = struct.unpack_from("<10xHLL", data, end)
    behind = end
    if 0xFFFF in (count,) or 0xFFFFFFFF in (size, start):
        locator = end - 20
        if locator >= 0 and data.startswith(_LOCATOR_64, locator):
            behind = data.rfind(_END_64, 0, locator)
            if behind < 0 or behind + 56 > len(data):
                raise BadZipFile("Corrupt zip64 end of central directory")
            size, start = struct.unpack_from("<40xQQ", data, behind)
    # What stands before the archive, such as the program of a self-extractor, moves its offsets.
    shift = behind - size - start
    if shift < 0:
        raise BadZipFile("Bad offset for central directory")
    position = start + shift
    while position < behind:
        if not data.startswith(_ENTRY, position) or position + 46 > behind:
            raise BadZipFile("Bad magic number for central directory")
        flags, method, packed, name_size, extra_size, comment_size, offset = struct.unpack_from(
            "<8xHH8xL4xHHH8xL", data, position
        )
        name_start = position + 46
        extra_start = name_start + name_size
        position = extra_start + extra_size + comment_size
        if position > behind:
            raise BadZipFile("Truncated central directory")
        if 0xFFFFFFFF in (packed, offset):
            packed, offset = _wide(data[extra_start : extra_start + extra_size], packed, offset)
        raw = data[name_start:extra_start]
        names = [_name(raw, flags)]
        # Some programs go by the name in front of the member's bytes.
        member = offset + shift
        if data.startswith(_MEMBER, member) and member + 30 <= len(data):
            local_flags, size_there = struct.unpack_from("<6xH18xH", data, member)
            other = data[member + 30 : member + 30 + size_there]
            if other != raw:
                names.append(_name(other, local_flags))
        names.extend(_unicode_names(data[extra_start : extra_start + extra_size]))
        yield _Entry(names, flags, method, packed, member)


def _unicode_names(extra: bytes) -> Iterator[str]:
    """Go through the names in Info-ZIP Unicode Path fields, which unpackers prefer.

    Their checksum of the other name is not looked at: some programs do not look either.
    """
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == 0x7075 and size > 5:
            yield extra[position + 9 : position + 4 + size].decode("utf-8", "replace")
        position += 4 + size


def _wide(extra: bytes, packed: int, offset: int) -> tuple[int, int]:
    """Return packed size and offset from a zip64 extra field, where they did not fit."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            values = extra[position + 4 : position + 4 + size]
            numbers = list(struct.unpack(f"<{len(values) // 8}Q", values[: len(values) // 8 * 8]))
            # The unpacked size comes first if it did not fit either, so count from the end.
            if offset == 0xFFFFFFFF and numbers:
                offset = numbers.pop()
            if packed == 0xFFFFFFFF and numbers:
                packed = numbers.pop()
            break
        position += 4 + size
    return packed, offset


def _name(raw: bytes, flags: int) -> str:
    """Decode a member's name, which is UTF-8 if a flag says so, else in the charset of the PC."""
    if flags & _UTF8:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return raw.decode("cp437")


def _unpack(archive: bytes, entry: _Entry, budget: _Budget) -> bytes:
    """Return a member's bytes, and take them off the budget."""
    if entry.flags & _ENCRYPTED:
        raise BadZipFile("Encrypted zip file within a zip file")
    if not archive.startswith(_MEMBER, entry.start) or entry.start + 30 > len(archive):
        raise BadZipFile("Bad magic number for file header")
    name_size, extra_size = struct.unpack_from("<26xHH", archive, entry.start)
    start = entry.start + 30 + name_size + extra_size
    packed = memoryview(archive)[start : start + entry.size]
    if entry.method == _STORED:
        unpacked = bytes(packed[: budget.size + 1])
    elif entry.method == _DEFLATED:
        unzip = zlib.decompressobj(-15)
        try:
            unpacked = unzip.decompress(packed, budget.size + 1)
        except zlib.error as error:
            raise BadZipFile(f"Corrupt member of zip file: {error}") from None
    else:
        raise BadZipFile(f"Compression method {entry.method} is not supported")
    budget.size -= len(unpacked)
    if budget.size < 0:
        raise BadZipFile("Too many bytes in zip files within the zip file")
    return unpacked
