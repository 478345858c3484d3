"""What a test gets to know of a message: what became of it, and assertions that show the dialogue.

Milter.testing has the public names.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Iterable
from typing import Final, NoReturn, Optional, Union

from Milter import _inwords
from Milter._dialogue import Outcome, Result
from Milter._inwords import outcome_lines, step_lines
from Milter._message import Message, Modification, Text, bare, from_wire, shown, to_wire

Path = Union[str, "os.PathLike[str]"]

_LONGEST: Final = 200  # characters of a line of a diff, before it is cut
_MOST: Final = 200  # lines of a diff that are shown
_CODES: Final = re.compile("[0-9]{3}[- ]?(?:[245](?:[.][0-9]{1,3}){2}(?: |$))?")
"""What stands before the text in each line of a reply."""


class Failure(AssertionError):
    """A filter did not do what a test expected of it.

    Attributes:
        report: what it did.
    """

    def __init__(self, text: str, report: Report) -> None:
        """Joins what was expected to what happened."""
        super().__init__(f"{text}\n\n{report}")
        self.report = report


@dataclasses.dataclass(frozen=True)
class Report(Result):
    """What became of a message: a :class:`Milter.mta.Result` that tests can ask and assert.

    The methods whose names begin with ``assert_`` raise :class:`Failure`, an AssertionError, whose
    text has the dialogue and a diff of what the filter changed; else they return the report, so
    that they can be chained. ``str()`` gives the same text.

    Attributes:
        original: the message and envelope that were sent.
        directory: where files with messages are looked for first.
    """

    original: Message = dataclasses.field(default_factory=Message)
    directory: Path = dataclasses.field(default="", repr=False, compare=False)

    @classmethod
    def of(cls, result: Result, original: Message, directory: Path = "") -> Report:
        """Returns the report of a result."""
        fields = {each.name: getattr(result, each.name) for each in dataclasses.fields(result)}
        return cls(**{**fields, "original": original, "directory": directory})

    # -- questions -------------------------------------------------------------------------------

    @property
    def code(self) -> int:
        """The code of the SMTP reply that the client gets."""
        return int(self.reply[:3])

    @property
    def refused_recipients(self) -> list[str]:
        """The recipients that the filter refused, without angle brackets."""
        return [bare(step.argument.partition(" ")[0]) for step in self.refused]

    def header(self, name: Text) -> Optional[str]:
        """Returns the value of the first header of that name afterwards, None where there is none.

        Without the one blank behind the colon; folds stand as a line feed and a blank.
        """
        return next(iter(self.headers(name)), None)

    def headers(self, name: Text) -> list[str]:
        """Returns the values of all headers of that name afterwards, as :meth:`header` does."""
        return [from_wire(value) for value in self.message.get_all(name)]

    def __str__(self) -> str:
        """The dialogue, the outcome, and a diff of envelope, headers and body."""
        lines = ["The dialogue:"]
        for step in self.steps:
            lines += [f"  {line}" for line in step_lines(step)]
        lines += [f"  {line}" for line in end_lines(self)]
        changes = changes_of(self)
        if changes:
            lines += ["", "The message as sent (-) and afterwards (+):"]
        elif self.outcome is Outcome.ACCEPTED:
            lines += ["", "No changes."]
        return "\n".join(lines + [f"  {line}".rstrip() for line in changes])

    # -- assertions ------------------------------------------------------------------------------

    def _fail(self, expected: str, actual: str) -> NoReturn:
        __tracebackhide__ = True
        raise Failure(f"expected: {expected}\nbut was:  {actual}", self)

    def _assert_outcome(
        self,
        outcome: Outcome,
        code: Optional[int] = None,
        enhanced: Optional[str] = None,
        text: str = "",
    ) -> Report:
        __tracebackhide__ = True
        first, *more = self.reply.split("\r\n")
        matches = (
            self.outcome is outcome
            and code in (None, self.code)
            and (enhanced is None or first[4:].split(" ")[0] == enhanced)
            and _in_reply(text, [first, *more])
        )
        if not matches:
            words = [str(code) if code else "", enhanced or "", repr(text) if text else ""]
            wanted = " ".join(word for word in words if word)
            self._fail(
                outcome.value + (f", with {wanted}" if wanted else ""),
                f"{self.outcome.value}: " + "\n          ".join(map(shown, [first, *more])),
            )
        return self

    def assert_accepted(self) -> Report:
        """The message is accepted, changed or not, for at least one recipient."""
        __tracebackhide__ = True
        return self._assert_outcome(Outcome.ACCEPTED)

    def assert_rejected(
        self, code: Optional[int] = None, enhanced: Optional[str] = None, text: str = ""
    ) -> Report:
        """The message is rejected for good (5xx).

        Args:
            code: the SMTP code, if it matters.
            enhanced: the enhanced status code (RFC 3463), if it matters.
            text: is in the reply, whose lines are joined, without their codes, by a line feed, and
                if that does not hold it by a blank.
        """
        __tracebackhide__ = True
        return self._assert_outcome(Outcome.REJECTED, code, enhanced, text)

    def assert_tempfailed(
        self, code: Optional[int] = None, enhanced: Optional[str] = None, text: str = ""
    ) -> Report:
        """The message is rejected for now (4xx); arguments as for :meth:`assert_rejected`."""
        __tracebackhide__ = True
        return self._assert_outcome(Outcome.TEMPFAILED, code, enhanced, text)

    def assert_discarded(self) -> Report:
        """The client is told that all is well, and nobody gets the message."""
        __tracebackhide__ = True
        return self._assert_outcome(Outcome.DISCARDED)

    def assert_refused(self, *recipients: str) -> Report:
        """The filter refuses these recipients, in this order, and no others."""
        __tracebackhide__ = True
        expected = [bare(recipient) for recipient in recipients]
        if expected != self.refused_recipients:
            self._fail(f"refused recipients {_listed(expected)}", _listed(self.refused_recipients))
        return self

    def assert_quarantined(self, reason: Optional[str] = None) -> Report:
        """The message is put aside; *reason*: why, if it matters."""
        __tracebackhide__ = True
        if self.quarantine is None or reason not in (None, self.quarantine):
            self._fail(
                "quarantined" + ("" if reason is None else f", as {reason!r}"),
                "not quarantined" if self.quarantine is None else f"as {self.quarantine!r}",
            )
        return self

    def assert_unchanged(self) -> Report:
        """The filter changes nothing: neither message nor envelope, nor has it put aside."""
        __tracebackhide__ = True
        if self.modifications:
            self._fail("no changes", _listed(self.modifications))
        return self

    def assert_modifications(self, *modifications: Modification) -> Report:
        """The filter asks for exactly these changes, in this order, say ``mta.AddHeader(...)``."""
        __tracebackhide__ = True
        if modifications != self.modifications:
            self._fail(_listed(modifications), _listed(self.modifications))
        return self

    def assert_header(self, name: Text, *values: Text) -> Report:
        """Afterwards the headers of that name are these.

        Args:
            name: whatever its case.
            values: of all of them, in their order, without the blank behind the colon; none: there
                is at least one, whatever it says.
        """
        __tracebackhide__ = True
        found = self.headers(name)
        if found != [_text(value) for value in values] if values else not found:
            label = shown(_text(name))
            wanted = "\n          ".join(f"{label}: {shown(_text(value))}" for value in values)
            actual = "\n          ".join(f"{label}: {shown(value)}" for value in found)
            self._fail(wanted or f"a header {label}", actual or f"no header {label}")
        return self

    def assert_no_header(self, name: Text) -> Report:
        """Afterwards there is no header of that name."""
        __tracebackhide__ = True
        found = self.headers(name)
        if found:
            label = shown(_text(name))
            self._fail(f"no header {label}", f"{label}: {shown(found[0])}")
        return self

    def assert_body(self, body: Text) -> Report:
        """Afterwards the body is this one; its lines may end in LF or CR LF."""
        __tracebackhide__ = True
        return self._assert_message(
            dataclasses.replace(self.message, body=crlf(body)), "another body"
        )

    def assert_message(self, expected: Union[Message, bytes, str, os.PathLike[str]]) -> Report:
        """Afterwards headers and body are those of another message; the envelope does not count.

        Args:
            expected: the message, or its content, or the path of a file with it, which is looked
                for beside the test first.
        """
        __tracebackhide__ = True
        if isinstance(expected, bytes):
            expected = Message.from_bytes(expected)
        elif not isinstance(expected, Message):
            expected = Message.from_file(found(expected, self.directory))
        whole = dataclasses.replace(
            self.message, headers=list(expected.headers), body=expected.body
        )
        return self._assert_message(whole, "another message")

    def _assert_message(self, expected: Message, what: str) -> Report:
        __tracebackhide__ = True
        if expected != self.message:
            lines = diff(expected, self.message)
            text = "\n".join(f"  {line}".rstrip() for line in lines)
            raise Failure(f"expected {what}; as expected (-) and as it is (+):\n{text}", self)
        return self

    def assert_sender(self, sender: str) -> Report:
        """Afterwards this is the envelope sender; angle brackets make no difference."""
        __tracebackhide__ = True
        if bare(sender) != bare(self.message.sender):
            self._fail(f"sender <{bare(sender)}>", f"<{bare(self.message.sender)}>")
        return self

    def assert_recipients(self, *recipients: str) -> Report:
        """Afterwards these are the recipients, in any order; angle brackets make no difference."""
        __tracebackhide__ = True
        expected = sorted(bare(recipient) for recipient in recipients)
        found = sorted(bare(recipient.address) for recipient in self.message.recipients)
        if expected != found:
            self._fail(f"recipients {_listed(expected)}", _listed(found))
        return self


# As users import them, and pytest prints them.
Failure.__module__ = Report.__module__ = "Milter.testing"


def _in_reply(text: str, lines: list[str]) -> bool:
    """Whether a text is in a reply, with its codes or without."""
    words = [_CODES.sub("", line, count=1) for line in lines]
    return any(text in whole for whole in ("\n".join(lines), "\n".join(words), " ".join(words)))


def _text(text: Text) -> str:
    return from_wire(to_wire(text))


def found(path: Path, directory: Path) -> Path:
    """Returns where a file is: in that directory, else in the current one.

    Raises:
        FileNotFoundError: in neither.
    """
    near = os.path.join(directory, path)
    if os.path.exists(near):
        return near
    if not os.path.exists(path):
        places = f"neither in {directory} nor in the current directory"
        raise FileNotFoundError(errno.ENOENT, places if directory else "No such file", path)
    return path


def crlf(text: Text) -> bytes:
    """Returns a body with the line ends that a filter gets."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _listed(things: Iterable[object]) -> str:
    return ", ".join(str(thing) for thing in things) or "none"


def end_lines(result: Result) -> list[str]:
    """Returns what became of a message, and what filters did wrong, in words."""
    return [*outcome_lines(result), *(f"error: {shown(str(error))}" for error in result.errors)]


def changes_of(report: Report) -> list[str]:
    """Returns a diff of what the filter changed; none where nobody gets the message unchanged."""
    refused = report.outcome in (Outcome.REJECTED, Outcome.TEMPFAILED)
    return [] if refused and not report.modifications else diff(report.original, report.message)


def diff(before: Message, after: Message) -> list[str]:
    """Returns the lines of a diff of envelope, headers and body; none where they are the same.

    Long lines are cut, and so is a diff of very many lines.
    """
    lines = _inwords.diff(before, after)
    cut = [line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..." for line in lines]
    return cut if len(cut) <= _MOST else [*cut[:_MOST], f"... and {len(cut) - _MOST} lines more"]
