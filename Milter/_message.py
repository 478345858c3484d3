"""A mail message with its envelope, and the changes that a filter can make to it.

Owns what a message and a change are. Knows no packet, no socket and no step: where changes come
from is none of its business, and what a mail server makes of them is in Milter._heldmessage. The
public names are in Milter.mta.

Source: wire spec 1.3 (how headers and body are told) and 5 (what each change means).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional, Union

Text = Union[str, bytes]
"""Text that goes on the wire: `str`, encoded as UTF-8 with surrogateescape, or `bytes`."""


def to_wire(text: Text) -> bytes:
    """Returns a text as the bytes that stand for it on the wire.

    Raises:
        ValueError: it holds a NUL, which ends a string on the wire, or a surrogate for no byte.
    """
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    if b"\0" in data:
        raise ValueError(f"a NUL cannot be sent to a filter: {data[:60]!r}")
    return data


def from_wire(data: bytes) -> str:
    """Returns bytes from the wire as `str`: UTF-8, and what is not so as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def shown(text: str) -> str:
    """Returns a text on one line, what a terminal could not show or could obey written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# -- addresses -----------------------------------------------------------------------------------


def bracketed(address: str) -> str:
    """Returns an envelope address in the angle brackets that SMTP puts around it."""
    return address if address.startswith("<") else f"<{address}>"


def bare(address: str) -> str:
    """Returns an envelope address without angle brackets."""
    if address.startswith("<") and address.endswith(">"):
        return address[1:-1]
    return address


def address_key(address: str) -> str:
    """Returns what is the same for the same envelope address: bare, the domain in lower case."""
    local, at, domain = bare(address).rpartition("@")
    return f"{local}@{domain.lower()}" if at else domain


class Recipient(NamedTuple):
    """A recipient of the envelope."""

    address: str
    """With or without angle brackets."""
    params: tuple[str, ...] = ()
    """ESMTP parameters, such as ``NOTIFY=NEVER``."""


class Header(NamedTuple):
    """One header field, byte by byte as it stands in the message."""

    name: bytes
    """All that stands before the colon."""
    value: bytes
    """All that stands behind the colon, the first blank included; LF and a blank where it folds."""

    @property
    def key(self) -> bytes:
        """The name by which headers are told apart: without blanks behind it, in lower case."""
        return self.name.rstrip(b" \t").lower()


# -- changes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AddHeader:
    """A header is added at the end. ``value`` is as the filter gave it."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"add header {shown(self.name)}: {shown(self.value)}"


@dataclass(frozen=True)
class InsertHeader:
    """A header is put at a place, counted from 0; behind the last where there are fewer."""

    index: int
    name: str
    value: str

    def __str__(self) -> str:
        return f"insert header at {self.index}: {shown(self.name)}: {shown(self.value)}"


@dataclass(frozen=True)
class ChangeHeader:
    """The value of the n-th header of that name is changed, counted from 1 (0 is the first too).

    Where there are fewer, it is added.
    """

    index: int
    name: str
    value: str

    def __str__(self) -> str:
        return f"change header {self.index} of {shown(self.name)}: {shown(self.value)}"


@dataclass(frozen=True)
class DeleteHeader:
    """The n-th header of that name is deleted, counted from 1 (0 is the first too), if it exists.

    On the wire it is a change to an empty value.
    """

    index: int
    name: str

    def __str__(self) -> str:
        return f"delete header {self.index} of {shown(self.name)}"


@dataclass(frozen=True)
class ReplaceBody:
    """A piece of a new body. The first of a message replaces the body, the others are appended."""

    data: bytes

    def __str__(self) -> str:
        return f"replace body: {len(self.data)} bytes"


@dataclass(frozen=True)
class AddRecipient:
    """A recipient is added. ``params``: ESMTP parameters, blank-separated; None for none given."""

    address: str
    params: Optional[str] = None

    def __str__(self) -> str:
        return f"add recipient {_with_params(self.address, self.params)}"


@dataclass(frozen=True)
class DeleteRecipient:
    """A recipient is taken out."""

    address: str

    def __str__(self) -> str:
        return f"delete recipient {shown(self.address)}"


@dataclass(frozen=True)
class ChangeSender:
    """The envelope sender is changed. ``params``: as for :class:`AddRecipient`."""

    address: str
    params: Optional[str] = None

    def __str__(self) -> str:
        return f"change sender {_with_params(self.address, self.params)}"


@dataclass(frozen=True)
class Quarantine:
    """The message is put aside for a human to look at."""

    reason: str

    def __str__(self) -> str:
        return f"quarantine: {shown(self.reason)}"


Modification = Union[
    AddHeader,
    InsertHeader,
    ChangeHeader,
    DeleteHeader,
    ReplaceBody,
    AddRecipient,
    DeleteRecipient,
    ChangeSender,
    Quarantine,
]
"""What a filter may do to a message at its end."""


def _with_params(address: str, params: Optional[str]) -> str:
    return shown(address) if params is None else f"{shown(address)} {shown(params)}".rstrip()


# -- the message ---------------------------------------------------------------------------------

_LINE_END = re.compile(rb"\r?\n")
# RFC 5322 2.2: any printable character of ASCII but the colon, and blanks before the colon (4.5.8).
_NAME = re.compile(rb"[!-9;-~]+[ \t]*")


def is_header(name: bytes) -> bool:
    """Tells whether a line that begins with this, and a colon, is a header."""
    return _NAME.fullmatch(name) is not None


@dataclass
class Message:
    """A message and its envelope.

    Attributes:
        headers: in order, byte by byte.
        body: lines ended by CR LF, as a filter gets it.
        sender: envelope sender, with or without angle brackets; ``<>`` is the null sender.
        sender_params: its ESMTP parameters, such as ``SIZE=1000``.
        recipients: of the envelope.

    The envelope is not read from the headers: an MTA does not do so either.
    """

    headers: list[Header] = field(default_factory=list)
    body: bytes = b""
    sender: str = "<>"
    sender_params: list[str] = field(default_factory=list)
    recipients: list[Recipient] = field(default_factory=list)

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        sender: str = "<>",
        recipients: Iterable[Union[str, Recipient]] = (),
        sender_params: Iterable[str] = (),
    ) -> Message:
        """Reads a message (an ``.eml`` file's content).

        Lines may end in LF or CR LF. Header names, values and folding are kept byte by byte; the
        body's lines are made to end in CR LF. The headers end at the first empty line, or, as at an
        MTA, before the first line that is no header. A first line that begins with ``From `` is
        that of a mailbox file, and left out.

        Args:
            data: the message.
            sender: envelope sender.
            recipients: envelope recipients; a `str` is an address without parameters.
            sender_params: ESMTP parameters of the sender.
        """
        headers: list[Header] = []
        at = 0
        if data.startswith(b"From "):
            at = data.find(b"\n") + 1 or len(data)
        while at < len(data):
            end = data.find(b"\n", at)
            following = len(data) if end < 0 else end + 1
            line = _LINE_END.sub(b"", data[at:following])
            if not line:
                at = following
                break
            if line[:1] in b" \t" and headers:
                last = headers[-1]
                headers[-1] = Header(last.name, last.value + b"\n" + line)
            else:
                name, colon, value = line.partition(b":")
                if not colon or not is_header(name):
                    break
                headers.append(Header(name, value))
            at = following
        return cls(
            headers,
            _LINE_END.sub(b"\r\n", data[at:]),
            sender,
            list(sender_params),
            [to if isinstance(to, Recipient) else Recipient(to) for to in recipients],
        )

    @classmethod
    def from_file(
        cls,
        path: Union[str, os.PathLike[str]],
        sender: str = "<>",
        recipients: Iterable[Union[str, Recipient]] = (),
        sender_params: Iterable[str] = (),
    ) -> Message:
        """Reads a message from a file; arguments as for :meth:`from_bytes`.

        Raises:
            OSError: it cannot be read.
        """
        with open(path, "rb") as file:
            return cls.from_bytes(file.read(), sender, recipients, sender_params)

    def as_bytes(self, newline: bytes = b"\r\n") -> bytes:
        """Returns headers, empty line and body, with lines ended by ``newline``."""
        lines = [
            header.name + b":" + header.value.replace(b"\n", newline) + newline
            for header in self.headers
        ]
        body = self.body if newline == b"\r\n" else self.body.replace(b"\r\n", newline)
        return b"".join(lines) + newline + body

    def get_all(self, name: Text) -> list[bytes]:
        """Returns the values of all headers of that name, without regard to case.

        As they stand in the message, only without the one blank behind the colon.
        """
        key = to_wire(name).lower()
        return [strip_blank(header.value) for header in self.headers if header.key == key]

    def apply(
        self,
        modifications: Iterable[Modification],
        *,
        leading_space: bool = False,
        renumber: bool = True,
        rules: Optional[str] = None,
        received: Optional[Text] = None,
    ) -> Message:
        """Returns the message and envelope as they would look after these changes of one filter.

        With the rules of a mail server it is what that server delivers, down to where an added
        header goes and what numbers count. Without, where servers differ (wire spec section 5), it
        is what Postfix does, but that a header's place is counted among the headers that the filter
        saw, and that a recipient that is there already is not added again, whatever the case of its
        domain. A recipient that is not there is not deleted.

        Args:
            modifications: in the order in which they came.
            leading_space: the filter negotiated to give the blank behind the colon itself
                (HDR_LEADSPC); otherwise one is put there.
            renumber: after a deletion the following headers of that name move up by one (Postfix);
                false: they keep their numbers (Sendmail). Given rules, they decide.
            rules: ``postfix`` or ``sendmail``; None for those of no one server.
            received: given rules, what the server's own Received header says, which stands above
                the others; None to leave it out, where its place is counted all the same.

        Raises:
            ValueError: there are no such rules, or a NUL somewhere.
        """
        # Not above: what a server holds is made of what this module defines.
        from Milter._heldmessage import HeldMessage

        held = HeldMessage(self, rules, renumber=renumber)
        held.change(modifications, leading_space=leading_space)
        return held.stored(received)


def quarantine_reason(modifications: Sequence[Modification]) -> Optional[str]:
    """Returns the reason of the last quarantine among the changes, None if there is none."""
    for change in reversed(modifications):
        if isinstance(change, Quarantine):
            return change.reason
    return None


def strip_blank(value: bytes) -> bytes:
    """Returns a header's value without the one blank that an MTA takes off (wire spec 1.3)."""
    return value[1:] if value.startswith(b" ") else value
