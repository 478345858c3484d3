"""pymilter's module ``mime``: messages that know what was changed, and how to make them harmless.

    msg = mime.message_from_file(fp)
    if mime.defang(msg, saved_as):
        msg.dump(out)

`message_from_file` makes a tree of `MimeMessage`, on top of the standard library's
``email.message.Message``. `defang` replaces attachments whose name ends in one of
`bad_extensions` by a warning, and takes scripts out of HTML. What nobody changed is dumped as it
was read. The choices made and the limits are in docs/mime.md; the source is API spec section 4.

All functions may be called from several threads at once, each with messages of its own.
"""

from __future__ import annotations

import codecs
import io
import re
import socket
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_uu
from collections.abc import Iterator
from email import encoders
from email.generator import BytesGenerator
from email.message import (  # type: ignore[attr-defined]
    Message,
    _parseparam,  # noqa: F401 (filters' tests look at it)
)
from email.utils import quote
from quopri import decodestring as decode_quoted_printable
from typing import Any, BinaryIO, Callable, Optional
from zipfile import BadZipFile

import Milter
from Milter import _mimenames, _mimetree, _mimezip
from Milter._mimehtml import HTMLScriptFilter, SGMLFilter
from Milter._mimenames import unquote
from Milter.sgmllib import SGMLParser as HTMLParser

__all__ = [
    "HTMLParser",
    "HTMLScriptFilter",
    "Message",
    "MimeGenerator",
    "MimeMessage",
    "SGMLFilter",
    "bad_extensions",
    "check_attachments",
    "check_ext",
    "check_html",
    "check_name",
    "defang",
    "encoders",
    "extlist",
    "message_from_file",
    "quote",
    "unquote",
    "virus_msg",
    "zipnames",
]

#: Extensions of files that Windows runs when they are opened (API spec 4.2).
extlist = (
    "ade,adp,asd,asx,asp,bas,bat,chm,cmd,com,cpl,crt,dll,exe,hlp,hta,inf,ins,isp,js,jse,lnk,mdb,"
    "mde,msc,msi,msp,mst,ocx,pcd,pif,reg,scr,sct,shs,url,vb,vbe,vbs,wsc,wsf,wsh"
)
bad_extensions = ["." + extension for extension in extlist.split(",")]

#: What takes an attachment's place: its name, the host's name, the saved message's name.
virus_msg = """An attachment of this message was removed, since it may do harm when opened.
The name of the attachment: %s
The message as it came is kept on the host %s, in the file %s.
If you need the attachment, ask whoever looks after your mail.
"""

# Limits. What exceeds them cannot be looked into, and is answered like a bad attachment.
#: Containers (multipart/*, message/*) within each other.
max_depth = 100
#: Parts of a message.
max_parts = 10_000
#: Header fields of a message, those of its parts included.
max_fields = 100_000
#: Names in a zip archive, those of archives in it included.
max_zip_members = 10_000
#: Zip archives within a zip archive.
max_zip_depth = 10
#: Unpacked bytes of all archives within a zip archive.
max_zip_size = 64 * 1024 * 1024
#: The same, as a multiple of the archive's size.
max_zip_ratio = 100

#: How often something may be wrapped in parts that are not well formed.
_MAX_READINGS = 3
_TOO_OFTEN = "(wrapped too often)"
#: How many bytes are read for that: a multiple of the message's size, and some for small messages.
_READINGS_PER_BYTE = 8
_READINGS_AT_LEAST = 100_000
_UU_ENCODINGS = frozenset({"x-uuencode", "uuencode", "uue", "x-uue"})
_ENCODINGS = _UU_ENCODINGS | {"base64", "quoted-printable"}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_COMMENT = re.compile(r"\([^()]*\)")
_PADDED = re.compile(rb"([^=]*)(=[^A-Za-z0-9+/]*|\Z)")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")

#: How `MimeMessage.headerchange` is called: message, field name, value or None for a deletion.
HeaderChange = Callable[["MimeMessage", str, Optional[str]], Any]
NameCheck = Callable[[Optional[str]], Any]
PartCheck = Callable[["MimeMessage"], Any]


class MimeMessage(Message):
    """A message or a part of one, which knows whether it was changed (API spec 4.1).

    modified: whether something was set or deleted since the message was read, in this very part.
    headerchange: None, or called with (message, name, value) when a field is added, and with value
    None before all fields of that name are deleted.
    submsg: in a message that was read, what `get_submsg` returns.

    As in pymilter, `replace_header` and `attach` leave `modified` alone; `dump` writes the result.
    """

    _payload: Any
    _headers: list[tuple[str, Any]]

    def __init__(self, fp: Any = None, seekable: int = 1) -> None:
        """Make an empty message. The arguments are ignored."""
        super().__init__()
        self.submsg: Any = None
        self.modified = False
        self.headerchange: Optional[HeaderChange] = None
        self._source: Optional[_mimetree.Source] = None

    # -- parameters and names

    def get_params(
        self, failobj: Any = None, header: str = "content-type", unquote: bool = True
    ) -> Any:
        """Return a field's parameters as (name, value), first the type and ""."""
        value = next(self._values(header), None)
        if value is None:
            return failobj
        params = _mimenames.parameters(value)
        return params if unquote else [params[0], *((n, _quoted(v)) for n, v in params[1:])]

    def _values(self, header: str) -> Iterator[str]:
        """Go through the values of a field; unlike `get`, keep bytes that are not ASCII."""
        header = header.lower()
        for name, value in self._headers:
            if name.lower() == header:
                yield _mimenames.decode_raw(str(value))

    def get_param(
        self,
        param: str,
        failobj: Any = None,
        header: str = "content-type",
        unquote: bool = True,
    ) -> Any:
        """Return a parameter's value: str, or (charset, language, str) if it is an RFC 2231 value.

        A boundary that is quoted twice loses both levels of quotes.
        """
        for name, value in self.get_params([], header, unquote):
            if name.lower() == param.lower():
                if name.lower() == "boundary" and isinstance(value, str) and unquote:
                    return _mimenames.unquote(value)
                return value
        return failobj

    getparam = get_param

    def getparams(self) -> list[tuple[str, Any]]:
        """Return the parameters of Content-Type, beginning with the type itself; [] without one."""
        return list(self.get_params([]))

    def getname(self) -> Any:
        """Return the parameter ``name`` of Content-Type, as `get_param` does."""
        return self.get_param("name")

    def get_filename(self, failobj: Any = None) -> Any:
        """Return the file name of Content-Disposition, or else the name of Content-Type."""
        missing = object()
        value = self.get_param("filename", missing, "content-disposition")
        if value is missing:
            value = self.get_param("name", missing, "content-type")
        if value is missing:
            return failobj
        return _mimenames.unquote(_mimenames.value_text(value).strip())

    getfilename = get_filename

    def get_boundary(self, failobj: Any = None) -> Any:
        """Return the boundary, without blanks at its end."""
        missing = object()
        value = self.get_param("boundary", missing)
        if value is missing:
            return failobj
        text = value if isinstance(value, str) else _mimenames.value_text(value)
        return _mimenames.unquote(text).rstrip()

    def get_content_charset(self, failobj: Any = None) -> Any:
        """Return the declared charset in lower case."""
        value = self.get_param("charset")
        if value is None:
            return failobj
        text = _mimenames.value_text(value).lower()
        return text if text.isascii() else failobj

    def getnames(self, scan_zip: bool = False) -> list[tuple[str, Optional[str]]]:
        """Return all names that a part goes by, as (attribute, value).

        First the type and every parameter of Content-Type, then ``("filename", get_filename())``.
        Names that only show on a second look follow: in further Content-Type and
        Content-Disposition fields, and with RFC 2047 words decoded.

        scan_zip: whether a zip archive's members are named, too, as ("zipname", value).

        Raises zipfile.BadZipFile: the name says zip, the content does not, or exceeds the limits.
        """
        names: list[tuple[str, Optional[str]]] = [
            (name, _mimenames.value_text(value)) for name, value in self.getparams()
        ]
        names.append(("filename", self.get_filename()))
        known = {value for _, value in names}
        for header in ("content-type", "content-disposition"):
            for field in self._values(header):
                found = [
                    (name, _mimenames.value_text(value))
                    for name, value in _mimenames.parameters(field)[1:]
                    if name in ("name", "filename")
                ]
                for name, text in found + _mimenames.other_names(field):
                    for form in (text, _mimenames.decode_words(text)):
                        if form not in known:
                            known.add(form)
                            names.append((name, form))
        if scan_zip:
            self._add_zip_names(names)
        return names

    def _add_zip_names(self, names: list[tuple[str, Optional[str]]]) -> None:
        members: Optional[list[tuple[str, Optional[str]]]] = None
        archives = 0
        for _, value in list(names):
            if value and any(map(_mimezip.is_zip_name, [value, *_mimenames.disguises(value)])):
                if members is None:
                    data = self.get_payload(decode=True)
                    if not isinstance(data, bytes) or not data.strip():
                        return
                    members = [("zipname", name) for name in _zip_names(data)]
                names.extend(members)
                archives += 1
                if archives == 4:  # the same members over and over tell nothing new
                    return

    def getheaders(self, name: str, failobj: Any = None) -> Any:
        """Return the values of all fields of a name; ``failobj`` if there is none."""
        return self.get_all(name, failobj)

    def gettype(self) -> str:
        """Return the content type in lower case."""
        return self.get_content_type()

    def ismultipart(self) -> bool:
        """Tell whether the payload is a list of parts."""
        return self.is_multipart()

    # -- changes

    def ismodified(self) -> bool:
        """Tell whether this part, or one in it, was changed since it was read."""
        waiting: list[Any] = [self]
        while waiting:
            part = waiting.pop()
            if getattr(part, "modified", True):  # what is no MimeMessage was not read with it
                return True
            if isinstance(part._payload, list):
                waiting.extend(part._payload)
        return False

    def __setitem__(self, name: str, val: Any) -> None:
        """Add a field; those of the same name stay."""
        super().__setitem__(name, val)
        self.modified = True
        if self.headerchange:
            self.headerchange(self, name, str(val))

    def __delitem__(self, name: str) -> None:
        """Delete all fields of a name; no error if there is none."""
        if self.headerchange:
            self.headerchange(self, name, None)
        super().__delitem__(name)
        self.modified = True

    def set_payload(self, payload: Any, charset: Any = None) -> None:
        """Replace the body by text, by parts, or by what a file contains from its beginning."""
        if hasattr(payload, "read") and hasattr(payload, "seek"):
            payload.seek(0)
            payload = payload.read()
        if isinstance(payload, (bytes, bytearray)):
            payload = bytes(payload).decode("ascii", "surrogateescape")
        super().set_payload(payload, charset)
        self.modified = True
        self.submsg = None

    # -- content

    def get_payload(self, i: Optional[int] = None, decode: bool = False) -> Any:
        """Return the parts, part ``i``, the text, or with ``decode`` the decoded body as bytes.

        Decoding never fails: of a broken encoding, as much is decoded as mail clients would show.
        ``decode`` returns None where there are parts.
        """
        if i is not None or not isinstance(self._payload, str):
            return super().get_payload(i, decode)  # type: ignore[call-overload]
        if decode:
            return _decoded(_mimetree.payload_bytes(self, self._payload), self._encoding())
        if self._payload.isascii():
            return self._payload
        try:
            data = self._payload.encode("ascii", "surrogateescape")
        except UnicodeEncodeError:  # text that a filter has set
            return self._payload
        charset = _mimenames.known_charset(self.get_content_charset("ascii")) or "ascii"
        try:
            return data.decode(charset, "replace")
        except ValueError:
            return data.decode("ascii", "replace")

    def getencoding(self) -> Any:
        """Return the field Content-Transfer-Encoding as it is, None if there is none."""
        return self.get("content-transfer-encoding")

    def _encoding(self) -> str:
        """Return the encoding that is meant: in lower case, without comments and parameters."""
        value = _COMMENT.sub("", str(self.get("content-transfer-encoding", "")))
        return value.partition(";")[0].strip(" \t\r\n\"'").lower()

    def decode(self, filt: Any) -> Any:
        """Write the decoded body to a binary file; return `getencoding`."""
        data = self.get_payload(decode=True)
        if data:
            filt.write(data)
        return self.getencoding()

    def get_payload_decoded(self) -> Any:
        """Return the decoded body as bytes, None where there are parts."""
        return self.get_payload(decode=True)

    def get_submsg(self) -> Any:
        """Return the list of parts of a multipart/* or message/rfc822, None for others."""
        if not isinstance(self._payload, list):
            return None
        kind = self.get_content_type()
        return self._payload if kind.startswith("multipart/") or kind == "message/rfc822" else None

    # -- output

    def dump(self, file: Any, unixfrom: bool = False) -> None:
        """Write the message to a binary file, with LF at line ends.

        Parts that were not changed are written as they were read.

        unixfrom: whether the mbox separator line is written first.
        """
        MimeGenerator(file).flatten(self, unixfrom)

    def as_bytes(self, unixfrom: bool = False, policy: Any = None) -> bytes:
        """Return what `dump` writes. ``policy`` is ignored."""
        out = io.BytesIO()
        self.dump(out, unixfrom)
        return out.getvalue()


class MimeGenerator(BytesGenerator):
    """Writes messages to a binary file; see `MimeMessage.dump`."""

    def flatten(self, msg: Message, unixfrom: bool = False, linesep: Optional[str] = None) -> None:
        """Write a message; see `MimeMessage.dump`."""
        if not isinstance(msg, MimeMessage):
            super().flatten(msg, unixfrom, linesep)
            return
        write = self._fp.write  # type: ignore[attr-defined]
        if linesep not in (None, "\n"):
            end = str(linesep).encode("ascii")

            def write(data: bytes, to: Callable[[bytes], Any] = write) -> Any:
                return to(data.replace(b"\n", end))

        if unixfrom:
            line = msg.get_unixfrom() or "From nobody Thu Jan  1 00:00:00 1970"
            write(line.encode("utf-8", "surrogateescape") + b"\n")
        _mimetree.write_message(msg, write)


def _quoted(value: _mimenames.Value) -> _mimenames.Value:
    if isinstance(value, str):
        return f'"{quote(value)}"'
    return value[0], value[1], f'"{quote(value[2])}"'


def _decoded(data: bytes, encoding: str) -> bytes:
    """Undo a content transfer encoding (RFC 2045 section 6), as far as the data can be made out."""
    if encoding == "quoted-printable":
        return decode_quoted_printable(data)
    if encoding == "base64":
        if data.partition(b"=")[2].strip(b"= \t\r\n"):
            data = _up_to_padding(data)
        try:
            return a2b_base64(data)
        except Base64Error:  # cut off in the middle of a group
            data = _NOT_BASE64.sub(b"", data)
            data = data[: len(data) - (len(data) % 4 == 1)]
            return a2b_base64(data + b"=" * (-len(data) % 4))
    if encoding in _UU_ENCODINGS:
        return _decoded_uu(data)
    return data


def _up_to_padding(data: bytes) -> bytes:
    """Return base64 without what follows its padding, of which Python versions differ what it is.

    Padding where none can be is no end, and is left out.
    """
    kept = []
    length = 0
    for text, padding in _PADDED.findall(data):
        text = _NOT_BASE64.sub(b"", text)
        kept.append(text)
        length += len(text)
        if length % 4 >= 2 and length % 4 + padding.count(b"=") >= 4:
            break
    return b"".join(kept)


def _decoded_uu(data: bytes) -> bytes:
    lines = iter(data.split(b"\n"))
    for line in lines:
        if line.startswith(b"begin "):
            break
    else:
        return data
    decoded = []
    for line in lines:
        if line.rstrip() in (b"end", b"`", b""):
            break
        try:
            decoded.append(a2b_uu(line))
        except Base64Error:  # trailing garbage, which some encoders write
            length = ((line[0] - 32) & 63) * 4 // 3 + 5
            try:
                decoded.append(a2b_uu(line[:length]))
            except Base64Error:
                break
    return b"".join(decoded)


def message_from_file(fp: BinaryIO) -> MimeMessage:
    """Read a message from a binary file, from where it stands; no input is refused.

    Lines may end in LF, CR LF or CR.

    Raises TypeError: the file is a text file.
    """
    data = fp.read()
    if not isinstance(data, (bytes, bytearray)):
        raise TypeError(f"a binary file is needed, this one gives {type(data).__name__}")
    return _message_from_bytes(bytes(data))


def _message_from_bytes(data: bytes) -> MimeMessage:
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    limits = _mimetree.TreeLimits(max_depth, max_parts, max_fields)
    message: MimeMessage = _mimetree.Parser(data, MimeMessage, limits).parse()
    waiting = [message]
    while waiting:
        part = waiting.pop()
        if part.is_multipart():
            part.submsg = part.get_submsg()
            waiting.extend(part._payload)
    return message


def _zip_names(data: bytes) -> list[str]:
    limits = _mimezip.ZipLimits(max_zip_members, max_zip_depth, max_zip_size, max_zip_ratio)
    return _mimezip.zip_names(data, limits)


def zipnames(txt: bytes) -> list[tuple[str, str]]:
    """Return the names in a zip archive as ("zipname", name), those of archives in it in place.

    Raises zipfile.BadZipFile: it is no zip archive, or exceeds the limits.
    """
    return [("zipname", name) for name in _zip_names(txt)]


def check_ext(name: Optional[str]) -> Optional[str]:
    """Return the name if it ends in one of `bad_extensions`, and None if not."""
    if not name:
        return name
    lower = name.lower()
    return name if any(lower.endswith(extension) for extension in bad_extensions) else None


def check_name(
    msg: MimeMessage,
    savname: Optional[str] = None,
    ckname: NameCheck = check_ext,
    scan_zip: bool = False,
) -> int:
    """Replace an attachment by a warning if one of its names is bad. Always returns CONTINUE.

    ckname: called with each of the part's names, None included, and then with what else a client
    may take the name for (without trailing dots, ...); returns what to call a bad attachment.
    savname: where the original message can be found, for the warning.
    scan_zip: whether names in zip archives count. What is no zip archive, or exceeds the limits,
    is bad.
    """
    bad = _bad_name(msg, ckname, scan_zip)
    if bad:
        _replace(msg, bad, savname)
    return Milter.CONTINUE


def _bad_name(msg: MimeMessage, ckname: NameCheck, scan_zip: bool) -> Any:
    source = msg._source
    if source is not None and source.unparsed and source.same_body(msg):
        return msg.get_filename() or "(nested too deeply, or too many parts)"
    names = msg.getnames()
    corrupt = False
    if scan_zip:
        try:
            names = msg.getnames(scan_zip=True)
        except BadZipFile:
            corrupt = True
    for attribute, value in names:
        for form in _forms(value):
            result = ckname(form)
            if result:
                return msg.get_filename() if attribute == "zipname" else result
    return (msg.get_filename() or "zip archive") if corrupt else None


def _bad_container_name(msg: MimeMessage, ckname: NameCheck) -> Any:
    """Return what is bad about the name of a part with parts that clients may offer as a file.

    That is any but an ordinary attached message, whose name is its subject and may end in anything.
    Other parameters do not count: a boundary may end in ".com".
    """
    # Without a type of its own it is a message because it is a part of a multipart/digest.
    typed = msg.get("content-type") is not None
    message = typed and msg.get_content_type() in ("message/rfc822", "message/global")
    if message and msg._encoding() not in _ENCODINGS:
        return None
    for attribute, value in msg.getnames():
        if value and attribute in ("name", "filename"):
            for form in _forms(value):
                result = ckname(form)
                if result:
                    return result
    return None


def _forms(name: Optional[str]) -> Iterator[Optional[str]]:
    yield name
    if name:
        yield from _mimenames.disguises(name)


def _replace(msg: MimeMessage, name: Any, savname: Optional[str]) -> None:
    """Put a warning in a part's place."""
    text = virus_msg % (name, socket.gethostname(), savname)
    data = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    msg.set_payload(data.encode("ascii", "backslashreplace").decode("ascii"))
    del msg["content-type"]
    del msg["content-disposition"]
    del msg["content-transfer-encoding"]
    msg["Content-Type"] = "text/plain; name=WARNING.TXT"


def check_attachments(msg: MimeMessage, check: PartCheck, lev: Any = None) -> Any:
    """Call ``check`` with each part that has no parts, in their order.

    Returns the first result that is not CONTINUE, which ends it; else CONTINUE. ``lev`` is ignored.
    """
    waiting = [iter([msg])]
    while waiting:
        part = next(waiting[-1], None)
        if part is None:
            waiting.pop()
        elif part.is_multipart():
            waiting.append(iter(list(part._payload)))
        else:
            result = check(part)
            if result != Milter.CONTINUE:
                return result
    return Milter.CONTINUE


def check_html(msg: MimeMessage, savname: Optional[str] = None) -> int:
    """Take scripts out of an HTML part. Always returns CONTINUE. ``savname`` is ignored.

    HTML is what says text/html, or is application/octet-stream with a name that ends in ".htm".
    The text is decoded and encoded again by its declared charset; if that is not possible, by the
    one that fits, see docs/mime.md.
    """
    found = _html_without_scripts(msg)
    if found is None:
        return Milter.CONTINUE
    cleaned, charset = found
    cleaned = cleaned.replace("\r\n", "\n")
    try:
        data = cleaned.encode(charset)
    except (ValueError, LookupError):
        data = cleaned.encode("utf-8", "replace")
        msg.set_param("charset", "utf-8")
    del msg["content-transfer-encoding"]
    msg.set_payload(data)
    encoders.encode_quopri(msg)
    return Milter.CONTINUE


def _html_without_scripts(msg: MimeMessage) -> Optional[tuple[str, str]]:
    """Return an HTML part's text without scripts and its charset; None if there are no scripts."""
    if not _is_html(msg):
        return None
    data = msg.get_payload(decode=True)
    if not isinstance(data, bytes):
        return None
    # To browsers a byte order mark counts for more than what is declared.
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    text, charset = _mimenames.decode_bytes(data, marked or msg.get_content_charset())
    cleaned = _without_scripts(text)
    return None if cleaned is None else (cleaned, charset)


def _is_html(msg: MimeMessage) -> bool:
    types = []
    for field in msg._values("content-type"):
        text = _COMMENT.sub("", field).partition(";")[0]
        types.append("".join(text.split()).strip("\"'").lower())
    if any(kind.startswith("text/html") for kind in types):
        return True
    return "application/octet-stream" in types and any(
        form.lower().endswith(".htm") for _, name in msg.getnames() for form in _forms(name) if form
    )


def _without_scripts(html: str) -> Optional[str]:
    """Return HTML without its scripts, None if there are none.

    What is left is looked at again until nothing is found: the pieces around a script that was
    taken out may make another one.
    """
    changed = False
    for _ in range(10):
        out = io.StringIO()
        scripts = HTMLScriptFilter(out)
        scripts.feed(html)
        scripts.close()
        if not scripts.modified:
            return html if changed else None
        changed = True
        html = out.getvalue()
    return html.replace("<", "&lt;")


class _TooMuch(Exception):
    """A message has more readings than are worth the time."""


class _Readings:
    """Reads parts as mail clients may read them that are more lenient than RFC 2045 and 2046.

    - A multipart/* or message/* that is encoded, which RFC 2045 section 6.4 forbids, is decoded.
    - A multipart/* whose boundary is missing or wrong is cut at the first line that looks like one.
    - Of several Content-Type fields another one counts.
    - A line that is no field does not end the header.

    Readings have readings, so all bytes read are taken from one budget.
    """

    def __init__(self, size: int) -> None:
        self.left = _READINGS_PER_BYTE * size + _READINGS_AT_LEAST

    def take(self, data: bytes) -> bytes:
        """Pay for some bytes. Raises _TooMuch."""
        self.left -= len(data)
        if self.left < 0:
            raise _TooMuch
        return data

    def of(self, part: MimeMessage) -> Iterator[MimeMessage]:
        """Go through the readings of a part. Raises _TooMuch."""
        source = part._source
        if source is None or source.unparsed or not source.same_body(part):
            return
        if not part.is_multipart() and not source.separated:
            later = _mimetree.later_fields(self.take(source.body()))
            if later is not None:
                header = source.data[source.header_start : source.header_end]
                yield _message_from_bytes(self.take(header + later))
        encoding = part._encoding()
        for index, value in enumerate(part._values("content-type")):
            kind = value.partition("/")[0].strip().lower()
            as_read = index == 0 and part.is_multipart()
            if kind not in ("multipart", "message") or (as_read and encoding not in _ENCODINGS):
                continue
            body = self.take(source.body())
            decoded = _decoded(body, encoding)
            if as_read and decoded == body:
                continue
            if kind == "message":
                yield _message_from_bytes(self.take(decoded))
            else:
                yield from self.cut(decoded, value)

    def cut(self, body: bytes, value: str) -> Iterator[MimeMessage]:
        """Go through the parts of a multipart body, by the boundary declared or else a likely one.

        Only its parts, as the whole would be read in other ways again.
        """
        field = b"Content-Type: " + _mimetree.as_bytes(" ".join(value.split())) + b"\n\n"
        reading = _message_from_bytes(self.take(field + body))
        if not reading.is_multipart():
            boundary = _mimetree.likely_boundary(body)
            if boundary is not None:
                field = b'Content-Type: multipart/mixed; boundary="%s"\n\n' % boundary
                reading = _message_from_bytes(self.take(field + body))
        if reading.is_multipart():
            yield from reading._payload


class _defang:
    """The class of `defang`; ``_defang(scan_html=False)`` leaves HTML alone."""

    def __init__(self, scan_html: bool = True) -> None:
        self.scan_html = scan_html

    def __call__(
        self,
        msg: MimeMessage,
        savname: Optional[str] = None,
        check: NameCheck = check_ext,
        scan_rfc822: bool = True,
        scan_zip: bool = False,
    ) -> bool:
        """Replace attachments with bad names by a warning, and take scripts out of HTML.

        savname, check, scan_zip: see `check_name`. scan_rfc822: whether parts that are not well
        formed are also read as a mail client might read them, see docs/mime.md. Attached messages
        are looked into in any case.

        Returns whether the message was changed.
        """
        readings = _Readings(len(msg._source.data) if msg._source else 0)
        waiting = [msg]
        while waiting:
            part = waiting.pop()
            hidden = None
            if scan_rfc822:
                try:
                    hidden = self._hidden(part, readings, check, scan_zip, 0)
                except _TooMuch:
                    hidden = _TOO_OFTEN
            if hidden:
                _replace(part, hidden, savname)
            elif part.is_multipart():
                waiting.extend(reversed(part._payload))
            else:
                check_name(part, savname, check, scan_zip)
                if self.scan_html:
                    check_html(part, savname)
        return msg.ismodified()

    def _hidden(
        self, part: MimeMessage, readings: _Readings, check: NameCheck, scan_zip: bool, depth: int
    ) -> Any:
        """Return the name of something dangerous that another reading of a part brings to light."""
        if part.is_multipart():
            found = _bad_container_name(part, check)
            if found:
                return found
        for reading in readings.of(part):
            if depth == _MAX_READINGS:
                return _TOO_OFTEN
            waiting = [reading]
            while waiting:
                inner = waiting.pop()
                found = self._hidden(inner, readings, check, scan_zip, depth + 1)
                if not found and inner.is_multipart():
                    waiting.extend(reversed(inner._payload))
                elif not found:
                    found = _bad_name(inner, check, scan_zip)
                    if not found and self.scan_html and _html_without_scripts(inner):
                        found = inner.get_filename() or "(script)"
                if found:
                    return found
        return None


#: The one that filters call; it keeps no state.
defang = _defang()
