"""`TestCtx`: stands in for a connection's context, and drives whatever `Milter.factory` makes.

    Milter.factory = MyFilter
    ctx = TestCtx()
    assert Milter.CONTINUE == ctx._connect(ip="192.0.2.1")
    assert Milter.ACCEPT == ctx._feedMsg("spam.eml")
    assert ctx._headerschanged
    ctx._close()

What is negotiated counts: a step that the filter's class does not override is not called, and where
it asks for certain macros (`@symlist`) it gets no others. Source: API spec 3.13.
"""

from __future__ import annotations

import socket
import time
from typing import Any, BinaryIO

import Milter
from Milter import _testing
from Milter._constants import (
    ALL_OPTS,
    CONTINUE,
    CURR_ACTS,
    P_NOBODY,
    P_NOCONNECT,
    P_NODATA,
    P_NOEOH,
    P_NOHELO,
    P_NOMAIL,
    P_NORCPT,
    P_SKIP,
)


class TestCtx(_testing.Recorder):
    """The context of a connection, without a connection. Methods with an underscore drive it.

    What the filter asks of the MTA is recorded in attributes: `_reply`, `_msg` with the headers
    as changed, `_headerschanged`, `_body` (a BytesIO with the whole message) and `_bodyreplaced`,
    `_addrcpt` (of (recipient, parameters)), `_delrcpt`, `_sender` and `_envfromchanged`,
    `_quarantine_reason`; the filter's object is `_priv`.

    Args:
        logfile: of no use; pymilter has it.
    """

    default_opts = [CURR_ACTS, 0x1FFFFF, 0, 0]
    """What is offered to the filter; another offer can be put in `_opts` before it connects."""

    def __init__(self, logfile: str = "test/milter.log") -> None:
        """Makes the context of a connection that is about to begin."""
        super().__init__()
        self._priv: Any = None
        self._opts = list(self.default_opts)
        self._offer = self._opts
        self._agreed: list[int] | None = None
        self._activity = time.time()

    # The filter's side: as Milter._context.Context has it.

    def getpriv(self) -> Any:
        """Returns the filter's object."""
        return self._priv

    def setpriv(self, priv: Any) -> None:
        """Keeps the filter's object."""
        self._priv = priv

    def addrcpt(self, rcpt: str, params: str | None = None) -> None:
        """Appends (recipient, parameters) to `_addrcpt`. Only in eom."""
        _testing.add_recipient(self, (rcpt, params))

    def progress(self) -> None:
        """Updates `_activity`."""
        self._activity = time.time()

    def setsymlist(self, stage: int, macros: str | bytes) -> None:
        """Records which macros the filter wants at a stage: it gets no others there.

        Args:
            stage: M_CONNECT to M_EOH.
            macros: 5 names at most, separated by blanks.

        Raises:
            RuntimeError: not in negotiate.
            ValueError: more than 5.
        """
        _testing.record_macros(self, stage, macros.encode() if isinstance(macros, str) else macros)

    # The MTA's side.

    def _setsymval(self, name: str, val: str) -> None:
        """Defines a macro."""
        self._macros[name] = val

    def _negotiate(self) -> Any:
        """Makes the filter's object and negotiates; returns the verdict.

        Where that is neither CONTINUE nor ALL_OPTS, the filter's abort and close are called.
        """
        _testing.forget_negotiation(self)
        if self._opts is self._agreed:  # a further connection of this context
            self._opts = self._offer
        self._offer = list(self._opts)
        self._stage = _testing.NEGOTIATING
        try:
            verdict = Milter.negotiate_callback(self, self._opts)
        finally:
            self._stage = None
        if verdict == ALL_OPTS:
            # Whatever the list says by now, all steps are sent (API spec 1.8).
            self._opts[1] = self._offer[1] & P_SKIP
        elif verdict != CONTINUE:
            self._abort()
        self._agreed = self._opts
        self._protocol = self._opts[1]
        return verdict

    def _connect(
        self, host: str = "localhost", helo: str = "spamrelay", ip: str | None = "1.2.3.4"
    ) -> Any:
        """Begins a connection: negotiate, connect, hello.

        Args:
            host: the client's name.
            helo: what it says in HELO.
            ip: its address, IPv4 or IPv6; None for a client that is not known.

        Returns:
            CONTINUE; or what connect or hello returned instead, after close.

        Raises:
            ValueError: no such address.
        """
        self._negotiate()
        if self._protocol & P_NOCONNECT:
            return CONTINUE
        verdict = _testing.staged(
            self, "connect", Milter.connect_callback, self, host, *_client(ip)
        )
        if verdict != CONTINUE:
            self._close()
            return verdict
        return self._helo(helo)

    def _helo(self, helo: str) -> Any:
        """HELO: calls hello, and close where it returns another verdict than CONTINUE."""
        verdict = self._step(P_NOHELO, "hello", helo)
        if verdict != CONTINUE:
            self._close()
        return verdict

    def _envfrom(self, *s: str) -> Any:
        """MAIL FROM: the sender as the MTA would send it, and ESMTP parameters."""
        self._sender = s[0]
        return self._step(P_NOMAIL, "envfrom", *s)

    def _envrcpt(self, *s: str) -> Any:
        """RCPT TO: a recipient as the MTA would send it, and ESMTP parameters."""
        return self._step(P_NORCPT, "envrcpt", *s)

    def _data(self) -> Any:
        """DATA."""
        return self._step(P_NODATA, "data")

    def _header(self, fld: str, val: Any) -> Any:
        """One header, its value str, bytes or a Header of the email package."""
        return _testing.call(self, self._priv, "header_bytes", fld, _testing.to_bytes(val))

    def _eoh(self) -> Any:
        """The end of the headers."""
        return self._step(P_NOEOH, "eoh")

    def _feed_body(self, bfp: BinaryIO) -> Any:
        """The body, in pieces of 8192 bytes; returns the first verdict that is not CONTINUE."""
        return _testing.feed_body(bfp, lambda piece: self._step(P_NOBODY, "body", piece))

    def _eom(self) -> Any:
        """The end of the message."""
        return _testing.eom(self, self._priv)

    def _abort(self) -> None:
        """The message comes to nothing, and the connection ends: calls abort and close."""
        _testing.call(self, self._priv, "abort")
        self._close()

    def _close(self) -> None:
        """The end of the connection: calls close. The object stays in `_priv`, without context."""
        Milter.close_callback(self)

    def _feedFile(
        self,
        fp: BinaryIO,
        sender: str = "spam@adv.com",
        rcpt: str = "victim@lamb.com",
        *rcpts: str,
    ) -> Any:
        """Feeds a message to the filter. The connection stays open.

        Args:
            fp: the message, from where it stands; the filter gets it with LF line ends.
            sender, rcpt, rcpts: the envelope, without angle brackets.

        Returns:
            What eom returned; or what an earlier callback returned instead of CONTINUE. SKIP
            from body only ends the body.
        """
        steps = _testing.Steps(
            envfrom=self._envfrom,
            envrcpt=self._envrcpt,
            data=self._data,
            header=self._header,
            eoh=self._eoh,
            body=self._feed_body,
            eom=self._eom,
        )
        return _testing.feed(self, steps, fp, sender, (rcpt, *rcpts))

    def _feedMsg(self, fname: str, sender: str = "spam@adv.com", *rcpts: str) -> Any:
        """Feeds the message in the file `test/<fname>`, see _feedFile."""
        with open("test/" + fname, "rb") as fp:
            return self._feedFile(fp, sender, *rcpts)

    def _step(self, no_bit: int, method: str, *args: Any) -> Any:
        """Calls a method of the filter, unless it was negotiated that it is not called."""
        if self._protocol & no_bit:
            return CONTINUE
        return _testing.call(self, self._priv, method, *args)


def _client(ip: str | None) -> tuple[int, Any]:
    """Returns a client's family and address as the connect callback gets them (API spec 1.6)."""
    if ip is None:
        return 0, None
    for family, rest in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
        try:
            socket.inet_pton(family, ip)
        except OSError:
            continue
        return int(family), (ip, _testing.PORT, *rest)
    raise ValueError(f"TestCtx.connect: invalid ip address: {ip}")
