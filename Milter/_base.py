"""The class that filters derive from, and the one that logs.

What a filter may replace at run time - `Milter.factory`, `Milter.NOREPLY`, `Milter.milter` - is
read from the package at each use, never kept. Source: API spec 2.2 to 2.7 and 2.10.
"""

from __future__ import annotations

import re
from typing import Any, Callable

from Milter._constants import (
    ADDHDRS,
    ADDRCPT,
    ADDRCPT_PAR,
    ALL_OPTS,
    CHGBODY,
    CHGFROM,
    CHGHDRS,
    CONTINUE,
    CURR_ACTS,
    DELRCPT,
    P_HDR_LEADSPC,
    P_RCPT_REJ,
    QUARANTINE,
    SETSYMLIST,
)
from Milter._decorators import (
    MACRO_CALLBACKS,
    MACROS_PER_LIST,
    OPTIONAL_CALLBACKS,
    computed_masks,
    nocallback,
    noreply,
)
from Milter._dispatch import logger

R = re.compile(r"%+")
"""One or more percent signs in a row."""


class DisabledAction(RuntimeError):
    """An action was called that the MTA did not offer, or that was not asked for."""


class Base:
    """What a filter derives from: one object per connection, one method per step.

    Every callback returns CONTINUE, REJECT, TEMPFAIL, ACCEPT, DISCARD (message steps), SKIP
    (body) or NOREPLY. A step whose method is not overridden is not asked for.
    Source: API spec 2.2.
    """

    _ctx: Any
    _actions: int
    _protocol: int
    _protocol_mask: int
    _enabled_protocols = 0
    _symlists: list[tuple[int, tuple[str, ...]]]

    def _setctx(self, ctx: Any) -> None:
        """Attaches the object to a context, or detaches it with None."""
        self._ctx = ctx
        self._actions = CURR_ACTS
        self._protocol = 0
        if ctx:
            ctx.setpriv(self)

    def log(self, *msg: Any) -> None:
        """For filters to override; does nothing."""

    # Callbacks.

    @nocallback
    def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
        """A client has connected.

        Args:
            hostname: its name, or its address in brackets.
            family: socket.AF_INET, AF_INET6, AF_UNIX, or 0 for unknown.
            hostaddr: (ip, port), (ip, port, flow, scope), a path, or None.
        """
        return CONTINUE

    @nocallback
    def hello(self, hostname: str) -> int:
        """HELO or EHLO; it may come never, once or often."""
        return CONTINUE

    def envfrom_bytes(self, *b: bytes) -> Any:
        """MAIL FROM as bytes: decodes and calls envfrom. May be overridden."""
        return _call_decoded(self.envfrom, b)

    @nocallback
    def envfrom(self, f: Any, *s: Any) -> int:
        """MAIL FROM: the beginning of a message.

        Args:
            f: the sender, usually in angle brackets.
            s: ESMTP parameters.
        """
        return CONTINUE

    def envrcpt_bytes(self, *b: bytes) -> Any:
        """RCPT TO as bytes: decodes and calls envrcpt. May be overridden."""
        return _call_decoded(self.envrcpt, b)

    @nocallback
    def envrcpt(self, to: Any, *str: Any) -> int:
        """RCPT TO. A refusal is for this recipient alone.

        Args:
            to: the recipient, usually in angle brackets.
            str: ESMTP parameters.
        """
        return CONTINUE

    @nocallback
    def data(self) -> int:
        """DATA: the envelope is complete."""
        return CONTINUE

    def header_bytes(self, fld: str, val: bytes) -> Any:
        """A header with its value as bytes: decodes and calls header. May be overridden."""
        handler: Any = self.header
        try:
            # As strategy_of(), without the calls: there are many headers.
            strategy = handler.__func__.__dict__.get("error_strategy")
        except AttributeError:
            strategy = strategy_of(handler)
        if strategy is None:
            return handler(fld, val.decode("utf-8", "surrogateescape"))
        if strategy == "bytes":
            # A shortcut for the headers to come.
            self.header_bytes = handler  # type: ignore[method-assign]
            return handler(fld, val)
        try:
            value: Any = val.decode("utf-8", strategy)
        except UnicodeDecodeError:
            value = val
        return handler(fld, value)

    @nocallback
    def header(self, field: str, value: Any) -> int:
        """One header.

        Args:
            field: its name.
            value: folded lines are separated by LF and a blank.
        """
        return CONTINUE

    @nocallback
    def eoh(self) -> int:
        """The end of the headers."""
        return CONTINUE

    @nocallback
    def body(self, blk: bytes) -> int:
        """A piece of the body, with CRLF line ends; 65535 bytes at most with today's MTAs."""
        return CONTINUE

    @nocallback
    def unknown(self, cmd: str) -> int:
        """An SMTP command that the MTA does not know."""
        return CONTINUE

    def eom(self) -> int:
        """The end of the message: the one callback that may change it."""
        return CONTINUE

    def abort(self) -> int:
        """The message comes to nothing. The result is ignored."""
        return CONTINUE

    def close(self) -> int:
        """The end of the connection. The result is ignored."""
        return CONTINUE

    # Negotiation.

    @classmethod
    def protocol_mask(cls) -> int:
        """Returns the protocol bits that this class takes out of the MTA's offer.

        These are the NO and NR bits of the callbacks that it overrides, with what the decorators
        say, and the bits that must be asked for.
        """
        for klass in cls.__mro__:
            if "_protocol_mask" in klass.__dict__:
                mask: int = klass.__dict__["_protocol_mask"]
                # A parent's mask counts only where somebody has set it by hand.
                if klass is cls or computed_masks.get(klass) != mask:
                    return mask
        mask = P_RCPT_REJ | P_HDR_LEADSPC
        for name, (nr_bit, no_bit) in OPTIONAL_CALLBACKS.items():
            mask |= (nr_bit | no_bit) & ~getattr(getattr(cls, name), "milter_protocol", 0)
        mask &= ~cls._enabled_protocols
        cls._protocol_mask = mask
        computed_masks[cls] = mask
        return mask

    @classmethod
    def _macro_lists(cls) -> list[tuple[int, tuple[str, ...]]]:
        """Returns the stages for which @symlist names macros, with these."""
        lists: list[tuple[int, tuple[str, ...]]] | None = cls.__dict__.get("_symlists")
        if lists is None:
            named = [
                (stage, _declared(getattr(cls, name), "_symlist"))
                for name, stage in MACRO_CALLBACKS.items()
            ]
            lists = cls._symlists = [(stage, names) for stage, names in named if names is not None]
        return lists

    def negotiate(self, opts: list[int]) -> int:
        """Agrees with the MTA on actions, steps and macros.

        Args:
            opts: actions and protocol bits that the MTA offers, and two zeros; the filter's
                choice is left in it.

        Returns:
            CONTINUE for that choice, or ALL_OPTS: all actions and every step.
        """
        try:
            self._actions, offered, _, _ = opts
            for stage, names in self._macro_lists():
                self.setsymlist(stage, *names)
            wanted = offered & ~self.protocol_mask()
            opts[1] = wanted
            self._protocol = wanted
            opts[2] = opts[3] = 0
        except Exception:
            # As pymilter does. It happens with every connection where an MTA offers no macro lists.
            logger.info("negotiation falls back to all steps", exc_info=True)
            return ALL_OPTS
        return CONTINUE

    # Actions.

    def _require(self, action: int, name: str) -> None:
        if not self._actions & action:
            raise DisabledAction(name)

    def setsymlist(self, stage: int, *macros: str | bytes) -> Any:
        """Asks the MTA for certain macros at a stage. Only in negotiate.

        Args:
            stage: M_CONNECT to M_EOH.
            macros: 5 at most; one string may hold several, separated by blanks.

        Raises:
            DisabledAction, ValueError (more than 5), milter.error.
        """
        self._require(SETSYMLIST, "SETSYMLIST")
        if len(macros) > MACROS_PER_LIST:
            raise ValueError("setsymlist limited to 5 macros by MTA")
        names: list[bytes] = []
        for macro in macros:
            if isinstance(macro, str):
                macro = macro.encode()
            if isinstance(macro, bytes):
                names += macro.split(b" ")
        return self._ctx.setsymlist(stage, b" ".join(names))

    def getsymval(self, sym: str) -> Any:
        """Returns a macro's value, or None. Braces belong to the name. In any callback."""
        return self._ctx.getsymval(sym)

    def setreply(
        self, rcode: str, xcode: str | None = None, msg: str | None = None, *ml: str
    ) -> Any:
        """Sets the text that a REJECT or TEMPFAIL is sent with. In any callback.

        Args:
            rcode: three digits, the first 4 or 5.
            xcode: RFC 3463 status code.
            msg: a line of text; `%` must be doubled, as MTAs take it for a format.
            ml: further lines.

        Raises:
            ValueError: a `%` that is not doubled.
            milter.error: anything else is not as it must be.
        """
        lines = ml if msg is None else (msg, *ml)
        for line in lines:
            for run in R.findall(line):
                if len(run) % 2:
                    raise ValueError(f"'%' must be doubled: {line}")
        return self._ctx.setreply(rcode, xcode, *lines)

    def addheader(self, field: str, value: str, idx: int = -1) -> Any:
        """Adds a header, at the end or at place `idx` from 0. Only in eom."""
        self._require(ADDHDRS, "ADDHDRS")
        return self._ctx.addheader(field, value, idx)

    def chgheader(self, field: str, idx: int, value: str | None) -> Any:
        """Changes the idx-th header of a name, from 1; None or '' deletes it. Only in eom."""
        self._require(CHGHDRS, "CHGHDRS")
        return self._ctx.chgheader(field, idx, value)

    def addrcpt(self, rcpt: str, params: str | None = None) -> Any:
        """Adds a recipient, with ESMTP parameters if any. Only in eom."""
        self._require(ADDRCPT, "ADDRCPT")
        if params:
            self._require(ADDRCPT_PAR, "ADDRCPT_PAR")
        return self._ctx.addrcpt(rcpt, params)

    def delrcpt(self, rcpt: str) -> Any:
        """Removes a recipient, written as the MTA wrote it. Only in eom."""
        self._require(DELRCPT, "DELRCPT")
        return self._ctx.delrcpt(rcpt)

    def replacebody(self, body: str | bytes) -> Any:
        """Replaces the body; further calls append. Only in eom."""
        self._require(CHGBODY, "MODBODY")
        return self._ctx.replacebody(body)

    def chgfrom(self, sender: str, params: str | None = None) -> Any:
        """Changes the envelope sender. Only in eom."""
        self._require(CHGFROM, "CHGFROM")
        return self._ctx.chgfrom(sender, params)

    def quarantine(self, reason: str) -> Any:
        """Has the MTA hold the message. Only in eom."""
        self._require(QUARANTINE, "QUARANTINE")
        return self._ctx.quarantine(reason)

    def progress(self) -> Any:
        """Tells the MTA that the filter is still at work. Of use in eom only."""
        return self._ctx.progress()


def _declared(handler: Any, name: str) -> Any:
    """Returns what a decorator has left on a method, None where it has not."""
    try:
        # Far quicker than getattr(), for which an attribute that is missing costs an exception.
        return handler.__func__.__dict__.get(name)
    except AttributeError:
        return getattr(handler, name, None)


def strategy_of(handler: Any) -> Any:
    """Returns how a handler wants its bytes decoded (API spec 2.6); None for the default."""
    return _declared(handler, "error_strategy")


def _call_decoded(handler: Callable[..., Any], items: tuple[bytes, ...]) -> Any:
    """Calls envfrom or envrcpt with its bytes decoded as its strategy says.

    Where that fails for one, all are passed as bytes.
    """
    strategy = strategy_of(handler) or "surrogateescape"
    if strategy == "bytes":
        return handler(*items)
    if not items:
        raise IndexError("no address")
    try:
        decoded: list[Any] = [item.decode("utf-8", strategy) for item in items]
    except UnicodeDecodeError:
        decoded = list(items)
    return handler(*decoded)


class Milter(Base):
    """A filter that logs every step and lets everything pass: the default factory, and a demo."""

    def log(self, *msg: Any) -> None:
        """Prints its arguments on one line."""
        print("Milter:", *msg)

    @noreply
    def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
        """Logs the client."""
        self.log(f"connect from {hostname} at {hostaddr}")
        return CONTINUE

    @noreply
    def hello(self, hostname: str) -> int:
        """Logs the HELO name."""
        self.log("hello from", hostname)
        return CONTINUE

    @noreply
    def envfrom(self, f: Any, *s: Any) -> int:
        """Logs the sender."""
        self.log("mail from", f, s)
        return CONTINUE

    @noreply
    def envrcpt(self, to: Any, *str: Any) -> int:
        """Logs a recipient."""
        self.log("rcpt to", to, str)
        return CONTINUE

    @noreply
    def header(self, field: str, value: Any) -> int:
        """Logs a header."""
        self.log(f"{field}: {value}")
        return CONTINUE

    @noreply
    def eoh(self) -> int:
        """Logs the end of the headers."""
        self.log("eoh")
        return CONTINUE

    def eom(self) -> int:
        """Logs the end of the message."""
        self.log("eom")
        return CONTINUE

    def abort(self) -> int:
        """Logs that a message came to nothing."""
        self.log("abort")
        return CONTINUE

    def close(self) -> int:
        """Logs the end of the connection."""
        self.log("close")
        return CONTINUE
