"""An SGML parser as old HTML filters know it: tags become calls of ``start_TAG`` and ``do_TAG``.

Owns the cutting of text into tags, references, comments and declarations, and the stack of open
elements. It knows no HTML; `mime.SGMLFilter` brings that. Nothing here is taken from private parts
of the standard library, and no input makes the parser raise anything but `SGMLParseError`.

The contract is pymilter's (API spec 3.11). Where it left a choice:

- A declaration that makes no sense, such as ``<!foo $>``, goes to `SGMLParser.error`, which raises
  `SGMLParseError`, as it did before Python 3.10 (pymilter there raises ``AssertionError``). A
  subclass whose ``error`` returns gets the text through `SGMLParser.unknown_decl` and goes on.
- What is still open at the end of the input (``<b c=``, ``<!-- x``) is data, all of it to the end.
- The time taken is proportional to the input, whatever the input. Text that is fed in pieces is
  looked at again from the start of an unfinished construct, so feed large pieces.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Callable, Optional

__all__ = ["SGMLParseError", "SGMLParser"]

Attributes = list[tuple[str, str]]

_NAME = r"[a-zA-Z][-.a-zA-Z0-9]*"

_TEXT_END = re.compile(r"[&<]")
_TAG_END = re.compile(r"[<>]")
_TAG_NAME = re.compile(r"[a-zA-Z][-_.a-zA-Z0-9]*")
_SHORT_TAG_OPEN = re.compile(rf"<({_NAME})/")
_ENTITY = re.compile(rf"&({_NAME})")
_CHARACTER = re.compile(r"&#([0-9]+)")
_ATTRIBUTE = re.compile(
    r"\s*([a-zA-Z_][-:.a-zA-Z_0-9]*)"
    r"(\s*=\s*('[^']*'|\"[^\"]*\"|[-a-zA-Z0-9./,:;+*%?!&$()_#=~'\"@\[\]]*))?"
)
_VALUE_REFERENCE = re.compile(rf"&(?:({_NAME});|#([0-9]+);?)")
_COMMENT_END = re.compile(r"--\s*>")

_DECLARATION_NAME = re.compile(r"[a-zA-Z][-_.a-zA-Z0-9]*\s*")
#: What a declaration may consist of: names, quoted text, white space and "=".
_DECLARATION_PART = re.compile(r"(?:[a-zA-Z][-_.a-zA-Z0-9]*|'[^']*'|\"[^\"]*\")\s*|=")
_SUBSET_PART = re.compile(r"[^]\"'<]+|'[^']*'|\"[^\"]*\"|<")

#: How a marked section ends, by its first word: standard SGML, and what Microsoft Office writes.
_SECTION_ENDS = {
    **dict.fromkeys(("temp", "cdata", "ignore", "include", "rcdata"), re.compile(r"\]\s*\]\s*>")),
    **dict.fromkeys(("if", "else", "endif"), re.compile(r"\]\s*>")),
}


class SGMLParseError(RuntimeError):
    """The text is not SGML (API spec 3.11)."""


class SGMLParser:
    """Cut text into calls of methods that subclasses define (API spec 3.11).

    ``<TAG a=b>`` calls ``start_tag([("a", "b")])`` and opens an element, or ``do_tag(...)`` and
    opens none, or, where the subclass has neither, ``unknown_starttag("tag", ...)``. ``</TAG>``
    calls ``end_tag()``, also for what is open inside. Names are lower-cased, values are not.

    Not for use by several threads at once.
    """

    #: The entities that `convert_entityref` knows.
    entitydefs: dict[str, str] = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}

    #: ``<TAG/text/``, matched at a ``<``: name and text.
    _short_tag = re.compile(rf"<({_NAME})/([^/]*)/")
    #: Whether ``<TAG/`` without a second slash waits for one, or is an ordinary start tag.
    _short_tag_waits = True

    def __init__(self, verbose: int = 0) -> None:
        """Prepare for input.

        verbose: whether end tags without a start tag are printed.
        """
        self.verbose = verbose
        self.reset()

    def reset(self) -> None:
        """Forget all input and all open elements."""
        self.rawdata = ""
        self.stack: list[str] = []
        # How often each name is on the stack, so that hostile text with many end tags for
        # elements that are not open does not search a deep stack for each.
        self._open: dict[str, int] = {}
        self.lasttag = "???"
        self.nomoretags = 0
        self.literal = 0
        self._starttag_text: Optional[str] = None

    def setnomoretags(self) -> None:
        """Treat all further input as data."""
        self.nomoretags = self.literal = 1

    def setliteral(self, *args: Any) -> None:
        """Treat further input as data, up to the next end tag. Arguments are ignored."""
        self.literal = 1

    def feed(self, data: str) -> None:
        """Parse as much of the input so far as is complete.

        Raises SGMLParseError for a declaration that makes no sense, and whatever handlers raise;
        TypeError when data is not str.
        """
        self.rawdata = self.rawdata + data
        self.goahead(0)

    def close(self) -> None:
        """Parse what is left; unfinished constructs become data."""
        self.goahead(1)

    def error(self, message: str) -> Any:
        """Refuse the input: raises SGMLParseError.

        A subclass may return instead; parsing goes on behind the offending declaration.
        """
        raise SGMLParseError(message)

    # -- the scanner; a parse_... method takes the index of a "<" or "&" and returns the index of
    # what follows, or -1 if the construct is not complete

    def goahead(self, end: int) -> None:
        """Parse `rawdata`, to its end if ``end`` is true, and keep what is not complete."""
        i = 0
        while i < len(self.rawdata):
            text = self.rawdata
            if self.nomoretags:
                self.rawdata = ""
                self.handle_data(text[i:])
                return
            match = _TEXT_END.search(text, i)
            j = match.start() if match else len(text)
            if i < j:
                self.handle_data(text[i:j])
                i = j
                continue
            if text[i] == "<":
                k = self._parse_markup(i)
            else:
                k = self._parse_reference(i)
            if k < 0:
                break
            i = k
        rest = self.rawdata[i:]
        self.rawdata = "" if end else rest
        if end and rest:
            self.handle_data(rest)

    def _parse_markup(self, i: int) -> int:
        text = self.rawdata
        following = text[i + 1 : i + 2]
        if following == "/":
            k = self.parse_endtag(i)
            if k >= 0:
                self.literal = 0
            return k
        if not following:
            return -1
        if not self.literal:
            if (following.isalpha() and following.isascii()) or following == ">":
                return self.parse_starttag(i)
            if following == "?":
                return self.parse_pi(i)
            if following == "!":
                return self.parse_declaration(i)
        self.handle_data("<")
        return i + 1

    def _parse_reference(self, i: int) -> int:
        text = self.rawdata
        if self.literal:
            self.handle_data("&")
            return i + 1
        for pattern, handle in (
            (_CHARACTER, self.handle_charref),
            (_ENTITY, self.handle_entityref),
        ):
            match = pattern.match(text, i)
            if match:
                k = match.end()
                if k == len(text):
                    return -1  # the name may go on
                handle(match.group(1))
                return k + 1 if text[k] == ";" else k
        sign = text[i : i + 2]
        if sign == "&#":
            if i + 2 == len(text):
                return -1
        elif i + 1 == len(text):
            return -1
        else:
            sign = "&"
        self.handle_data(sign)
        return i + len(sign)

    def parse_starttag(self, i: int) -> int:
        """Handle a start tag, short (``<b/text/``), empty (``<>``) or ordinary."""
        text = self.rawdata
        if _SHORT_TAG_OPEN.match(text, i):
            short = self._short_tag.match(text, i)
            if short:
                tag = short.group(1).lower()
                self._starttag_text = text[i : short.start(2)]
                self.finish_shorttag(tag, short.group(2))
                return short.end()
            if self._short_tag_waits:
                return -1
        found = _TAG_END.search(text, i + 1)
        if not found:
            return -1
        j = found.start()
        attrs: Attributes = []
        name = _TAG_NAME.match(text, i + 1)
        if name:
            tag = name.group().lower()
            self.lasttag = tag
            k = name.end()
            while k < j:
                attribute = _ATTRIBUTE.match(text, k)
                if not attribute:
                    break
                attrs.append(self._attribute(*attribute.group(1, 2, 3)))
                k = attribute.end()
        else:
            tag = self.lasttag
        if text[j] == ">":
            j += 1
        self._starttag_text = text[i:j]
        self.finish_starttag(tag, attrs)
        return j

    def _attribute(
        self, name: str, assigned: Optional[str], value: Optional[str]
    ) -> tuple[str, str]:
        if not assigned or value is None:
            return name.lower(), name
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        return name.lower(), _VALUE_REFERENCE.sub(self._value_of_reference, value)

    def _value_of_reference(self, match: re.Match[str]) -> str:
        if match.group(1):
            value = self.convert_entityref(match.group(1))
        else:
            value = self.convert_charref(match.group(2))
        return match.group() if value is None else value

    def parse_endtag(self, i: int) -> int:
        """Handle ``</tag>``; everything up to the next bracket is the name."""
        found = _TAG_END.search(self.rawdata, i + 1)
        if not found:
            return -1
        j = found.start()
        self.finish_endtag(self.rawdata[i + 2 : j].strip().lower())
        return j + 1 if found.group() == ">" else j

    def parse_pi(self, i: int) -> int:
        """Handle a processing instruction, ``<?text>``."""
        j = self.rawdata.find(">", i + 2)
        if j < 0:
            return -1
        self.handle_pi(self.rawdata[i + 2 : j])
        return j + 1

    def parse_comment(self, i: int, report: int = 1) -> int:
        """Handle ``<!--text-->``; call `handle_comment` if ``report`` is true."""
        found = _COMMENT_END.search(self.rawdata, i + 4)
        if not found:
            return -1
        if report:
            self.handle_comment(self.rawdata[i + 4 : found.start()])
        return found.end()

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Handle ``<![name ...]]>``, and ``<![if ...]>`` as Microsoft Office writes it."""
        text = self.rawdata
        if len(text) == i + 3:
            return -1
        name = _TAG_NAME.match(text, i + 3)
        if not name:
            return self._bad_declaration(i, "unknown marked section")
        if name.end() == len(text):
            return -1
        ending = _SECTION_ENDS.get(name.group().lower())
        if ending is None:
            return self._bad_declaration(i, "unknown marked section")
        found = ending.search(text, name.end())
        if not found:
            return -1
        if report:
            self.unknown_decl(text[i + 3 : found.start()])
        return found.end()

    def parse_declaration(self, i: int) -> int:
        """Handle what begins with ``<!``: comment, marked section, ``<!DOCTYPE ...>``, others."""
        text = self.rawdata
        start = text[i + 2 : i + 4]
        if start.startswith(">"):
            return i + 3
        if start == "--":
            return self.parse_comment(i)
        if start.startswith("["):
            return self.parse_marked_section(i)
        if not start or start.startswith("-"):
            return -1
        name = _DECLARATION_NAME.match(text, i + 2)
        if not name:
            return self._bad_declaration(i, "malformed declaration")
        doctype = name.group().strip().lower() == "doctype"
        j = name.end()
        while j < len(text):
            if text[j] == ">":
                handle = self.handle_decl if doctype else self.unknown_decl
                handle(text[i + 2 : j])
                return j + 1
            if text[j] == "[" and doctype:
                j = self._skip_subset(j + 1)
                if j < 0:
                    return -1
                continue
            part = _DECLARATION_PART.match(text, j)
            if part:
                j = part.end()
            elif text[j] in "'\"":
                return -1
            else:
                return self._bad_declaration(i, f"unexpected {text[j]!r} in declaration")
        return -1

    def _skip_subset(self, j: int) -> int:
        """Return the index behind the "]" of a document type's internal subset, or -1."""
        text = self.rawdata
        while j < len(text):
            if text[j] == "]":
                return j + 1
            if text.startswith("<!--", j):
                found = _COMMENT_END.search(text, j + 4)
                if not found:
                    return -1
                j = found.end()
                continue
            part = _SUBSET_PART.match(text, j)
            if not part:
                return -1  # an open quote
            j = part.end()
        return -1

    def _bad_declaration(self, i: int, message: str) -> int:
        """Complain about the declaration at ``i``; if that returns, hand it over up to its ">"."""
        self.error(message)
        j = self.rawdata.find(">", i)
        if j < 0:
            return -1
        self.unknown_decl(self.rawdata[i + 2 : j])
        return j + 1

    # -- elements

    def finish_shorttag(self, tag: str, data: str) -> None:
        """Handle the parts of ``<tag/data/``."""
        self.finish_starttag(tag, [])
        self.handle_data(data)
        self.finish_endtag(tag)

    def finish_starttag(self, tag: str, attrs: Attributes) -> int:
        """Call the method for a start tag; return 1 if it opened an element, 0 or -1 if not."""
        method = getattr(self, "start_" + tag, None)
        if method is not None:
            self.stack.append(tag)
            self._open[tag] = self._open.get(tag, 0) + 1
            self.handle_starttag(tag, method, attrs)
            return 1
        method = getattr(self, "do_" + tag, None)
        if method is not None:
            self.handle_starttag(tag, method, attrs)
            return 0
        self.unknown_starttag(tag, attrs)
        return -1

    def finish_endtag(self, tag: str) -> None:
        """Close the innermost open ``tag`` and what is in it; for "", the innermost element."""
        if tag and not self._open.get(tag):
            if getattr(self, "end_" + tag, None) is None:
                self.unknown_endtag(tag)
            else:
                self.report_unbalanced(tag)
            return
        if not self.stack:
            self.unknown_endtag(tag)
            return
        while self.stack:
            closed = self.stack.pop()
            self._open[closed] -= 1
            method = getattr(self, "end_" + closed, None)
            if method is None:
                self.unknown_endtag(closed)
            else:
                self.handle_endtag(closed, method)
            if closed == tag or not tag:
                break

    def get_starttag_text(self) -> Optional[str]:
        """Return the last start tag as it was written, or None if there was none."""
        return self._starttag_text

    # -- to be overridden

    def handle_starttag(
        self, tag: str, method: Callable[[Attributes], Any], attrs: Attributes
    ) -> Any:
        """Call ``method``, which is ``start_TAG`` or ``do_TAG``."""
        method(attrs)

    def handle_endtag(self, tag: str, method: Callable[[], Any]) -> Any:
        """Call ``method``, which is ``end_TAG``."""
        method()

    def report_unbalanced(self, tag: str) -> Any:
        """Notice an end tag, with an ``end_TAG`` method, of an element that is not open."""
        if self.verbose:
            print(f"*** Unbalanced </{tag}>")
            print("*** Stack:", self.stack)

    def convert_charref(self, name: str) -> Optional[str]:
        """Return the character of the decimal number ``name``, None unless it is 0 to 127."""
        try:
            codepoint = int(name)
        except ValueError:  # no number, or one of thousands of digits
            return None
        return self.convert_codepoint(codepoint) if 0 <= codepoint <= 127 else None

    def convert_codepoint(self, codepoint: int) -> Optional[str]:
        """Return the character of a code point."""
        return chr(codepoint)

    def convert_entityref(self, name: str) -> Optional[str]:
        """Return the text of an entity, None if `entitydefs` does not have it."""
        return self.entitydefs.get(name)

    def handle_charref(self, name: str) -> Any:
        """Pass on the character, or call `unknown_charref`."""
        replacement = self.convert_charref(name)
        if replacement is None:
            self.unknown_charref(name)
        else:
            self.handle_data(replacement)

    def handle_entityref(self, name: str) -> Any:
        """Pass on the entity's text, or call `unknown_entityref`."""
        replacement = self.convert_entityref(name)
        if replacement is None:
            self.unknown_entityref(name)
        else:
            self.handle_data(replacement)

    def handle_data(self, data: str) -> Any:
        """Take text."""

    def handle_comment(self, data: str) -> Any:
        """Take a comment, without its delimiters."""

    def handle_decl(self, decl: str) -> Any:
        """Take a document type declaration, without its delimiters."""

    def handle_pi(self, data: str) -> Any:
        """Take a processing instruction, without its delimiters."""

    def unknown_starttag(self, tag: str, attrs: Attributes) -> Any:
        """Take a start tag for which there is no method."""

    def unknown_endtag(self, tag: str) -> Any:
        """Take an end tag for which there is no method."""

    def unknown_charref(self, ref: str) -> Any:
        """Take a character reference that could not be converted."""

    def unknown_entityref(self, ref: str) -> Any:
        """Take an entity reference that could not be converted."""

    def unknown_decl(self, data: str) -> Any:
        """Take a declaration other than of a document type, without its delimiters."""


class TestSGMLParser(SGMLParser):
    """Print what is parsed."""

    __test__ = False  # it is no test case, whatever its name makes pytest think

    def __init__(self, verbose: int = 0) -> None:
        """Prepare for input; see `SGMLParser`."""
        self.testdata = ""
        super().__init__(verbose)

    def handle_data(self, data: str) -> None:
        """Collect text, to be printed before what follows it."""
        self.testdata += data

    def flush(self) -> None:
        """Print the text collected."""
        data, self.testdata = self.testdata, ""
        if data:
            print("data:", repr(data))

    def _print(self, *items: str) -> None:
        self.flush()
        print(*items)

    def handle_comment(self, data: str) -> None:
        """Print a comment."""
        self._print("comment:", repr(data))

    def unknown_starttag(self, tag: str, attrs: Attributes) -> None:
        """Print a start tag."""
        self._print("start tag: <" + " ".join([tag, *(f'{n}="{v}"' for n, v in attrs)]) + ">")

    def unknown_endtag(self, tag: str) -> None:
        """Print an end tag."""
        self._print(f"end tag: </{tag}>")

    def unknown_entityref(self, ref: str) -> None:
        """Print an entity reference."""
        self._print(f"*** unknown entity ref: &{ref};")

    def unknown_charref(self, ref: str) -> None:
        """Print a character reference."""
        self._print(f"*** unknown char ref: &#{ref};")

    def unknown_decl(self, data: str) -> None:
        """Print a declaration."""
        self._print(f"*** unknown decl: [{data}]")

    def close(self) -> None:
        """Parse and print the rest."""
        super().close()
        self.flush()


def test(args: Optional[list[str]] = None) -> None:  # noqa: PT028 - a command, not a test
    """Parse a file and print what was found.

    args: ``["-s"]`` for silence, then the file's name, "-" for standard input, "test.html" if not
    given; None: the command line's.
    """
    args = sys.argv[1:] if args is None else list(args)
    silent = args[:1] == ["-s"]
    name = (args[1:] if silent else args)[:1] or ["test.html"]
    try:
        if name == ["-"]:
            text = sys.stdin.read()
        else:
            with open(name[0], encoding="utf-8", errors="replace") as stream:
                text = stream.read()
    except OSError as error:
        print(name[0], ":", error)
        sys.exit(1)
    parser = SGMLParser() if silent else TestSGMLParser()
    parser.feed(text)
    parser.close()


if __name__ == "__main__":
    test()
