"""What `Milter.test` and `Milter.testctx` share: a message fed, and what the filter did, recorded.

Only functions for what a filter may not see: `TestBase` is mixed into the filter's class, where
every further method could hide one of the filter's own. Knows the package, never a connection.
Source: API spec 3.12 and 3.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.header import Header, decode_header
from email.parser import BytesHeaderParser
from io import BytesIO
from typing import Any, BinaryIO, Callable, NamedTuple

import mime
from Milter._constants import CONTINUE, NOREPLY, SKIP
from Milter._decorators import MACRO_CALLBACKS, MACROS_PER_LIST
from Milter._errors import error

NEGOTIATING = -1
"""What `_stage` holds during negotiate; else a stage of MACRO_CALLBACKS, or None."""

PIECE = 8192
"""Bytes of one body callback."""

PORT = 1234
"""The client's port."""

_STAGES = len(MACRO_CALLBACKS)
_UNKNOWN = "unknown-8bit"  # what the email package calls the charset of raw bytes


class _NotByItself:
    """A `__test__` that keeps pytest from taking a class named Test... for a class of tests.

    It is inherited, as filters' suites call what they derive Test..., too. A unittest.TestCase
    among the bases makes it a class of tests after all.
    """

    def __get__(self, instance: object, owner: type) -> bool:
        return any(
            base.__name__ == "TestCase" and base.__module__.partition(".")[0] == "unittest"
            for base in owner.__mro__
        )


class Recorder:
    """The context's side of a filter under test: writes down what the filter asks for.

    Suites of filters look at the attributes, which therefore have pymilter's names.
    """

    __test__ = _NotByItself()

    def __init__(self) -> None:
        self._macros: dict[str, str] = {}
        self._symlist: list[set[bytes] | None] = [None] * _STAGES
        self._stage: int | None = None
        self._protocol = 0
        self._sender: str | None = None
        self._addrcpt: list[Any] = []
        self._delrcpt: list[str] = []
        self._reply: tuple[str | None, ...] | None = None
        self._quarantine_reason: str | None = None
        self._msg: Any = None
        self._body: BytesIO | None = None
        self._bodyreplaced = False
        self._headerschanged = False
        self._envfromchanged = False

    def getsymval(self, name: str) -> str | None:
        """Returns a macro; None if it is not defined, or not in the symlist of this stage."""
        spellings = _spellings(name)
        if self._stage is not None and self._stage >= 0:
            wanted = self._symlist[self._stage]
            if wanted is not None and not any(each.encode() in wanted for each in spellings):
                return None
        for each in spellings:
            if each in self._macros:
                return self._macros[each]
        return None

    def setreply(
        self, rcode: str, xcode: str | None = None, msg: str | None = None, *ml: str
    ) -> None:
        """Records the reply as `_reply`: (rcode, xcode, line, ...)."""
        self._reply = (rcode, xcode, *ml) if msg is None else (rcode, xcode, msg, *ml)

    def addheader(self, field: str, value: str, idx: int = -1) -> None:
        """Appends a header to `_msg`. Only in eom."""
        _require_eom(self, "addheader")
        _message(self)[field] = value
        self._headerschanged = True

    def chgheader(self, field: str, idx: int, value: str | None) -> None:
        """Appends a header to `_msg`; with '' or None, deletes all of that name. Only in eom."""
        _require_eom(self, "chgheader")
        if value in ("", None):
            del _message(self)[field]
        else:
            _message(self)[field] = value
        self._headerschanged = True

    def delrcpt(self, rcpt: str) -> None:
        """Appends a recipient to `_delrcpt`. Only in eom."""
        _require_eom(self, "delrcpt")
        self._delrcpt.append(rcpt)

    def replacebody(self, body: str | bytes) -> None:
        """Writes to `_body`. Only in eom."""
        target = _require_eom(self, "replacebody")
        target.write(body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body)
        self._bodyreplaced = True

    def chgfrom(self, sender: str, params: str | None = None) -> None:
        """Records a new `_sender`. Only in eom."""
        _require_eom(self, "chgfrom")
        self._sender = sender
        self._envfromchanged = True

    def quarantine(self, reason: str) -> None:
        """Records the reason as `_quarantine_reason`. Only in eom."""
        _require_eom(self, "quarantine")
        self._quarantine_reason = reason


def _spellings(name: str) -> tuple[str, ...]:
    """Returns how a macro may be written: braces around a single letter make no difference."""
    if len(name) == 1:
        return name, "{" + name + "}"
    if len(name) == 3 and name[0] == "{" and name[2] == "}":
        return name, name[1]
    return (name,)


def _require_eom(recorder: Recorder, method: str) -> BytesIO:
    if recorder._body is None:
        raise OSError(f"{method} not called from eom()")
    return recorder._body


def _message(recorder: Recorder) -> Any:
    """Returns `_msg`; where the callbacks were called one by one, a new one at first."""
    if recorder._msg is None:
        recorder._msg = mime.MimeMessage()
    return recorder._msg


def add_recipient(recorder: Recorder, recipient: Any) -> None:
    """Appends what a filter gave to addrcpt to `_addrcpt`."""
    _require_eom(recorder, "addrcpt")
    recorder._addrcpt.append(recipient)


def record_macros(recorder: Recorder, stage: int, names: bytes) -> None:
    """Records which macros a filter wants at a stage.

    Args:
        recorder: whose `_symlist` it is.
        stage: M_CONNECT to M_EOH, once each.
        names: 5 at most, separated by single blanks.

    Raises:
        RuntimeError: not in negotiate.
        ValueError: more than 5.
        milter.error: no such stage, or it has a list; the real context says the same.
    """
    if recorder._stage != NEGOTIATING:
        raise RuntimeError("setsymlist may only be called from negotiate")
    macros = names.split(b" ")
    if len(macros) > MACROS_PER_LIST:
        raise ValueError("setsymlist limited to 5 macros by MTA")
    if stage not in range(_STAGES):
        raise error(f"cannot set macro list: there is no stage {stage}")
    if recorder._symlist[stage] is not None:
        raise error(f"cannot set macro list: stage {stage} has one already")
    recorder._symlist[stage] = set(macros)


def forget_negotiation(recorder: Recorder) -> None:
    """Makes ready for a new connection."""
    recorder._body = None
    recorder._bodyreplaced = False
    recorder._symlist = [None] * _STAGES


def call(recorder: Recorder, owner: Any, method: str, *args: Any) -> Any:
    """Calls a callback, with the macros of its stage; returns its verdict."""
    return staged(recorder, method, getattr(owner, method), *args)


def staged(recorder: Recorder, method: str, function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function for a callback, with the macros of its stage; returns its verdict.

    NOREPLY is CONTINUE here: whether an answer is sent makes no difference to a test.
    """
    recorder._stage = MACRO_CALLBACKS.get(method)
    try:
        verdict = function(*args)
    finally:
        recorder._stage = None
    return CONTINUE if verdict == NOREPLY else verdict


def eom(recorder: Recorder, owner: Any) -> Any:
    """Calls eom, with `_body` open for what the filter replaces; returns its verdict."""
    recorder._body = BytesIO()
    return call(recorder, owner, "eom")


class Steps(NamedTuple):
    """How a message's steps reach the filter; each call returns the verdict."""

    envfrom: Callable[[str], Any]
    envrcpt: Callable[[str], Any]
    data: Callable[[], Any]
    header: Callable[[str, bytes], Any]
    eoh: Callable[[], Any]
    body: Callable[[BinaryIO], Any]
    eom: Callable[[], Any]


def feed(
    recorder: Recorder, steps: Steps, fp: BinaryIO, sender: str, rcpts: tuple[str, ...]
) -> Any:
    """Feeds a message; returns eom's verdict, or the first before it that is not CONTINUE.

    Args:
        recorder: gets the message as `_msg`, and after eom as `_body` with what was replaced.
        steps: how its steps are called.
        fp: the message; any line ends become LF. A leading mbox line is dropped.
        sender, rcpts: addresses without angle brackets.
    """
    data = fp.read()
    # The second parser splits at the blank line and leaves both halves as they are.
    plain = BytesHeaderParser().parse(BytesIO(data))
    headers = [(name, to_bytes(value)) for name, value in plain.raw_items()]
    del plain["Content-Transfer-Encoding"]  # decode=True is to give bytes, and no more
    body = bytes(plain.get_payload(decode=True))
    _forget_message(recorder)
    recorder._sender = f"<{sender}>"
    recorder._msg = mime.message_from_file(BytesIO(data))
    for verdict in _until_eom(steps, sender, rcpts, headers, body):
        if verdict != CONTINUE:
            return verdict
    verdict = steps.eom()
    result = BytesIO()
    for name, value in headers:
        result.write(name.encode("ascii", "surrogateescape") + b": " + value + b"\n")
    result.write(b"\n")
    if recorder._body is not None and recorder._bodyreplaced:
        body = recorder._body.getvalue()
    result.write(body)
    recorder._body = result
    return verdict


def _forget_message(recorder: Recorder) -> None:
    """Makes ready for a new message. Recipients and sender stay, as they do in pymilter."""
    recorder._body = None
    recorder._bodyreplaced = False
    recorder._headerschanged = False
    recorder._reply = None
    recorder._quarantine_reason = None


def _until_eom(
    steps: Steps,
    sender: str,
    rcpts: tuple[str, ...],
    headers: list[tuple[str, bytes]],
    body: bytes,
) -> Iterator[Any]:
    """Calls the steps before eom one by one; yields their verdicts."""
    yield steps.envfrom(f"<{sender}>")
    for rcpt in rcpts:
        yield steps.envrcpt(f"<{rcpt}>")
    yield steps.data()
    for name, value in headers:
        yield steps.header(name, value)
    yield steps.eoh()
    verdict = steps.body(BytesIO(body))
    # SKIP spares the filter the rest of the body, not the end of the message.
    yield CONTINUE if verdict == SKIP else verdict


def feed_body(fp: BinaryIO, call: Callable[[bytes], Any]) -> Any:
    """Feeds a body in pieces; returns the first verdict that is not CONTINUE, else CONTINUE."""
    while True:
        piece = fp.read(PIECE)
        if not piece:
            return CONTINUE
        verdict = call(piece)
        if verdict != CONTINUE:
            return verdict


def to_bytes(value: str | bytes | Header) -> bytes:
    """Returns a header's value as the MTA would send it.

    Args:
        value: text, with bytes that are not UTF-8 as lone surrogates; or what the email package
            makes of such: a Header. Any other Header is encoded (RFC 2047).
    """
    if isinstance(value, Header):
        try:
            chunks = decode_header(value)
            if any(charset == _UNKNOWN for _, charset in chunks):
                return b"".join(to_bytes(text) for text, _ in chunks)
            value = value.encode()
        except UnicodeEncodeError:  # made of lone surrogates
            value = str(value)
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    return value
