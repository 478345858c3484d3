"""Parameters of MIME header fields, and what a file name in one may stand for.

Owns RFC 2231 and RFC 2047 as far as names need them. All of it takes time in proportion to the
input, and nothing raises on any input. It knows no messages.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Optional, Union
from urllib.parse import unquote_to_bytes

#: A decoded parameter: text, or charset, language and text of an RFC 2231 value.
Value = Union[str, tuple[Optional[str], Optional[str], str]]
#: A piece of a continued parameter: its number, -1 where it has none (``name*=...``); its text; and
#: whether that is percent-encoded.
Piece = tuple[int, str, bool]

_SPLIT = re.compile(r'\\"|"|;')
_CONTINUED = re.compile(r"([^*]+)\*(?:([0-9]{1,9})\*?)?")
_ENCODED_WORD = re.compile(r"=\?([^?\s]{1,80})\?([bBqQ])\?([^?]*)\?=")
_BETWEEN_WORDS = re.compile(r"(\?=)\s+(?==\?)")
_FOLD = re.compile(r"[\r\n]+[ \t]*")
_COMMENT = re.compile(r"\([^()]*\)[\s.]*$")
_Q_BYTE = re.compile(rb"=([0-9a-fA-F]{2})")

#: Characters that NFKC does not turn into a full stop, but that people and programs take for one.
_DOTS = dict.fromkeys(map(ord, "\u3002\uff61\u2024\ufe52\uff0e"), ".")

#: What surrounds a name without being part of it: Windows drops dots and blanks at the end.
_AROUND = " \t\r\n\v\f.\"'<>/\\"

#: Codecs of Python that are no charsets of mail, and of which some take quadratic time.
_NO_CHARSETS = frozenset(
    {"idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)


def known_charset(charset: str) -> Optional[str]:
    """Return Python's name of a charset that mail may declare, None if there is no such codec."""
    try:
        name = codecs.lookup(charset.strip()).name
        if name in _NO_CHARSETS or not isinstance(b"".decode(name), str):
            return None
    except (LookupError, ValueError, TypeError, AttributeError):
        return None
    return name


def decode_bytes(data: bytes, charset: Optional[str]) -> tuple[str, str]:
    """Decode by the declared charset, else as UTF-8, else as Latin-1, which takes anything.

    Returns the text and the charset that fitted; in the last two cases, encoding with it gives the
    same bytes.
    """
    for candidate in (charset and known_charset(charset), "utf-8"):
        if candidate:
            try:
                return data.decode(candidate), candidate
            except (ValueError, LookupError):
                pass
    return data.decode("latin-1"), "iso-8859-1"


def decode_raw(text: str, fallback: Optional[str] = None) -> str:
    """Decode the bytes that a field's text may contain, in the way of ``surrogateescape``.

    They are UTF-8, or else in the charset ``fallback``; without one they stay what they are.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other surrogates, which a filter has set
        return text
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode(fallback) if fallback else text


def _raw(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def split_parameters(value: str) -> list[str]:
    """Cut a header field's value at the semicolons that are not quoted.

    The first item is what comes before the first parameter. Same result as the standard library's
    ``_parseparam``, in linear time.
    """
    items = []
    start = 0
    quoted = False
    for match in _SPLIT.finditer(value):
        mark = match.group()
        if mark == '"':
            quoted = not quoted
        elif mark == ";" and not quoted:
            items.append(value[start : match.start()])
            start = match.end()
    items.append(value[start:])
    return items


def unquote(s: str) -> str:
    """Take off one level of quotes, also where something follows the closing quote.

    ``"a" junk`` gives ``a``; ``<a>`` gives ``a``; what is not closed stays (API spec 4.2).
    """
    if len(s) > 1:
        if s.startswith('"'):
            end = s.rfind('"')
            if end > 0:
                return s[1:end].replace("\\\\", "\\").replace('\\"', '"')
        elif s.startswith("<") and s.endswith(">"):
            return s[1:-1]
    return s


def parameters(value: str) -> list[tuple[str, Value]]:
    """Parse a field's value: its first word as ``(word, "")``, then the parameters, unquoted.

    Names that have a value are in lower case. RFC 2231 continuations are joined, in the order of
    their numbers, and come last, as in the standard library.
    """
    result, continued = _pieces(value)
    for name, pieces in continued.items():
        result.append((name, _join(sorted(pieces, key=_number))))
    return result


def other_names(value: str) -> list[tuple[str, str]]:
    """Return what else names may be whose RFC 2231 continuations are not numbered as they should.

    Clients differ in what they do: stop where a number is missing, or take the first of two pieces
    with the same number, or the last. Only the parameters ``name`` and ``filename`` are looked at.
    """
    others = []
    for name, pieces in _pieces(value)[1].items():
        numbers = sorted(map(_number, pieces))
        if name not in ("name", "filename") or numbers in ([-1], [*range(len(numbers))]):
            continue
        runs = [[piece] for piece in pieces if piece[0] < 0]
        for order in (pieces, pieces[::-1]):
            taken = {piece[0]: piece for piece in order if piece[0] >= 0}
            runs.append([taken[number] for number in sorted(taken)])
            run: list[Piece] = []
            while len(run) in taken:
                run.append(taken[len(run)])
            runs.append(run)
        others += [(name, value_text(_join(run))) for run in runs if run]
    return others


def _number(piece: Piece) -> int:
    return piece[0]


def _pieces(value: str) -> tuple[list[tuple[str, Value]], dict[str, list[Piece]]]:
    """Return a field's parameters, and those that are continued, each piece by itself."""
    result: list[tuple[str, Value]] = []
    continued: dict[str, list[Piece]] = {}
    for index, item in enumerate(split_parameters(value)):
        name, sign, text = item.partition("=")
        name, text = name.strip(), text.strip()
        if sign:
            name = name.lower()
        if index == 0:
            result.append((name, text))
            continue
        text = unquote(text)
        match = _CONTINUED.fullmatch(name)
        if match:
            piece = (int(match.group(2) or -1), text, name.endswith("*"))
            continued.setdefault(match.group(1), []).append(piece)
        else:
            result.append((name, text))
    return result, continued


def _join(pieces: list[Piece]) -> Value:
    joined = "".join(
        unquote_to_bytes(_raw(text)).decode("latin-1") if encoded else text
        for _, text, encoded in pieces
    )
    if not any(encoded for _, _, encoded in pieces):
        return joined
    charset, mark, rest = joined.partition("'")
    language, second, text = rest.partition("'")
    if not mark or not second:
        return None, None, joined
    return charset, language, text


def value_text(value: Value) -> str:
    """Return a parameter's value as text; an RFC 2231 value is decoded by its charset."""
    if isinstance(value, str):
        return value if value.isascii() else decode_raw(value, "latin-1")
    charset, _, text = value
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:  # mixed with pieces that were not percent-encoded
        return text
    return decode_bytes(data, charset)[0]


def decode_words(text: str) -> str:
    """Decode RFC 2047 encoded words, also within quotes or other text; keep what is broken."""
    if "=?" not in text:
        return text
    return _ENCODED_WORD.sub(_decode_word, _BETWEEN_WORDS.sub(r"\1", text))


def _decode_word(match: re.Match[str]) -> str:
    charset, kind, text = match.groups()
    data = _raw(text)
    if kind in "qQ":
        data = _Q_BYTE.sub(lambda byte: bytes([int(byte.group(1), 16)]), data.replace(b"_", b" "))
    else:
        try:
            data = a2b_base64(data.rstrip(b"=") + b"==")
        except Base64Error:
            try:
                data = a2b_base64(data.rstrip(b"=")[:-1] + b"==")
            except Base64Error:
                return match.group()
    return decode_bytes(data, charset.partition("*")[0])[0]


def disguises(name: str) -> list[str]:
    """Return what else a mail client or an operating system may take a name for; plainest last.

    Encoded words are decoded, percent-encoding too, folded lines joined; control and invisible
    characters (NUL, direction marks, zero-width blanks) taken out, look-alikes of ASCII characters
    replaced, a trailing comment, trailing dots and blanks, quotes and slashes dropped. What follows
    a NUL, or the colon of an alternate data stream, is dropped as well.

    Only names that differ from ``name`` are returned.
    """
    seen = {name: None}  # a dictionary as an ordered set

    def add(form: str) -> None:
        seen.setdefault(form)

    add(decode_raw(name, "latin-1"))
    if "\n" in name or "\r" in name:
        for form in list(seen):
            add(_FOLD.sub("", form))
            add(_FOLD.sub(" ", form))
    for form in list(seen):
        add(decode_words(form))
    for form in list(seen):
        if "%" in form:
            add(decode_bytes(unquote_to_bytes(_raw(form)), None)[0])
    for form in list(seen):
        if form.startswith('"') and ";" in form:
            add(form.partition(";")[0])  # the quote was never closed
        if "(" in form:
            add(_COMMENT.sub("", form.rstrip(_AROUND)))
    for form in list(seen):
        for end in "\0:":
            head, mark, _ = form.partition(end)
            if mark:
                add(head)
    for form in list(seen):
        add(_plain(form))
    del seen[name]
    return [form for form in seen if form]


def _plain(name: str) -> str:
    if not name.isascii() or not name.isprintable():
        # Each character by itself: a whole name takes quadratic time if its marks are in disorder.
        name = name.translate({ord(char): _plain_character(char) for char in set(name)})
    return name.strip(_AROUND)


def _plain_character(char: str) -> str:
    """Return the ASCII characters that one looks like, or itself; nothing if it is invisible."""
    text = unicodedata.normalize("NFKC", char.translate(_DOTS)).translate(_DOTS)
    return "".join(
        " " if each.isspace() else each
        for each in text
        if each.isspace() or unicodedata.category(each) not in ("Cc", "Cf")
    )
