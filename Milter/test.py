"""`TestBase`: makes a filter's class its own test bench.

Mix it in before the filter's class, feed a message, and look at what the filter did:

    class Bench(TestBase, MyFilter):
        def __init__(self):
            TestBase.__init__(self)
            MyFilter.__init__(self)

    bench = Bench()
    assert Milter.CONTINUE == bench.connect(ip="192.0.2.1")
    assert Milter.ACCEPT == bench.feedMsg("spam.eml")
    assert bench._headerschanged

Importing this sets `Milter.NOREPLY` to `Milter.CONTINUE`, for the whole process, so that callbacks
under `@noreply` return CONTINUE. `Milter.testctx` tests a filter without deriving from it.
Source: API spec 3.12.
"""

from __future__ import annotations

import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, TextIO

import Milter
from Milter import _testing
from Milter._constants import CONTINUE, CURR_ACTS

# The decorators read it at each call. A constant to mypy, as to everybody else.
Milter.NOREPLY = Milter.CONTINUE  # type: ignore[misc]

_FAMILY = 1  # pymilter passes this with an IPv4 address, too


class TestBase(_testing.Recorder):
    """Mixin: the MTA's side of the filter that it is mixed into, before the filter's class.

    What the filter asks of the MTA is recorded in attributes: `_reply`, `_msg` with the headers
    as changed, `_headerschanged`, `_body` (a BytesIO with the whole message) and `_bodyreplaced`,
    `_addrcpt`, `_delrcpt`, `_sender` and `_envfromchanged`, `_quarantine_reason`.

    Args:
        logfile: where `log` appends its lines. Without its directory they go to standard output.
    """

    if TYPE_CHECKING:
        # The filter's, or the mixin's own with other arguments than the filter's.
        connect: Callable[..., Any]
        _setctx: Callable[..., None]
        negotiate: Callable[..., Any]
        close: Callable[..., Any]

    def __init__(self, logfile: str = "test/milter.log") -> None:
        """Opens the log file."""
        super().__init__()
        self.logfp: TextIO | None = None
        if os.path.isdir(os.path.dirname(logfile) or os.curdir):
            # It stays open, so no `with`. Suites do not close it where a message was refused, and
            # are to get no ResourceWarning for it.
            self.logfp = open(logfile, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            weakref.finalize(self, self.logfp.close)

    def log(self, *msg: Any) -> None:
        """Writes its arguments on one line of the log file."""
        print(*msg, file=self.logfp)

    def _close(self) -> None:
        """Closes the log file; what is logged later goes to standard output."""
        if self.logfp is not None:
            self.logfp.close()
            self.logfp = None

    def setsymval(self, name: str, val: str) -> None:
        """Defines a macro."""
        self._macros[name] = val

    def addheader(self, field: str, value: str, idx: int = -1) -> None:
        """Appends a header to `_msg`, and logs it. Only in eom."""
        super().addheader(field, value, idx)
        self.log(f"addheader: {field}={value}")

    def chgheader(self, field: str, idx: int, value: str | None) -> None:
        """Appends a header to `_msg`, or deletes all of its name; and logs it. Only in eom."""
        super().chgheader(field, idx, value)
        self.log(f"chgheader: {field}[{idx}]={value}")

    def chgfrom(self, sender: str, params: str | None = None) -> None:
        """Records a new `_sender`, and logs it. Only in eom."""
        super().chgfrom(sender, params)
        self.log(f"chgfrom: sender={sender}")

    def addrcpt(self, rcpt: str, params: str | None = None) -> None:
        """Appends to `_addrcpt`: the recipient, or (recipient, parameters). Only in eom."""
        _testing.add_recipient(self, rcpt if params is None else (rcpt, params))

    def progress(self) -> None:
        """Does nothing."""

    def setsymlist(self, stage: int, *macros: str | bytes) -> None:
        """Records which macros the filter wants at a stage: it gets no others there.

        Args:
            stage: M_CONNECT to M_EOH.
            macros: 5 at most; one string may hold several, separated by blanks.

        Raises:
            RuntimeError: not in negotiate.
            ValueError: more than 5.
        """
        words = [each.encode() if isinstance(each, str) else each for each in macros]
        # As Base.setsymlist, which overlooks other types.
        names = b" ".join(word for word in words if isinstance(word, bytes))
        _testing.record_macros(self, stage, names)

    if not TYPE_CHECKING:

        def connect(
            self, host: str = "localhost", helo: str = "spamrelay", ip: str = "1.2.3.4"
        ) -> Any:
            """Begins a connection: negotiate, connect, hello.

            Args:
                host: the client's name.
                helo: what it says in HELO.
                ip: its address.

            Returns:
                CONTINUE; or what connect or hello returned instead, after close.
            """
            _testing.forget_negotiation(self)
            self._setctx(None)
            self._stage = _testing.NEGOTIATING
            try:
                self.negotiate([CURR_ACTS, ~0, 0, 0])
            finally:
                self._stage = None
            client = host, _FAMILY, (ip, _testing.PORT)
            verdict = _testing.call(self, super(), "connect", *client)
            if verdict == CONTINUE:
                verdict = _testing.call(self, self, "hello", helo)
            if verdict != CONTINUE:
                self.close()
            return verdict

    def feedFile(
        self,
        fp: BinaryIO,
        sender: str = "spam@adv.com",
        rcpt: str = "victim@lamb.com",
        *rcpts: str,
    ) -> Any:
        """Feeds a message to the filter.

        Args:
            fp: the message, from where it stands; the filter gets it with LF line ends.
            sender, rcpt, rcpts: the envelope, without angle brackets.

        Returns:
            What eom returned, after close; or what an earlier callback returned instead of
            CONTINUE. SKIP from body only ends the body.
        """
        step = partial(_testing.call, self, self)
        steps = _testing.Steps(
            envfrom=partial(step, "envfrom"),
            envrcpt=partial(step, "envrcpt"),
            data=partial(step, "data"),
            header=partial(step, "header_bytes"),
            eoh=partial(step, "eoh"),
            body=partial(_testing.feed_body, call=partial(step, "body")),
            eom=partial(_testing.eom, self, self),
        )
        verdict = _testing.feed(self, steps, fp, sender, (rcpt, *rcpts))
        if self._body is not None:  # eom was reached
            self.close()
            self._close()
        return verdict

    def feedMsg(self, fname: str, sender: str = "spam@adv.com", *rcpts: str) -> Any:
        """Feeds the message in the file `test/<fname>`, see feedFile."""
        with open("test/" + fname, "rb") as fp:
            return self.feedFile(fp, sender, *rcpts)
