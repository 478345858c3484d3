"""A message as a mail server holds it while its filters change it, one after the other.

Owns in what mail servers differ here: where an added header goes, what the numbers of headers
count, who is a recipient already, how a value and a body are put in order. Milter._message has the
messages and changes themselves.

Source: wire spec 5, and what Postfix 3.7.11 and Sendmail 8.17.1.9 stored when filters asked them
for the same changes (tests/integration/test_outcome.py plays the cases again).
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
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
    address_key,
    bracketed,
    is_header,
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
# It cuts the values of its own headers, whoever gave them.
_SENDMAIL_LONGEST: Final = 2047
_UNFOLDED: Final = re.compile(rb"\n(?![ \t])")
_LINE_END: Final = re.compile(rb"\r?\n")
_DOT_ATOM: Final = re.compile(
    r"[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+(\.[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+)*"
)
# One address of a list: commas in quotes or in angle brackets are part of it.
_LISTED: Final = re.compile(r'(?:"[^"]*"|<[^>]*>|[^,"<])+')
_COMMENT: Final = re.compile(r"\([^()]*\)")
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
        """Makes the changes of one filter; to be called once for each.

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
            elif self._rules == "sendmail":
                self._body = _LINE_END.sub(b"\r\n", self._body)
        headers.done()

    def seen(self) -> Message:
        """Returns the message as the server would show it to the next filter."""
        message = self._message(self._headers.seen(), self._body)
        if self._rules == "postfix" and not all(is_header(name) for name, _ in message.headers):
            # It reads its file again: what is no header ends them.
            again = Message.from_bytes(message.as_bytes())
            message.headers, message.body = again.headers, again.body
        return message

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
    # One that Sendmail would make, or that an earlier filter deleted: a place, which waits for a
    # value and has no number.
    DEFAULT = enum.auto()
    GONE = enum.auto()  # the same, but it waits for nothing


@dataclass
class _Entry:
    name: bytes
    value: Optional[bytes]  # None: deleted, or never there; it may go on counting
    kind: _Kind = _Kind.PLAIN
    made: bool = False  # by Sendmail, which leaves it out where it has no value

    def called(self, name: bytes) -> bool:
        return self.name.lower() == name.lower()


class _Headers:
    """Headers by nobody's rules: numbers count what the filter saw."""

    def __init__(self, headers: Iterable[Header], renumber: bool = True) -> None:
        self.entries = [_Entry(header.name, header.value) for header in headers]
        self.renumber = renumber

    def called(self, name: bytes) -> Iterator[int]:
        """Yields the places of the headers of that name that have numbers."""
        key = Header(name, b"").key
        for place, entry in enumerate(self.entries):
            if entry.kind is _Kind.PLAIN and Header(entry.name, b"").key == key:
                yield place

    def find(self, number: int, name: bytes) -> Optional[int]:
        """Returns the place of the header of that number and name."""
        return next(itertools.islice(self.called(name), max(number, 1) - 1, None), None)

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

    def done(self) -> None:
        """A filter has made its changes."""

    def seen(self) -> list[Header]:
        return [
            Header(entry.name, entry.value)
            for entry in self.entries
            if entry.kind is _Kind.PLAIN and entry.value is not None
        ]

    def stored(self, received: Optional[bytes]) -> list[Header]:
        return [header for header, _ in self._stored(received)]

    def _stored(self, received: Optional[bytes]) -> Iterator[tuple[Header, _Entry]]:
        for entry in self.entries:
            value = entry.value
            if entry.kind is _Kind.OWN:
                value = None if received is None else b" " + received + (value or b"")
            if entry.kind in (_Kind.OWN, _Kind.PLAIN) and value is not None:
                yield Header(entry.name, value), entry


class _PostfixHeaders(_Headers):
    """Headers as Postfix has them: lines of a file, its own Received header among them."""

    def __init__(self, headers: Iterable[Header]) -> None:
        super().__init__(headers)
        for entry in self.entries:
            entry.name = entry.name.rstrip(b" \t")
        self.entries.insert(0, _Entry(_RECEIVED, None, _Kind.OWN))

    def called(self, name: bytes) -> Iterator[int]:
        # What a filter made that is no header ends them for all that come later.
        for place, entry in enumerate(self.entries):
            if not is_header(entry.name):
                return
            if entry.kind is _Kind.PLAIN and entry.name.rstrip(b" \t").lower() == name.lower():
                yield place

    def seen(self) -> list[Header]:
        return [Header(name.rstrip(b" \t"), value) for name, value in super().seen()]

    def _put(self, place: int, name: bytes, blank: bytes, value: bytes) -> None:
        line = name + b":" + blank + _UNFOLDED.sub(b"\n\t", value)
        if place and line[:1] in (b" ", b"\t"):
            # It goes on with the one before.
            before = self.entries[place - 1]
            before.value = (before.value or b"") + b"\n" + line
        else:
            # A colon in the name ends it.
            name, _, value = line.partition(b":")
            self.entries.insert(place, _Entry(name, value))

    def add(self, name: bytes, blank: bytes, value: bytes) -> None:
        self._put(len(self.entries), name, blank, value)

    def insert(self, index: int, name: bytes, blank: bytes, value: bytes) -> None:
        there = itertools.takewhile(lambda entry: is_header(entry.name), self.entries)
        place = index if index < sum(1 for _ in there) else len(self.entries)
        self._put(place, name, blank, value)

    def change(self, number: int, name: bytes, blank: bytes, value: bytes) -> None:
        place = self.find(number, name)
        if place is None:
            self.add(name, blank, value)
        else:
            del self.entries[place]
            self._put(place, name, blank, value)


class _SendmailHeaders(_Headers):
    """Headers as Sendmail has them: a list in which everything keeps its place and its number."""

    def __init__(self, headers: Iterable[Header]) -> None:
        super().__init__(headers, renumber=False)
        for entry in self.entries:
            entry.name = entry.name.rstrip(b" \t")
        self.resent = any(entry.name.lower() in _SENDMAIL_RESENT for entry in self.entries)
        self.entries[:0] = [
            _Entry(_RETURN_PATH, None, _Kind.DEFAULT, made=True),
            _Entry(_RECEIVED, None, _Kind.OWN),
            *(_Entry(name, None, _Kind.DEFAULT, made=True) for name in _SENDMAIL_DEFAULTS),
        ]

    def called(self, name: bytes) -> Iterator[int]:
        # Byte by byte but for case: "X " is not "X".
        for place, entry in enumerate(self.entries):
            if entry.kind is _Kind.PLAIN and entry.called(name):
                yield place

    def find(self, number: int, name: bytes) -> Optional[int]:
        return super().find(_signed(number), name)

    def done(self) -> None:
        for entry in self.entries:
            if entry.kind is _Kind.PLAIN and entry.value is None:
                entry.kind = _Kind.GONE if entry.called(_RECEIVED) else _Kind.DEFAULT

    def add(self, name: bytes, blank: bytes, value: bytes) -> None:
        if not name:
            return
        self._put(name, blank + value, 0)

    def _put(self, name: bytes, value: bytes, which: int) -> None:
        """Gives a value to the first or last place that waits for one, else to a new header."""
        same = [entry for entry in self.entries if entry.called(name)]
        defaults = [entry for entry in same if entry.kind is _Kind.DEFAULT]
        if defaults:
            # The name stays spelled as it was there.
            defaults[which].kind, defaults[which].value = _Kind.PLAIN, value
        else:
            place = self.entries.index(same[0]) if same else len(self.entries)
            self.entries.insert(place, _Entry(name, value))

    def insert(self, index: int, name: bytes, blank: bytes, value: bytes) -> None:
        if name:
            # Return-Path stays on top, and does not count.
            place = max(_signed(index), 0) + 1
            self.entries.insert(place, _Entry(name, blank + value))

    def change(self, number: int, name: bytes, blank: bytes, value: bytes) -> None:
        place = self.find(number, name)
        if place is not None:
            self.entries[place].value = blank + value
        elif name:
            self._put(name, blank + value, -1)

    def stored(self, received: Optional[bytes]) -> list[Header]:
        stored = []
        for header, entry in self._stored(received):
            value = header.value[:_SENDMAIL_LONGEST] if entry.made else header.value
            empty = entry.made and value in (b"", b" ")
            if not empty and (self.resent or header.name.lower() not in _SENDMAIL_RESENT):
                stored.append(Header(header.name, _sendmail_value(value)))
        return stored


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
        self.there = {address_key(to.address) for to in message.recipients}

    def add(self, address: str, params: tuple[str, ...]) -> None:
        key = address_key(address)
        if key not in self.there:
            self.there.add(key)
            self.recipients.append(Recipient(address, params))

    def delete(self, address: str) -> None:
        key = address_key(address)
        self.there.discard(key)
        self.recipients = [to for to in self.recipients if address_key(to.address) != key]

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
        self.known: set[tuple[str, ...]] = set()
        for to in message.recipients:
            self._put(to, f"rfc822;{_postfix_address(to.address)}")

    def _put(self, to: Recipient, original: str) -> None:
        notify = sorted(_param(to.params, "NOTIFY").upper().split(","))
        original = _param(to.params, "ORCPT") or original
        key = (_postfix_address(to.address).lower(), original.lower(), *notify)
        if key not in self.known:
            self.known.add(key)
            self.recipients.append(to)

    def add(self, address: str, params: tuple[str, ...]) -> None:
        address = _postfix_address(address)
        if address:
            self._put(Recipient(bracketed(address), params), "")

    def delete(self, address: str) -> None:
        address = _postfix_address(address)
        # It may come again, in whatever case, also where none in this case was there to delete.
        self.known = {key for key in self.known if key[0] != address.lower()}
        self.recipients = [to for to in self.recipients if _postfix_address(to.address) != address]

    def change_sender(self, address: str, params: Optional[str]) -> None:
        self.sender = bracketed(_postfix_address(address))
        for word in _dsn(params or ""):
            self.params = [old for old in self.params if _name(old) != _name(word)] + [word]


class _SendmailEnvelope(_Envelope):
    """An envelope as Sendmail has it: addresses stay as they are given, and are compared bare."""

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.recipients = []
        self.there = set()
        self.deleted: dict[str, Recipient] = {}
        for to in message.recipients:
            self._put(to)

    def _put(self, to: Recipient) -> None:
        address = _plain(to.address)
        if address in self.there:
            return
        self.there.add(address)
        before = self.deleted.get(address)
        if before is not None:
            # It is the old one again, and what was to be told of it before is to be told, too.
            params = to.params
            if _param(before.params, "NOTIFY") or _param(params, "NOTIFY"):
                wanted = ",".join(sorted(_notices(before) | _notices(to))) or "NEVER"
                others = [word for word in params if _name(word) != "NOTIFY"]
                params = (*others, f"NOTIFY={wanted}")
            to = Recipient(before.address, params)
        self.recipients.append(to)

    def add(self, address: str, params: tuple[str, ...]) -> None:
        if all(_sendmail_takes(word) for word in params):
            for each in _LISTED.findall(address):
                if each.strip() not in _NULL:
                    self._put(Recipient(_in_brackets(each.strip()), params))

    def delete(self, address: str) -> None:
        address = _plain(address)
        self.there.discard(address)
        for to in self.recipients:
            if _plain(to.address) == address:
                self.deleted[address] = to
        self.recipients = [to for to in self.recipients if _plain(to.address) != address]

    def change_sender(self, address: str, params: Optional[str]) -> None:
        if not address:
            return
        self.sender = _in_brackets(address)
        if params is not None:
            # Also an empty list takes the sender's own back.
            self.params = [old for old in self.params if _name(old) not in _DSN] + _dsn(params)


_DSN: Final = frozenset({"RET", "ENVID"})
_NOTIFY: Final = frozenset({"SUCCESS", "FAILURE", "DELAY"})


def _sendmail_takes(param: str) -> bool:
    """Tells whether Sendmail adds a recipient with this parameter."""
    name, value = _name(param), param.partition("=")[2].upper()
    if name == "NOTIFY":
        return value == "NEVER" or set(value.split(",")) <= _NOTIFY
    return name == "ORCPT"


def _dsn(params: str) -> list[str]:
    """Returns the parameters that a server takes from a filter's new sender."""
    return [word for word in params.split() if _name(word) in _DSN]


def _notices(to: Recipient) -> frozenset[str]:
    """Returns what is told of this recipient, NOTIFY=NEVER as nothing (RFC 3461 4.1)."""
    wanted = _param(to.params, "NOTIFY").upper() or "FAILURE,DELAY"
    return frozenset(wanted.split(",")) - {"NEVER"}


def _name(param: str) -> str:
    return param.partition("=")[0].upper()


def _param(params: Iterable[str], name: str) -> str:
    """Returns the value of an ESMTP parameter, "" if there is none."""
    return next((word.partition("=")[2] for word in params if _name(word) == name), "")


def _in_brackets(address: str) -> str:
    return address if "<" in address else bracketed(address)


def _plain(address: str) -> str:
    """Returns an address without comment, phrase, brackets and route."""
    if '"' not in address:
        address = _COMMENT.sub("", address)
    _, opened, rest = address.partition("<")
    address = (rest.partition(">")[0] if opened else address).strip()
    return address.partition(":")[2] if address.startswith("@") else address


def _postfix_address(address: str) -> str:
    """Returns an address as Postfix compares it: plain, without quotes in vain."""
    local, at, domain = _plain(address).rpartition("@")
    if at and len(local) > 2 and local[0] == local[-1] == '"' and _DOT_ATOM.fullmatch(local[1:-1]):
        local = local[1:-1]
    return local + at + domain
