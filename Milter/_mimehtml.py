"""Filters that copy HTML and leave scripts out.

Owns what is a script, and where mail programs see markup that SGML does not: what browsers do with
comments, declarations and short tags that are not well formed, as far as a script could hide there.
It knows no messages and no charsets.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Protocol

from Milter.sgmllib import Attributes, SGMLParser

#: A comment as browsers see it: `<!-->` and `<!--->` are complete, `--!>` ends one, too. SGML also
#: allows blanks in `-- >`; to end a comment early can only find more scripts.
_COMMENT = re.compile(r"<!--(?:-?>|(.*?)--(!|\s*)>)", re.DOTALL)

#: A tag's name, an attribute's name with what assigns to it, and a value without quotes, as
#: browsers cut them (HTML, section 13.2.5).
_TAG = re.compile(r"</?([a-zA-Z][^\t\n\f\r />]*)")
_ATTRIBUTE = re.compile(r"[\t\n\f\r /]+|[^\t\n\f\r />][^\t\n\f\r />=]*([\t\n\f\r ]*=[\t\n\f\r ]*)?")
_UNQUOTED = re.compile(r"[^\t\n\f\r >]*")

#: Elements that hold text only, which the end tag ends and nothing else. That browsers without
#: scripts see markup in `noscript` does no harm here.
_TEXT_ONLY = {
    name: re.compile(rf"</{name}[\t\n\f\r />]", re.IGNORECASE | re.ASCII)
    for name in (
        *("title", "textarea", "style", "xmp", "iframe", "noembed", "noframes", "noscript"),
        "plaintext",
    )
}


def _no_comments_before(text: str, i: int) -> int:
    """Return where a tag, or an element that holds text only, ends: there are no comments in it.

    text[i] is the tag's "<". sys.maxsize: it does not end.
    """
    tag = _TAG.match(text, i)
    if not tag:  # "</", then no name: up to the next ">"
        j = text.find(">", i)
        return sys.maxsize if j < 0 else j + 1
    j = tag.end()
    attribute = _ATTRIBUTE.match(text, j)
    while attribute:
        j = attribute.end()
        quote = text[j : j + 1]
        if attribute.group(1) and quote in ("'", '"'):
            j = text.find(quote, j + 1) + 1
            if not j:
                return sys.maxsize
        elif attribute.group(1):
            value = _UNQUOTED.match(text, j)
            assert value is not None
            j = value.end()
        attribute = _ATTRIBUTE.match(text, j)
    if j == len(text):
        return sys.maxsize
    end_tag = _TEXT_ONLY.get(tag.group(1).lower())
    if end_tag and not text.startswith("/", i + 1):
        found = end_tag.search(text, j)
        return found.start() if found else sys.maxsize
    return j + 1


class Writer(Protocol):
    """What the filters write to."""

    def write(self, text: str, /) -> Any:
        """Take text."""


class SGMLFilter(SGMLParser):
    """Copy HTML to ``out.write`` (API spec 4.3).

    Not byte by byte: end tags are lower-cased, references gain a missing semicolon, processing
    instructions are dropped. Declarations are kept, whatever is in them.
    """

    # A start tag such as "<br/>" is not the beginning of a short tag that runs up to the next slash
    # somewhere behind other tags, as SGML has it: browsers know no short tags.
    _short_tag = re.compile(r"<([a-zA-Z][-.a-zA-Z0-9]*)/([^/<]*)/")
    _short_tag_waits = False

    def __init__(self, out: Writer) -> None:
        """Write to ``out``, an object with a method ``write(str)``."""
        super().__init__()
        self.out = out

    def reset(self) -> None:
        """Forget all input and all open elements."""
        super().reset()
        #: Up to where in `rawdata` browsers see neither comments nor declarations. SGML does, as it
        #: ends a tag at a "<", even within quotes; and a comment could hide a script. Of text that
        #: is fed in pieces it may be too much, and what looks like a comment then hides nothing.
        self._within = 0

    def goahead(self, end: int) -> None:
        """Parse `rawdata`, to its end if ``end`` is true, and keep what is not complete."""
        length = len(self.rawdata)
        super().goahead(end)
        self._within -= length - len(self.rawdata)

    def _tag_at(self, i: int, end: int) -> int:
        if end >= 0 and i >= self._within:
            self._within = _no_comments_before(self.rawdata, i)
        return end

    def parse_starttag(self, i: int) -> int:
        """Handle a start tag."""
        return self._tag_at(i, super().parse_starttag(i))

    def parse_endtag(self, i: int) -> int:
        """Handle an end tag."""
        return self._tag_at(i, super().parse_endtag(i))

    def parse_pi(self, i: int) -> int:
        """Drop a processing instruction."""
        return self._less_than(i) if i < self._within else super().parse_pi(i)

    def _less_than(self, i: int) -> int:
        self.handle_data("<")
        return i + 1

    def write(self, buf: str) -> None:
        """Take some HTML; the same as ``feed``."""
        self.feed(buf)

    def parse_declaration(self, i: int) -> int:
        """Copy a declaration, which ends at the first ``>`` unless it is a comment."""
        if i < self._within:
            return self._less_than(i)
        if self.rawdata.startswith("<![CDATA[", i):  # in SVG it ends elsewhere
            end = self.rawdata.find("]]>", i)
            self._within = sys.maxsize if end < 0 else end
        if self.rawdata.startswith("<!--", i):
            return self.parse_comment(i)
        j = self.rawdata.find(">", i)
        if j < 0 or "<!--".startswith(self.rawdata[i:]):
            return -1
        self.handle_special(self.rawdata[i + 2 : j])
        return j + 1

    def parse_comment(self, i: int, report: int = 1) -> int:
        """Copy a comment."""
        match = _COMMENT.match(self.rawdata, i)
        if not match:
            return -1
        if match.group(1) is None or match.group(2) == "!":
            self.handle_special(match.group()[2:-1])
        else:
            self.handle_comment(match.group(1))
        return match.end()

    def handle_comment(self, comment: str) -> None:
        """Copy a comment."""
        self.out.write(f"<!--{comment}-->")

    def unknown_starttag(self, tag: str, attr: Attributes) -> None:
        """Copy a start tag as it was written."""
        self.out.write(self.get_starttag_text() or "")

    def handle_data(self, data: str) -> None:
        """Copy text."""
        self.out.write(data)

    def handle_entityref(self, ref: str) -> None:
        """Copy an entity reference."""
        self.out.write(f"&{ref};")

    def handle_charref(self, ref: str) -> None:
        """Copy a character reference."""
        self.out.write(f"&#{ref};")

    def unknown_endtag(self, tag: str) -> None:
        """Copy an end tag, in lower case."""
        self.out.write(f"</{tag}>")

    def handle_special(self, data: str) -> None:
        """Copy a declaration."""
        self.out.write(f"<!{data}>")


class HTMLScriptFilter(SGMLFilter):
    """Copy HTML, with a comment in place of every script element (API spec 4.3).

    The text of a script is dropped, tags and references inside are not: a script that is not closed
    would otherwise take all markup behind it along. `modified` tells whether there was any.
    """

    def __init__(self, out: Writer) -> None:
        """Write to ``out``, an object with a method ``write(str)``."""
        super().__init__(out)
        self.ignoring = 0
        self.modified = False
        self.msg = "<!-- a script was taken out of this message -->"

    def start_script(self, unused: Attributes) -> None:
        """Begin to drop text."""
        self.ignoring += 1
        self.modified = True

    def end_script(self) -> None:
        """Write the comment, and copy text again."""
        self.ignoring -= 1
        if not self.ignoring:
            self.out.write(self.msg)

    def handle_data(self, data: str) -> None:
        """Copy text, unless it is a script's."""
        if not self.ignoring:
            self.out.write(data)

    def handle_comment(self, comment: str) -> None:
        """Copy a comment, unless it is a script's."""
        if not self.ignoring:
            super().handle_comment(comment)
