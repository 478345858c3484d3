"""A message as a mail server holds it while its filters change it, one after the other.

Owns in what mail servers differ here: where an added header goes, what the numbers of headers
count, who is a recipient already, how a value and a body are put in order. Milter._message has the
messages and changes themselves.

Source: wire spec 5, and what Postfix 3.7.11 and Sendmail 8.17.1.9 stored when filters asked them
for the same changes (tests/integration/test_outcome.py plays the cases again).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Optional

from Milter._message import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    Header,
    InsertHeader,
    Message,
    Modification,
    Recipient,
    ReplaceBody,
    Text,
    bare,
    bracketed,
    same_address,
    to_wire,
)

RULES: Final = ("postfix", "sendmail")
"""Whose rules there are."""

# Sendmail's headers of its own in the order of its configuration file (the H lines that every .cf
# made by m4 has). Those behind Received, and Return-Path, are there in any message and have no
# value unless the message lacks them; they count all the same.
_RETURN_PATH: Final = b"Return-Path"
_RECEIVED: Final = b"Received"
_SENDMAIL_DEFAULTS: Final = (
    b"Resent-Date",
    b"Date",
    b"Resent-From",
    b"From",
    b"Full-Name",
    b"Resent-Message-Id",
    b"Message-Id",
)
# Sendmail leaves these out of a message that had none of them when it came.
_SENDMAIL_RESENT: Final = frozenset(
    b"resent-" + name
    for name in (b"sender", b"from", b"reply-to", b"to", b"cc", b"bcc", b"date", b"message-id")
)
_UNFOLDED: Final = re.compile(rb"\n(?![ \t])")
_LINE_END: Final = re.compile(rb"\r?\n")
_DOT_ATOM: Final = re.compile(
    r"[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+(\.[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+)*"
)
# What stands for the null sender, or for nobody.
_NULL: Final = frozenset({"", "<>"})


class HeldMessage:
    """A message that a mail server has got and its filters change.

    With several filters in a row the same one is given to each: a server remembers more than the
    message shows, such as that headers have been deleted.

        held = HeldMessage(message, "sendmail")
        held.change(changes_of_the_first_filter)
        next_filter_sees = held.seen()
        held.change(changes_of_the_second)
        result = held.stored()

    Args:
        message: as the first filter sees it; it is not changed itself.
        rules: whose rules hold: one of :data:`RULES`; None for those that no one server has, see
            :meth:`Milter.mta.Message.apply`.
        renumber: for None: whether the headers behind a deleted one of the same name move up.

    Raises:
        ValueError: there are no such rules.
    """

    def __init__(
        self, message: Message, rules: Optional[str] = None, *, renumber: bool = True
    ) -> None:
        self._headers: _Headers
        self._envelope: _Envelope
        if rules is None:
            self._headers = _Headers(message.headers, renumber)
            self._envelope = _Envelope(message)
        elif rules == "postfix":
            self._headers = _PostfixHeaders(message.headers)
            self._envelope = _PostfixEnvelope(message)
        elif rules == "sendmail":
            self._headers = _SendmailHeaders(message.headers)
            self._envelope = _SendmailEnvelope(message)
        else:
            raise ValueError(f"no rules of a mail server: {rules!r}; there are {', '.join(RULES)}")
        self._rules = rules
        self._body = message.body

    def change(self, modifications: Iterable[Modification], *, leading_space: bool = False) -> None:
        """Makes the changes of one filter.

        Args:
            modifications: all that it asked for, in order.
            leading_space: it negotiated to give the blank behind the colon itself (HDR_LEADSPC);
                otherwise one is put there.
        """
        blank = b"" if leading_space else b" "
        headers, envelope = self._headers, self._envelope
        body: Optional[list[bytes]] = None
        for change in modifications:
            if isinstance(change, AddHeader):
                headers.add(to_wire(change.name), blank, to_wire(change.value))
            elif isinstance(change, InsertHeader):
                headers.insert(change.index, to_wire(change.name), blank, to_wire(change.value))
            elif isinstance(change, ChangeHeader):
                headers.change(change.index, to_wire(change.name), blank, to_wire(change.value))
            elif isinstance(change, DeleteHeader):
                headers.delete(change.index, to_wire(change.name))
            elif isinstance(change, ReplaceBody):
                body = [] if body is None else body
                body.append(change.data)
            elif isinstance(change, AddRecipient):
                envelope.add(change.address, tuple((change.params or "").split()))
            elif isinstance(change, DeleteRecipient):
                envelope.delete(change.address)
            elif isinstance(change, ChangeSender):
                envelope.change_sender(change.address, change.params)
        if body is not None:
            self._body = b"".join(body)
            if self._rules == "postfix":
                self._body = _whole_lines(self._body)

    def seen(self) -> Message:
        """Returns the message as the server would show it to the next filter."""
        return self._message(self._headers.seen(), self._body)

    def stored(self, received: Optional[Text] = None) -> Message:
        """Returns the message as the server would deliver it.

        Without what servers do to any message, whether a filter changed it or not: headers that it
        lacks are not added (Sendmail adds Date, From and Message-Id after the filters, Postfix
        shows them to the filters), and lists of addresses are left as they are (Sendmail writes
        them anew).

        Args:
            received: what stands in the server's own Received header, which no filter sees; None
                leaves it out. Not for a message held by nobody's rules.
        """
        body = self._body if self._rules is None else _whole_lines(self._body)
        return self._message(
            self._headers.stored(None if received is None else to_wire(received)), body
        )

    def _message(self, headers: list[Header], body: bytes) -> Message:
        envelope = self._envelope
        return Message(
            headers, body, envelope.sender, list(envelope.params), list(envelope.recipients)
        )


def server_fault(modifications: Sequence[Modification], rules: Optional[str]) -> Optional[str]:
    """Returns the SMTP reply with which a mail server gives up on these changes of one filter.

    Postfix says that it is not set up well when it changes a header without a name, or when pieces
    of a new body come with other changes between them.

    Args:
        modifications: all that the filter asked for, in order.
        rules: whose rules hold.

    Returns:
        None where the server takes them.
    """
    if rules != "postfix":
        return None
    replaced = [isinstance(change, ReplaceBody) for change in modifications]
    pieces = [place for place, is_body in enumerate(replaced) if is_body]
    interrupted = bool(pieces) and pieces[-1] - pieces[0] + 1 != len(pieces)
    nameless = any(
        isinstance(change, (ChangeHeader, DeleteHeader)) and not change.name
        for change in modifications
    )
    if interrupted or nameless:
        return "451 4.3.5 Server configuration problem - try again later"
    return None


# -- headers -------------------------------------------------------------------------------------


class _Kind(enum.Enum):
    PLAIN = enum.auto()
    OWN = enum.auto()  # the server's Received header, which filters neither see nor change
    DEFAULT = enum.auto()  # one that Sendmail would make; filters neither see nor change it


@dataclass
class _Entry:
    name: bytes
    value: Optional[bytes]  # None: deleted, or never there; it may go on counting
    kind: _Kind = _Kind.PLAIN

    def called(self, name: bytes) -> bool:
        return self.name.lower() == name.lower()


class _Headers:
    """Headers by nobody's rules: numbers count what the filter saw."""

    def __init__(self, headers: Iterable[Header], renumber: bool = True) -> None:
        self.entries = [_Entry(header.name, header.value) for header in headers]
        self.renumber = renumber

    def find(self, number: int, name: bytes) -> Optional[int]:
        """Returns the place of the header of that number and name."""
        key = Header(name, b"").key
        places = [
            place
            for place, entry in enumerate(self.entries)
            if entry.kind is _Kind.PLAIN and Header(entry.name, b"").key == key
        ]
        number = max(number, 1)
        return places[number - 1] if number <= len(places) else None

    def add(self, name: bytes, blank: bytes, value: bytes) -> None:
        self.entries.append(_Entry(name, blank + value))

    def insert(self, index: int, name: bytes, blank: bytes, value: bytes) -> None:
        self.entries.insert(index, _Entry(name, blank + value))

    def change(self, number: int, name: bytes, blank: bytes, value: bytes) -> None:
        place = self.find(number, name)
        if place is None:
            self.add(name, blank, value)
        else:
            self.entries[place] = _Entry(name, blank + value)

    def delete(self, number: int, name: bytes) -> None:
        place = self.find(number, name)
        if place is not None:
            if self.renumber:
                del self.entries[place]
            else:
                self.entries[place].value = None

    def seen(self) -> list[Header]:
        return [
            Header(entry.name, entry.value)
            for entry in self.entries
            if entry.kind is _Kind.PLAIN and entry.value is not None
        ]

    def stored(self, received: Optional[bytes]) -> list[Header]:
        stored = []
        for entry in self.entries:
            value = entry.value
            if entry.kind is _Kind.OWN and received is not None:
                value = b" " + received
            if entry.kind is not _Kind.DEFAULT and value is not None:
                stored.append(Header(entry.name, value))
        return stored


class _PostfixHeaders(_Headers):
    """Headers as Postfix has them: a list of what is there, its own Received header among them."""

    def __init__(self, headers: Iterable[Header]) -> None:
        super().__init__(headers)
        for entry in self.entries:
            entry.name = entry.name.rstrip(b" \t")
        self.entries.insert(0, _Entry(_RECEIVED, None, _Kind.OWN))

    def find(self, number: int, name: bytes) -> Optional[int]:
        # Byte by byte but for case: "X " is not "X".
        places = [
            place
            for place, entry in enumerate(self.entries)
            if entry.kind is _Kind.PLAIN and entry.called(name)
        ]
        number = max(number, 1)
        return places[number - 1] if number <= len(places) else None

    def add(self, name: bytes, blank: bytes, value: bytes) -> None:
        super().add(name, blank, _UNFOLDED.sub(b"\n\t", value))

    def insert(self, index: int, name: bytes, blank: bytes, value: bytes) -> None:
        super().insert(index, name, blank, _UNFOLDED.sub(b"\n\t", value))

    def change(self, number: int, name: bytes, blank: bytes, value: bytes) -> None:
        super().change(number, name, blank, _UNFOLDED.sub(b"\n\t", value))


class _SendmailHeaders(_PostfixHeaders):
    """Headers as Sendmail has them: a list in which everything keeps its place and its number."""

    def __init__(self, headers: Iterable[Header]) -> None:
        super().__init__(headers)
        self.resent = any(entry.name.lower() in _SENDMAIL_RESENT for entry in self.entries)
        self.renumber = False
        defaults = [_Entry(name, None, _Kind.DEFAULT) for name in _SENDMAIL_DEFAULTS]
        self.entries[1:1] = defaults
        self.entries.insert(0, _Entry(_RETURN_PATH, None, _Kind.DEFAULT))

    def find(self, number: int, name: bytes) -> Optional[int]:
        return super().find(_signed(number), name)

    def add(self, name: bytes, blank: bytes, value: bytes) -> None:
        if not name:
            return
        same = [entry for entry in self.entries if entry.called(name)]
        default = next((entry for entry in same if entry.kind is _Kind.DEFAULT), None)
        if default is not None:
            # It takes the place of what Sendmail would have written, and its spelling.
            default.kind = _Kind.PLAIN
            default.value = blank + value if value else None
            return
        place = self.entries.index(same[0]) if same else len(self.entries)
        self.entries.insert(place, _Entry(name, blank + value))

    def insert(self, index: int, name: bytes, blank: bytes, value: bytes) -> None:
        if name:
            # Return-Path stays on top, and does not count.
            place = max(_signed(index), 0) + 1
            self.entries.insert(place, _Entry(name, blank + value))

    def change(self, number: int, name: bytes, blank: bytes, value: bytes) -> None:
        place = self.find(number, name)
        if place is None:
            self.add(name, blank, value)
        else:
            self.entries[place].value = blank + value

    def stored(self, received: Optional[bytes]) -> list[Header]:
        return [
            Header(header.name, _sendmail_value(header.value))
            for header in super().stored(received)
            if self.resent or header.name.lower() not in _SENDMAIL_RESENT
        ]


def _signed(number: int) -> int:
    """Returns what the 32 bits of a number are to Sendmail."""
    return number - (1 << 32) if number >= 1 << 31 else number


def _sendmail_value(value: bytes) -> bytes:
    # One line feed that folds nothing, and all of them become blanks.
    return value.replace(b"\n", b" ") if _UNFOLDED.search(value) else value


# -- body ----------------------------------------------------------------------------------------


def _whole_lines(body: bytes) -> bytes:
    """Returns a body in which every line ends in CR LF, the last one too."""
    body = _LINE_END.sub(b"\r\n", body)
    return body if not body or body.endswith(b"\r\n") else body + b"\r\n"


# -- envelope ------------------------------------------------------------------------------------


class _Envelope:
    """An envelope by nobody's rules."""

    def __init__(self, message: Message) -> None:
        self.sender, self.params = message.sender, list(message.sender_params)
        self.recipients = list(message.recipients)

    def add(self, address: str, params: tuple[str, ...]) -> None:
        if not any(same_address(address, to.address) for to in self.recipients):
            self.recipients.append(Recipient(address, params))

    def delete(self, address: str) -> None:
        self.recipients = [to for to in self.recipients if not same_address(address, to.address)]

    def change_sender(self, address: str, params: Optional[str]) -> None:
        self.sender = address
        if params is not None:
            self.params = params.split()


class _PostfixEnvelope(_Envelope):
    """An envelope as Postfix has it.

    A recipient is there already if address, NOTIFY and ORCPT are the same, without regard to case;
    one that the client named without an ORCPT has its own address for that, one that a filter added
    has none. So a filter that adds one of the client's recipients doubles it.
    """

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.recipients = []
        self.keys: list[tuple[str, ...]] = []
        for to in message.recipients:
            self._put(to, f"rfc822;{_postfix_address(to.address)}")

    def _put(self, to: Recipient, original: str) -> None:
        address = _postfix_address(to.address)
        notify = frozenset(_param(to.params, "NOTIFY").upper().split(","))
        original = _param(to.params, "ORCPT") or original
        key = (address.lower(), ",".join(sorted(notify)), original.lower())
        if key not in self.keys:
            self.keys.append(key)
            self.recipients.append(to)

    def add(self, address: str, params: tuple[str, ...]) -> None:
        address = _postfix_address(address)
        if address:
            self._put(Recipient(bracketed(address), params), "")

    def delete(self, address: str) -> None:
        address = _postfix_address(address)
        kept = [
            (key, to)
            for key, to in zip(self.keys, self.recipients)
            if _postfix_address(to.address) != address
        ]
        self.keys = [key for key, _ in kept]
        self.recipients = [to for _, to in kept]

    def change_sender(self, address: str, params: Optional[str]) -> None:
        self.sender = bracketed(_postfix_address(address))
        for word in _dsn(params or ""):
            self.params = [old for old in self.params if _name(old) != _name(word)] + [word]


class _SendmailEnvelope(_Envelope):
    """An envelope as Sendmail has it: addresses are what stands there, byte by byte."""

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.recipients = []
        for to in message.recipients:
            self._put(to)

    def _put(self, to: Recipient) -> None:
        if all(bare(to.address) != bare(other.address) for other in self.recipients):
            self.recipients.append(to)

    def add(self, address: str, params: tuple[str, ...]) -> None:
        if address not in _NULL:
            self._put(Recipient(bracketed(address), params))

    def delete(self, address: str) -> None:
        address = _inside(address)
        self.recipients = [to for to in self.recipients if bare(to.address) != address]

    def change_sender(self, address: str, params: Optional[str]) -> None:
        if not address:
            return
        self.sender = bracketed(address)
        if params is not None:
            # Also an empty list takes the sender's own back.
            self.params = [old for old in self.params if _name(old) not in _DSN] + _dsn(params)


_DSN: Final = frozenset({"RET", "ENVID"})


def _dsn(params: str) -> list[str]:
    """Returns the parameters that a server takes from a filter's new sender."""
    return [word for word in params.split() if _name(word) in _DSN]


def _name(param: str) -> str:
    return param.partition("=")[0].upper()


def _param(params: Iterable[str], name: str) -> str:
    """Returns the value of an ESMTP parameter, "" if there is none."""
    return next((word.partition("=")[2] for word in params if _name(word) == name), "")


def _inside(address: str) -> str:
    """Returns what stands between the first < and the > behind it; all where there is none."""
    _, opened, rest = address.partition("<")
    return rest.partition(">")[0] if opened else address.strip()


def _postfix_address(address: str) -> str:
    """Returns an address as Postfix compares it: no phrase, no route, no quotes without need."""
    address = _inside(address)
    if address.startswith("@"):
        address = address.partition(":")[2]
    local, at, domain = address.rpartition("@")
    if at and len(local) > 2 and local[0] == local[-1] == '"' and _DOT_ATOM.fullmatch(local[1:-1]):
        local = local[1:-1]
    return local + at + domain
