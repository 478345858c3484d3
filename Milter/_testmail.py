"""Messages for tests: from a file, from text, or from the parts that matter to the test.

Milter.testing has the public names.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from email.message import EmailMessage
from email.message import Message as AnyMessage
from email.policy import SMTP
from email.utils import getaddresses
from typing import Final, Optional, Union

from Milter._message import Header, Message, Recipient, Text, bare, from_wire, to_wire
from Milter._testreport import crlf, found

Source = Union[None, str, bytes, "os.PathLike[str]", AnyMessage, Message]
Pairs = Union[Mapping[str, Optional[Text]], Iterable[tuple[str, Optional[Text]]]]
To = Union[str, Recipient, Iterable[Union[str, Recipient]]]

SENDER: Final = "alice@example.org"
RECIPIENT: Final = "bob@example.com"

# All that a message needs, and the same each time: a test is to fail for its own reasons.
_DATE: Final = "Sat, 21 Nov 2026 12:00:00 +0000"
_ID: Final = "<test@example.org>"


def mail(
    source: Source = None,
    *,
    sender: Optional[str] = None,
    to: Optional[To] = None,
    subject: Optional[str] = None,
    headers: Pairs = (),
    body: Optional[Text] = None,
    html: Optional[str] = None,
    attachments: Optional[Mapping[str, Text]] = None,
    sender_params: Iterable[str] = (),
    directory: Union[str, os.PathLike[str]] = "",
) -> Message:
    """Makes a message with its envelope.

    Args:
        source: the path of a file; or a message, as `str` with at least one line feed, `bytes`, of
            the standard library's email package, or as Milter.mta has it. None: a small message
            with From, To, Subject, Date and Message-ID, the same each time.
        sender: envelope sender, ``<>`` or "" for the null sender. None: the first address in From,
            else alice@example.org.
        to: envelope recipients. None: the addresses in To and Cc, else bob@example.com.
        subject: the Subject.
        headers: names and values, as they stand in the message (nothing is encoded). They take the
            place of those that the message has of the same names; None for a value: it has none.
        body: text, as UTF-8, or bytes; lines end in LF or CR LF.
        html: a second version of the text (multipart/alternative).
        attachments: by file name their content (multipart/mixed); text as UTF-8.
        sender_params: ESMTP parameters of the sender, such as ``SIZE=1000``.
        directory: where a file is looked for first; then in the current one.

    Returns:
        A message of its own, which may be changed.

    Raises:
        FileNotFoundError: no such file in either place.
        ValueError: a header that would be none, several recipients in one text, or html or
            attachments for a message from somewhere.
        TypeError: a body that is no text, or headers that are one.
    """
    if body is not None and not isinstance(body, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"body={body!r}: it is text or bytes")
    pairs: object = headers
    if isinstance(pairs, (str, bytes)):
        raise TypeError(f"headers={headers!r}: they are a mapping, or pairs of name and value")
    if source is None:
        message = _composed("hello\n" if body is None else body, html, attachments or {})
        # What was not said stands in the headers as it goes into the envelope.
        writer = None if sender is None else bare(sender)
        _put(message, [("From", writer or SENDER)])
        names = [bare(each.address) for each in _recipients(RECIPIENT if to is None else to)]
        _put(message, [("To", ", ".join(names) or RECIPIENT)])
        _put(message, [("Subject", "test"), ("Date", _DATE), ("Message-ID", _ID)])
        mime = [header for header in message.headers if header.key in _MIME]
        message.headers = [each for each in message.headers if each.key not in _MIME] + mime
    else:
        if html is not None or attachments is not None:
            raise ValueError("html and attachments are for messages that are made here")
        message = _read(source, directory)
        if body is not None:
            message.body = crlf(body)
    if subject is not None:
        _put(message, [("Subject", subject)])
    _put(message, headers.items() if isinstance(headers, Mapping) else headers)
    if sender is not None:
        message.sender = sender or "<>"
    elif not isinstance(source, Message):
        message.sender = next(iter(_addresses(message, "From")), SENDER)
    if to is not None:
        message.recipients = _recipients(to)
    elif not message.recipients:
        found = _addresses(message, "To", "Cc")
        message.recipients = _recipients(found or RECIPIENT)
    message.sender_params += list(sender_params)
    return message


_MIME: Final = frozenset({b"mime-version", b"content-type", b"content-transfer-encoding"})


def _read(source: Source, directory: Union[str, os.PathLike[str]]) -> Message:
    """Reads a message, without an envelope unless it has one."""
    if isinstance(source, Message):
        return dataclasses.replace(
            source,
            headers=list(source.headers),
            sender_params=list(source.sender_params),
            recipients=list(source.recipients),
        )
    if isinstance(source, AnyMessage):
        return Message.from_bytes(source.as_bytes())
    if isinstance(source, bytes):
        return Message.from_bytes(source)
    if isinstance(source, str) and "\n" in source:
        return Message.from_bytes(source.encode("utf-8", "surrogateescape"))
    assert source is not None
    return Message.from_file(found(source, directory))


def _composed(body: Text, html: Optional[str], attachments: Mapping[str, Text]) -> Message:
    """A body, with the MIME headers that it needs."""
    if html is None and not attachments:
        data = crlf(body)
        message = Message(body=data)
        if isinstance(body, str) and not body.isascii():
            _put(
                message,
                [
                    ("MIME-Version", "1.0"),
                    ("Content-Type", "text/plain; charset=utf-8"),
                    ("Content-Transfer-Encoding", "8bit"),
                ],
            )
        return message
    parts = EmailMessage(policy=SMTP)
    parts.set_content(body if isinstance(body, str) else from_wire(body))
    if html is not None:
        parts.add_alternative(html, subtype="html")
    for name, content in attachments.items():
        data = content.encode() if isinstance(content, str) else bytes(content)
        parts.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    for number, part in enumerate(parts.walk()):
        if part.is_multipart():
            part.set_boundary(f"=-boundary-{number}")
    return Message.from_bytes(parts.as_bytes())


def _put(message: Message, pairs: Iterable[tuple[str, Optional[Text]]]) -> None:
    """Sets headers, in the place of those that have the name already, or at the end."""
    groups: dict[bytes, list[Header]] = {}
    for name, value in pairs:
        key = to_wire(name)
        # Bytes beyond ASCII may stand in a name: a filter can get any.
        if not key or any(byte <= 32 or byte in (58, 127) for byte in key):
            raise ValueError(f"{name!r} is no name of a header")
        group = groups.setdefault(key.lower(), [])
        if value is None:
            continue
        text = to_wire(value).replace(b"\r\n", b"\n")
        if b"\r" in text or any(line[:1] not in (b" ", b"\t") for line in text.split(b"\n")[1:]):
            raise ValueError(f"header {name} has several lines that are not folded: {value!r}")
        group.append(Header(key, b" " + text))
    for key, group in groups.items():
        places = [at for at, each in enumerate(message.headers) if each.key == key]
        where = places[0] if places else len(message.headers)
        others = [each for each in message.headers[where:] if each.key != key]
        message.headers[where:] = [*group, *others]


def _addresses(message: Message, *names: str) -> list[str]:
    values = [from_wire(value) for name in names for value in message.get_all(name)]
    return [address for _, address in getaddresses(values) if address]


def _recipients(to: To) -> list[Recipient]:
    if isinstance(to, Recipient):
        return [to]
    # Nobody means that as one address; in quotes it may be one (RFC 5321 4.1.2).
    if isinstance(to, str) and ", " in to and '"' not in to:
        raise ValueError(f"to={to!r}: several recipients are a list")
    each = [to] if isinstance(to, str) else to
    return [one if isinstance(one, Recipient) else Recipient(one) for one in each]
