"""Filters that copy HTML and leave scripts out.

Owns what is a script, and where mail programs see markup that SGML does not: what browsers do with
comments, declarations and short tags that are not well formed, as far as a script could hide there.
It knows no messages and no charsets.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from Milter.sgmllib import Attributes, SGMLParser

#: A comment as browsers see it: `<!-->` and `<!--->` are complete, `--!>` ends one, too. SGML also
#: allows blanks in `-- >`; to end a comment early can only find more scripts.
_COMMENT = re.compile(r"<!--(?:-?>|(.*?)--(!|\s*)>)", re.DOTALL)


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

    def write(self, buf: str) -> None:
        """Take some HTML; the same as ``feed``."""
        self.feed(buf)

    def parse_declaration(self, i: int) -> int:
        """Copy a declaration, which ends at the first ``>`` unless it is a comment."""
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
