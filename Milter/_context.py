"""The context object: what a callback asks of, and does to, its connection.

Actions are packed here and handed to the engine with the verdict, so that an action costs no
crossing into C and all of them leave in one write. What a packet looks like is protocol.def's to
say; what may be done when is the wire spec's section 5.
"""

from __future__ import annotations

import struct
import sys
import threading
from operator import index as to_index
from typing import Any

from Milter._engine import ffi, lib
from Milter._errors import error, no_keywords
from Milter._reply import reply_text
from Milter._tables import rows

REPLACE_CHUNK = 65535
"""Bytes of one replacement-body packet at most; MTAs expect no more (wire spec 1.2)."""

FLUSH_BYTES = 64 * 1024
"""Queued actions beyond this are sent at once, and do not wait for the verdict."""

_INT_MAX = 2**31 - 1
_INT_MIN = -(2**31)

_GUESTS = 0 if getattr(sys, "_is_gil_enabled", lambda: True)() else 1

_HEAD = struct.Struct(">IB")
_NUMBER = struct.Struct(">I")

_CONTINUATION = "surrogateescape"
"""How bytes that are not UTF-8 pass through `str` and back unchanged."""


def to_c_int(value: Any) -> int:
    """Returns a value as a C function with an `int` argument would see it.

    Raises:
        TypeError: it is no integer.
        OverflowError: it does not fit.
    """
    number = to_index(value)
    if number > _INT_MAX:
        raise OverflowError("signed integer is greater than maximum")
    if number < _INT_MIN:
        raise OverflowError("signed integer is less than minimum")
    return number


def to_bytes(value: Any, function: str, position: int, nullable: bool = False) -> bytes:
    """Returns a text argument as it goes on the wire.

    Args:
        value: `str`, encoded as UTF-8 with surrogateescape, or `bytes`, taken as they are.
        function: name of the function whose argument it is, for the error.
        position: of the argument, from 1.
        nullable: whether None would be allowed too, for the error; the caller handles it.

    Raises:
        TypeError: it is neither.
        UnicodeEncodeError: it holds a surrogate that stands for no byte.
        ValueError: it holds a NUL.
    """
    if isinstance(value, str):
        data = value.encode("utf-8", _CONTINUATION)
    elif isinstance(value, bytes):
        data = value
    else:
        wanted = "str or None" if nullable else "str"
        raise TypeError(
            f"{function}() argument {position} must be {wanted}, not {_type_name(value)}"
        )
    if b"\0" in data:
        raise ValueError("embedded null character")
    return data


def to_text(data: bytes) -> str:
    """Returns bytes from the wire as `str`: UTF-8, and what is not so as lone surrogates."""
    return data.decode("utf-8", _CONTINUATION)


def _type_name(value: Any) -> str:
    return "None" if value is None else type(value).__name__


class _Count:
    """How many contexts there have been (API spec 1.15)."""

    created = 0
    deleted = 0


count = _Count()


class Context:
    """One MTA connection, as the callbacks see it.

    Made by the library only. All callbacks of a connection get the same one. After the connection
    has ended every method but getpriv() and setpriv() raises `milter.error`.
    Source: API spec 1.10.
    """

    __slots__ = (
        "_complained",
        "_connection",
        "_guests",
        "_lists",
        "_lock",
        "_macros",
        "_out",
        "_out_bytes",
        "_priv",
        "_reply",
        "_silent",
        "_step",
        "_view",
    )

    _complained: set[int] | None
    _connection: Any
    _guests: int
    _lists: dict[int, bytes] | None
    _lock: Any
    _macros: list[tuple[int, dict[bytes, bytes]] | None] | None
    _out: list[bytes] | None
    _out_bytes: int
    _priv: Any
    _reply: bytes | None
    _silent: bool
    _step: int
    _view: Any

    def __new__(cls) -> Context:
        raise TypeError("cannot create 'milter.Context' instances")

    def __init_subclass__(cls) -> None:
        raise TypeError("type 'milter.Context' is not an acceptable base type")

    def __del__(self) -> None:
        count.deleted += 1

    # The library's own.

    @staticmethod
    def _create(connection: Any, view: Any) -> Context:
        """Makes the context of a connection that is open."""
        self = object.__new__(Context)
        self._connection = connection
        self._view = view
        self._priv = None
        self._reply = None
        # MLT_STEP_x while a callback runs; else -1, as the engine is at work then and its memory
        # not ours to read. A callback may have other threads work for it, so there is a lock; and
        # as that is rare, the end of a callback takes it only where _guests says that somebody may
        # have it. A guest counts itself before it looks at _step, so one of both sees the other:
        # under the interpreter's lock. Without that, everybody always takes the lock.
        self._step = -1
        self._lock = threading.RLock()
        self._guests = _GUESTS
        self._silent = False  # some steps were negotiated to have no answer
        self._complained = None
        self._out = None
        self._out_bytes = 0
        self._lists = None
        self._macros = None
        count.created += 1
        return self

    def _detach(self) -> None:
        """The connection has ended."""
        self._connection = None
        self._view = None

    def _enter(self) -> int:
        """Keeps the callback that runs now, if one does, from ending; returns its step or -1."""
        self._lock.acquire()
        self._guests += 1
        return self._step

    def _leave(self) -> None:
        """Ends what _enter() began."""
        self._guests -= 1
        self._lock.release()

    def _wait_for_guests(self) -> None:
        """Lets another thread finish that is using the context now."""
        with self._lock:
            pass

    def _has_complained(self, step: int) -> bool:
        """Whether a complaint about a step's answer was made before; from now on it was."""
        if self._complained is None:
            self._complained = set()
        before = step in self._complained
        self._complained.add(step)
        return before

    def _take_out(self) -> bytes:
        """Returns the queued packets, in order, and forgets them."""
        if self._out is None:
            return b""
        out = b"".join(self._out)
        self._out = None
        self._out_bytes = 0
        return out

    def _macro_lists(self) -> bytes:
        """Returns the macro lists as they stand behind the options (wire spec 2.5)."""
        lists = sorted(self._lists.items()) if self._lists is not None else []
        return b"".join(_NUMBER.pack(stage) + names + b"\0" for stage, names in lists)

    def _skip_steps(self, mask: int) -> None:
        """Has the engine answer steps itself: bit 1 << MLT_STEP_x of those that nobody wants."""
        if self._connection is not None:
            self._view.unwanted = mask

    def _negotiated(self) -> tuple[int, int]:
        """Returns the actions and protocol bits that were agreed on."""
        return self._view.actions, self._view.protocol

    def _open(self) -> None:
        if self._connection is None:
            raise error("bad context")

    def _flush(self, failure: str) -> None:
        out = self._take_out()
        if out and lib.mlt_connection_send(self._connection, out, len(out)) != lib.MLT_OK:
            raise error(f"{failure}: {ffi.string(self._view.error).decode('utf-8', 'replace')}")

    def _queue(self, letter: int, payload: bytes) -> None:
        packet = _HEAD.pack(len(payload) + 1, letter) + payload
        if self._out is None:
            self._out = [packet]
        else:
            self._out.append(packet)

    def _act(self, failure: str, action: int, letter: int, payload: bytes) -> None:
        """Queues a modification, if it may be made now."""
        step = self._enter()
        try:
            self._open()
            if step != lib.MLT_STEP_EOM:
                raise error(f"{failure}: only allowed in eom")
            if not self._view.actions & action:
                raise error(f"{failure}: not negotiated with the MTA")
            if len(payload) > self._view.send_payload:
                raise error(f"{failure}: {len(payload)} bytes, more than {self._view.send_payload}")
            self._queue(letter, payload)
            self._out_bytes += len(payload)
            if self._out_bytes >= FLUSH_BYTES:
                self._flush(failure)
        finally:
            self._leave()

    # What callbacks use. All positional.

    @no_keywords
    def getsymval(self, name: str | bytes, /) -> str | None:
        """Returns the value of a macro, or None where the MTA did not send it.

        Args:
            name: with its braces, if it is longer than one character; `j` and `{j}` are the same.

        Raises:
            milter.error: `bad context`: no callback runs.

        The latest step's macros come first. In any callback. Source: wire spec 3.5.
        """
        wanted = to_bytes(name, "getsymval", 1)
        self._open()
        if not wanted:
            return None
        other = None
        if len(wanted) == 1:
            other = b"{" + wanted + b"}"
        elif len(wanted) == 3 and wanted[:1] == b"{" and wanted[2:] == b"}":
            other = wanted[1:2]
        step = self._enter()
        try:
            self._open()
            if step < 0:
                raise error("bad context: macros can only be read while a callback runs")
            present = self._view.stages
            for stage in _STAGES_LATEST_FIRST:
                if not present >> stage & 1:
                    continue
                macros = self._stage_macros(stage)
                value = macros.get(wanted)
                if other is not None and other in macros:
                    # Both spellings may be there; the one that came first counts.
                    value = _first(macros, wanted, other)
                if value is not None:
                    return to_text(value)
        finally:
            self._leave()
        return None

    def _stage_macros(self, stage: int) -> dict[bytes, bytes]:
        """Returns the macros of one stage, parsed once for each time that the MTA sent them."""
        face = self._view.macros[stage]
        generation = face.generation
        if self._macros is None:
            self._macros = [None] * lib.MLT_STAGES
        cached = self._macros[stage]
        if cached is not None and cached[0] == generation:
            return cached[1]
        macros: dict[bytes, bytes] = {}
        if face.len:
            words = ffi.unpack(face.data, face.len).split(b"\0")
            for name, value in zip(words[::2], words[1::2]):
                macros.setdefault(name, value)
        self._macros[stage] = (generation, macros)
        return macros

    @no_keywords
    def setreply(self, rcode: str | bytes, xcode: str | bytes | None, /, *msg: str | bytes) -> None:
        """Sets the SMTP reply that a later REJECT or TEMPFAIL of the same class is sent with.

        Args:
            rcode: three digits, the first 4 or 5.
            xcode: RFC 3463 status code, or None.
            msg: the lines of text, 32 at most of 980 bytes at most. `%` is passed on as it is.

        Raises:
            milter.error: `cannot set reply`; what was set before stays.

        In any callback; it stays until it is used. Source: wire spec 4.3 to 4.5.
        """
        if len(msg) > 32:
            raise TypeError(f"setreply() takes at most 34 arguments ({len(msg) + 2} given)")
        code = to_bytes(rcode, "setreply", 1)
        enhanced = None if xcode is None else to_bytes(xcode, "setreply", 2, nullable=True)
        lines = [to_bytes(line, "setreply", n) for n, line in enumerate(msg, start=3)]
        self._open()
        try:
            self._reply = reply_text(code, enhanced, lines)
        except ValueError as reason:
            raise error(f"cannot set reply: {reason}") from None

    @no_keywords
    def addheader(self, name: str | bytes, value: str | bytes, idx: int = -1, /) -> None:
        """Adds a header.

        Args:
            name: without the colon; not empty.
            value: folded lines with LF and a blank; may be empty.
            idx: below 0: behind the others; else the place counted from 0, 0 being the top.

        Raises:
            milter.error: `cannot add header`.

        Only in eom, with ADDHDRS. Source: wire spec 5.
        """
        field = to_bytes(name, "addheader", 1)
        text = to_bytes(value, "addheader", 2)
        place = to_c_int(idx)
        if not field:
            self._open()
            raise error("cannot add header: the name is empty")
        payload = field + b"\0" + text + b"\0"
        if place < 0:
            self._act("cannot add header", lib.SMFIF_ADDHDRS, lib.SMFIR_ADDHEADER, payload)
        else:
            payload = _NUMBER.pack(place) + payload
            self._act("cannot add header", lib.SMFIF_ADDHDRS, lib.SMFIR_INSHEADER, payload)

    @no_keywords
    def chgheader(self, name: str | bytes, idx: int, value: str | bytes | None, /) -> None:
        """Changes or deletes a header.

        Args:
            name: without the colon; not empty.
            idx: which of that name, counted from 1; 0 is taken as 1 by MTAs.
            value: the new value; None or empty deletes.

        Raises:
            milter.error: `cannot change header`.

        Only in eom, with CHGHDRS. Source: wire spec 5.
        """
        field = to_bytes(name, "chgheader", 1)
        place = to_c_int(idx)
        text = b"" if value is None else to_bytes(value, "chgheader", 3, nullable=True)
        if not field or place < 0:
            self._open()
            raise error("cannot change header: the name is empty or the index below 0")
        payload = _NUMBER.pack(place) + field + b"\0" + text + b"\0"
        self._act("cannot change header", lib.SMFIF_CHGHDRS, lib.SMFIR_CHGHEADER, payload)

    @no_keywords
    def addrcpt(self, rcpt: str | bytes, params: str | bytes | None = None, /) -> None:
        """Adds a recipient.

        Args:
            rcpt: the address, usually in angle brackets; not empty.
            params: ESMTP parameters, separated by blanks; None for none.

        Raises:
            milter.error: `cannot add recipient`.

        Only in eom, with ADDRCPT, or ADDRCPT_PAR where params are given. Source: wire spec 5.
        """
        failure = "cannot add recipient"
        payload = self._address(rcpt, "addrcpt", failure)
        if params is None:
            self._act(failure, lib.SMFIF_ADDRCPT, lib.SMFIR_ADDRCPT, payload)
        else:
            payload += to_bytes(params, "addrcpt", 2, nullable=True) + b"\0"
            self._act(failure, lib.SMFIF_ADDRCPT_PAR, lib.SMFIR_ADDRCPT_PAR, payload)

    @no_keywords
    def delrcpt(self, rcpt: str | bytes, /) -> None:
        """Removes a recipient.

        Args:
            rcpt: the address exactly as the MTA gave it, brackets included; not empty.

        Raises:
            milter.error: `cannot delete recipient`.

        Only in eom, with DELRCPT. Source: wire spec 5.
        """
        failure = "cannot delete recipient"
        payload = self._address(rcpt, "delrcpt", failure)
        self._act(failure, lib.SMFIF_DELRCPT, lib.SMFIR_DELRCPT, payload)

    @no_keywords
    def chgfrom(self, sender: str | bytes, params: str | bytes | None = None, /) -> None:
        """Changes the envelope sender.

        Args:
            sender: the address; `<>` is the null sender; not empty.
            params: ESMTP parameters, separated by blanks; None for none.

        Raises:
            milter.error: `cannot change sender`.

        Only in eom, with CHGFROM. Source: wire spec 5.
        """
        failure = "cannot change sender"
        payload = self._address(sender, "chgfrom", failure)
        if params is not None:
            payload += to_bytes(params, "chgfrom", 2, nullable=True) + b"\0"
        self._act(failure, lib.SMFIF_CHGFROM, lib.SMFIR_CHGFROM, payload)

    def _address(self, value: str | bytes, function: str, failure: str) -> bytes:
        address = to_bytes(value, function, 1)
        if not address:
            self._open()
            raise error(f"{failure}: the address is empty")
        return address + b"\0"

    @no_keywords
    def replacebody(self, data: str | bytes | bytearray | memoryview, /) -> None:
        """Replaces the body; further calls for the same message append.

        Args:
            data: with CRLF line ends; `str` is encoded as UTF-8. May be empty.

        Raises:
            milter.error: `cannot replace message body`.

        Only in eom, with CHGBODY. Source: wire spec 5.
        """
        if isinstance(data, str):
            body = data.encode("utf-8", _CONTINUATION)
        elif isinstance(data, (bytes, bytearray, memoryview)):
            body = bytes(data)
        else:
            raise TypeError(
                f"replacebody() argument 1 must be str or a bytes-like object, "
                f"not {_type_name(data)}"
            )
        for start in range(0, max(len(body), 1), REPLACE_CHUNK):
            self._act(
                "cannot replace message body",
                lib.SMFIF_CHGBODY,
                lib.SMFIR_REPLBODY,
                body[start : start + REPLACE_CHUNK],
            )

    @no_keywords
    def quarantine(self, reason: str | bytes, /) -> None:
        """Has the MTA hold the message. A verdict must follow all the same.

        Args:
            reason: for the administrator; not empty.

        Raises:
            milter.error: `cannot quarantine message`.

        Only in eom, with QUARANTINE. Source: wire spec 5.
        """
        failure = "cannot quarantine message"
        text = to_bytes(reason, "quarantine", 1)
        if not text:
            self._open()
            raise error(f"{failure}: the reason is empty")
        self._act(failure, lib.SMFIF_QUARANTINE, lib.SMFIR_QUARANTINE, text + b"\0")

    @no_keywords
    def progress(self, /) -> None:
        """Tells the MTA that the filter is still at work, and sends what was queued.

        Raises:
            milter.error: `cannot notify progress`.

        Has an effect in eom only: elsewhere Sendmail would end the connection, so there it does
        nothing. Source: wire spec 4.6.
        """
        step = self._enter()
        try:
            self._open()
            if step == lib.MLT_STEP_EOM:
                self._queue(lib.SMFIR_PROGRESS, b"")
                self._flush("cannot notify progress")
        finally:
            self._leave()

    @no_keywords
    def setsymlist(self, stage: int, names: str | bytes, /) -> None:
        """Asks the MTA for certain macros at a stage, instead of its own choice.

        Args:
            stage: M_CONNECT to M_EOH; once per stage and connection.
            names: separated by blanks or commas; may be empty.

        Raises:
            milter.error: `cannot set macro list`.

        Only in negotiate. Source: wire spec 2.5.
        """
        failure = "cannot set macro list"
        number = to_c_int(stage)
        text = to_bytes(names, "setsymlist", 2)
        self._open()
        if self._step != lib.MLT_STEP_NEGOTIATE:
            raise error(f"{failure}: only allowed in negotiate")
        if number not in _STAGES_LATEST_FIRST:
            raise error(f"{failure}: there is no stage {number}")
        if self._lists is None:
            self._lists = {}
        if number in self._lists:
            raise error(f"{failure}: stage {number} has one already")
        if _OPTIONS + len(self._macro_lists()) + 5 + len(text) > self._view.send_payload:
            raise error(f"{failure}: the lists are too long")
        self._lists[number] = text

    @no_keywords
    def setpriv(self, priv: Any, /) -> Any:
        """Keeps an object with the connection.

        Args:
            priv: any object.

        Returns:
            The one that was kept before, None at first.

        At any time, also after the connection has ended.
        """
        previous, self._priv = self._priv, priv
        return previous

    @no_keywords
    def getpriv(self, /) -> Any:
        """Returns the object that setpriv() kept, or None. At any time."""
        return self._priv


Context.__module__ = "milter"


def _first(macros: dict[bytes, bytes], one: bytes, other: bytes) -> bytes | None:
    """Returns the value of that of two names which the MTA sent first."""
    for name, value in macros.items():
        if name in (one, other):
            return value
    return None


_STAGES_LATEST_FIRST = tuple(int(row.value) for row in reversed(tuple(rows(lib.mlt_stages))))
_OPTIONS = 12  # bytes of the three words in front of the macro lists
