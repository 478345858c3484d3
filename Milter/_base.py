"""The class that filters derive from, its decorators, and `runmilter`.

What a filter may replace at run time - `Milter.factory`, `Milter.NOREPLY`, `Milter.milter` - is
read from the package at each use, never kept here. Source: API spec 2.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Callable, TypeVar
from weakref import WeakKeyDictionary

import Milter as package
from Milter import _constants as constants
from Milter import _lowlevel
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
    M_CONNECT,
    M_DATA,
    M_ENVFROM,
    M_ENVRCPT,
    M_EOH,
    M_EOM,
    M_HELO,
    P_HDR_LEADSPC,
    P_NR_CONN,
    P_RCPT_REJ,
    QUARANTINE,
    SETSYMLIST,
)
from Milter._context import Context
from Milter._dispatch import METHODS, NO_BITS, NR_BITS, logger
from Milter._server import DRAIN

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound="type[Base]")

MACROS_PER_LIST = 5
"""Macros that one symlist may name; older MTAs take no more."""

OPTIONAL_CALLBACKS: dict[str, tuple[int, int]] = {
    method: (NR_BITS[step], NO_BITS[step]) for step, method in enumerate(METHODS) if NO_BITS[step]
}
"""Methods that a filter may do without: name -> (NR bit, NO bit)."""

MACRO_CALLBACKS: dict[str, int] = {
    "connect": M_CONNECT,
    "hello": M_HELO,
    "envfrom": M_ENVFROM,
    "envrcpt": M_ENVRCPT,
    "data": M_DATA,
    "eom": M_EOM,
    "eoh": M_EOH,
}
"""Methods at which the MTA can be asked for macros: name -> stage."""

R = re.compile(r"%+")
"""One or more percent signs in a row."""

# Masks that protocol_mask() has worked out itself, which subclasses must not inherit.
_computed_masks: WeakKeyDictionary[type, int] = WeakKeyDictionary()

# The answers of _unwanted_steps().
_unwanted: WeakKeyDictionary[type, int] = WeakKeyDictionary()


class DisabledAction(RuntimeError):
    """An action was called that the MTA did not offer, or that was not asked for."""


# ---------------------------------------------------------------------------------------------
# Decorators


def nocallback(func: F) -> F:
    """Decorator: this callback is not needed, so that the MTA need not send the step.

    The method is only called where the MTA cannot leave the step out, and then has to return
    CONTINUE.

    Raises:
        ValueError: not one of OPTIONAL_CALLBACKS.
    """
    name = func.__name__
    if name not in OPTIONAL_CALLBACKS:
        raise ValueError(f"@nocallback applied to non-optional method: {name}")
    func.milter_protocol = OPTIONAL_CALLBACKS[name][1]  # type: ignore[attr-defined]

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any) -> int:
        if func(self, *args) != CONTINUE:
            raise RuntimeError(f"{name} return code must be CONTINUE with @nocallback")
        return CONTINUE

    return wrapper  # type: ignore[return-value]


def noreply(func: F) -> F:
    """Decorator: this callback always returns CONTINUE, so that the MTA need not wait for it.

    Where the MTA agreed to that, any other result raises RuntimeError; where it did not, the
    result is returned as it is.

    Raises:
        ValueError: not one of OPTIONAL_CALLBACKS.
    """
    name = func.__name__
    if name not in OPTIONAL_CALLBACKS:
        raise ValueError(f"@noreply applied to non-optional method: {name}")
    bit = OPTIONAL_CALLBACKS[name][0]

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any) -> Any:
        result = func(self, *args)
        if self._protocol & bit:
            if result != CONTINUE:
                raise RuntimeError(f"{name} return code must be CONTINUE with @noreply")
            return package.NOREPLY
        return result

    wrapper.milter_protocol = bit  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def decode(strategy: str) -> Callable[[F], F]:
    """Decorator: how envfrom, envrcpt or header wants bytes that are not UTF-8.

    Args:
        strategy: an error handler of `bytes.decode`, or `bytes` for no decoding at all.
    """

    def setstrategy(func: F) -> F:
        func.error_strategy = strategy  # type: ignore[attr-defined]
        return func

    return setstrategy


def symlist(*names: str) -> Callable[[F], F]:
    """Decorator: the macros that this callback wants, instead of the MTA's own choice.

    Args:
        names: 5 at most.

    Raises:
        ValueError: more names, or not one of MACRO_CALLBACKS.
    """

    def setsyms(func: F) -> F:
        name = func.__name__
        if len(names) > MACROS_PER_LIST:
            raise ValueError(f"@symlist limited to 5 macros by MTA: {name}")
        if name not in MACRO_CALLBACKS:
            raise ValueError(f"@symlist applied to non-symlist method: {name}")
        func._symlist = names  # type: ignore[attr-defined]
        return func

    return setsyms


def enable_protocols(klass: C, mask: int) -> C:
    """Asks for protocol bits that are off by default, for a class and those derived from it.

    Args:
        klass: a subclass of Base.
        mask: P_ bits.
    """
    klass._protocol_mask = klass.protocol_mask() & ~mask
    klass._enabled_protocols = klass._enabled_protocols | mask
    _computed_masks[klass] = klass._protocol_mask
    return klass


def rejected_recipients(klass: C) -> C:
    """Class decorator: asks for the recipients that the MTA itself refuses (P_RCPT_REJ)."""
    return enable_protocols(klass, P_RCPT_REJ)


def header_leading_space(klass: C) -> C:
    """Class decorator: asks for header values with the blanks they begin with (P_HDR_LEADSPC)."""
    return enable_protocols(klass, P_HDR_LEADSPC)


# ---------------------------------------------------------------------------------------------
# Base


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
        handler = self.header
        if getattr(handler, "error_strategy", None) == "bytes":
            # A shortcut for the headers to come.
            self.header_bytes = handler  # type: ignore[method-assign,assignment]
            return handler(fld, val)
        return _call_decoded(handler, (val,), fld)

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
                if klass is cls or _computed_masks.get(klass) != mask:
                    return mask
        mask = P_RCPT_REJ | P_HDR_LEADSPC
        for name, (nr_bit, no_bit) in OPTIONAL_CALLBACKS.items():
            mask |= (nr_bit | no_bit) & ~getattr(getattr(cls, name), "milter_protocol", 0)
        mask &= ~cls._enabled_protocols
        cls._protocol_mask = mask
        _computed_masks[cls] = mask
        return mask

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
            for name, stage in MACRO_CALLBACKS.items():
                names = getattr(getattr(self, name), "_symlist", None)
                if names is not None:
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


def _call_decoded(handler: Callable[..., Any], items: tuple[bytes, ...], *first: Any) -> Any:
    """Calls a handler with its bytes decoded as its strategy says (API spec 2.6).

    Args:
        handler: envfrom, envrcpt or header.
        items: what to decode; where that fails for one, all are passed as bytes.
        first: arguments in front of them.
    """
    strategy = getattr(handler, "error_strategy", "surrogateescape")
    if strategy == "bytes":
        return handler(*first, *items)
    if not items:
        raise IndexError("no address")
    try:
        decoded: tuple[Any, ...] = tuple(item.decode("utf-8", strategy) for item in items)
    except UnicodeDecodeError:
        decoded = items
    return handler(*first, *decoded)


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


# ---------------------------------------------------------------------------------------------
# Callbacks of the low-level module


def uniqueID() -> int:
    """Returns a number that this process has not given before, from 1. From any thread."""
    with package._seq_lock:
        package._seq += 1
        return package._seq


def _unwanted_steps(klass: type) -> int:
    """Returns the steps that a class has no use for, as the engine's mask.

    The class decides: an attribute of an object that happens to have a callback's name is never
    taken for one.
    """
    cached = _unwanted.get(klass)
    if cached is not None:
        return cached
    mask = 0
    for step, name in enumerate(METHODS):
        if NO_BITS[step] & getattr(getattr(klass, name, None), "milter_protocol", 0):
            mask |= 1 << step
    _unwanted[klass] = mask
    return mask


def _attach(ctx: Any) -> Any:
    """Makes the filter's object for a connection."""
    milter = package.factory()
    milter._setctx(ctx)
    if isinstance(ctx, Context):
        ctx._skip_steps(_unwanted_steps(type(milter)))
    return milter


def negotiate_callback(ctx: Any, opts: list[int]) -> Any:
    """The first callback of a connection: makes the object with `Milter.factory()`."""
    return _attach(ctx).negotiate(opts)


def connect_callback(
    ctx: Any, hostname: str, family: int, hostaddr: Any, nr_mask: int = P_NR_CONN
) -> Any:
    """Calls connect, and makes the object first where negotiate_callback has not.

    Args:
        ctx: the context.
        hostname, family, hostaddr: as for Base.connect.
        nr_mask: of no use; pymilter has it.
    """
    milter = ctx.getpriv()
    if not milter:
        milter = _attach(ctx)
        if isinstance(ctx, Context):
            milter._actions, milter._protocol = ctx._negotiated()
    return milter.connect(hostname, family, hostaddr)


def close_callback(ctx: Any) -> Any:
    """Calls close and detaches the object, also when close raises."""
    milter = ctx.getpriv()
    if not milter:
        return CONTINUE
    try:
        return milter.close()
    finally:
        milter._setctx(None)


# ---------------------------------------------------------------------------------------------
# Functions


def dictfromlist(args: Any) -> dict[str, str]:
    """Returns the ESMTP parameters that have a value: NAME -> value.

    Args:
        args: `str` items such as `SIZE=10`; those without `=`, or beginning with it, are left out.
    """
    pairs = (item.partition("=") for item in args if item.find("=") > 0)
    return {name.upper(): value for name, _, value in pairs}


def param2dict(items: Any) -> dict[str, str | None]:
    """Returns all ESMTP parameters: NAME -> value, None for those without `=`."""
    result: dict[str, str | None] = {}
    for item in items:
        name, sign, value = item.partition("=")
        result[name.upper()] = value if sign else None
    return result


def envcallback(c: Callable[..., Any], args: Any) -> Any:
    """Calls `c` with an envelope callback's arguments, the parameters as keywords.

    Args:
        c: called with the address, the parameters without value, and NAME=value for the others.
        args: the address and its ESMTP parameters.

    Raises:
        IndexError: no address.
    """
    words = [item for item in args[1:] if item.find("=") <= 0]
    return c(args[0], *words, **dictfromlist(args[1:]))


def decode_mask(bits: int, names: Any) -> list[str]:
    """Returns the names of the bits that are set, and the others in one hexadecimal number.

    Args:
        bits: of actions or protocol.
        names: of constants, such as `ADDHDRS`.

    Raises:
        AttributeError: there is no such constant.
    """
    found = []
    for name in names:
        bit = getattr(constants, name)
        if bits & bit:
            found.append(name)
            bits &= ~bit
    if bits:
        found.append(hex(bits))
    return found


def runmilter(
    name: str,
    socketname: str,
    timeout: int = 0,
    rmsock: bool = True,
    *,
    socket_mode: int | None = None,
    socket_owner: str | int | None = None,
    socket_group: str | int | None = None,
    drain: float | None = None,
) -> None:
    """Runs the filter of `Milter.factory` until it is stopped.

    Args:
        name: of the filter, for logs and for replies to failed callbacks.
        socketname: where to listen, such as `unix:/run/filter.sock` or `inet:8890@localhost`.
        timeout: seconds that a connection may be silent; 0 for the default, 7210.
        rmsock: whether a socket file that is in the way is removed.
        socket_mode: permission bits of a unix socket. None: as umask has it.
        socket_owner: its owner, name or id. None: as the process.
        socket_group: its group, name or id. None: as the process.
        drain: seconds that open transactions get to finish when it stops. None: 5.

    Raises:
        milter.error: the socket or the settings are wrong; the text says why.

    Returns after SIGTERM, SIGINT, SIGHUP or `Milter.stop()`. Source: API spec 2.9.
    """
    milter: Any = package.milter
    milter.set_connect_callback(package.connect_callback)
    milter.set_helo_callback(lambda ctx, host: ctx.getpriv().hello(host))
    milter.set_envfrom_callback(lambda ctx, *b: ctx.getpriv().envfrom_bytes(*b))
    milter.set_envrcpt_callback(lambda ctx, *b: ctx.getpriv().envrcpt_bytes(*b))
    milter.set_header_callback(lambda ctx, fld, val: ctx.getpriv().header_bytes(fld, val))
    milter.set_eoh_callback(lambda ctx: ctx.getpriv().eoh())
    milter.set_body_callback(lambda ctx, chunk: ctx.getpriv().body(chunk))
    milter.set_eom_callback(lambda ctx: ctx.getpriv().eom())
    milter.set_abort_callback(lambda ctx: ctx.getpriv().abort())
    milter.set_close_callback(package.close_callback)
    milter.setconn(socketname)
    if timeout > 0:
        milter.settimeout(timeout)
    wanted: Any = package.negotiate_callback
    if milter.getversion() < (1, 0, 1):
        wanted = None
    milter.register(
        name,
        data=lambda ctx: ctx.getpriv().data(),
        unknown=lambda ctx, cmd: ctx.getpriv().unknown(cmd),
        negotiate=wanted,
    )
    server = _lowlevel.server
    server.set_socket_access(socket_mode, socket_owner, socket_group)
    server.drain = DRAIN if drain is None else drain
    milter.opensocket(rmsock)
    start = package._seq
    try:
        milter.main()
    except milter.error:
        if package._seq == start:
            raise
        raise milter.error("out of thread resources") from None
