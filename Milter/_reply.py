"""SMTP reply texts: what setreply() takes, and what goes on the wire.

Source: wire spec 4.3 to 4.5, API spec 1.11.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_LINE = 980
"""Bytes of one line at most."""

MAX_LINES = 32
"""Lines of one reply at most."""

_CODE = re.compile(rb"[45][0-9]{2}\Z")
_ENHANCED = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z")


def reply_text(code: bytes, enhanced: bytes | None, lines: Sequence[bytes]) -> bytes:
    """Returns the reply as the MTA is to be told it.

    Args:
        code: three digits, the first 4 or 5.
        enhanced: RFC 3463 status code, or None. Its class is not compared with that of `code`.
        lines: the lines of text, none to MAX_LINES of at most MAX_LINE bytes, without CR and LF.

    Raises:
        ValueError: one of them is not so; the text says which.
    """
    if not _CODE.match(code):
        raise ValueError("the reply code must be three digits beginning with 4 or 5")
    if enhanced is not None and not _ENHANCED.match(enhanced):
        raise ValueError("the enhanced status code must be like 5.7.1")
    if len(lines) > MAX_LINES:
        raise ValueError(f"more than {MAX_LINES} lines")
    for line in lines:
        if len(line) > MAX_LINE:
            raise ValueError(f"a line of more than {MAX_LINE} bytes")
        if b"\r" in line or b"\n" in line:
            raise ValueError("a line with CR or LF")
    if len(lines) <= 1:
        words = [code] if enhanced is None else [code, enhanced]
        if lines:
            words.append(lines[0])
        elif enhanced is None:
            words.append(b"")
        return b" ".join(words)
    if enhanced is None:
        enhanced = code[:1] + b".0.0"
    text = [code + b"-" + enhanced + b" " + line for line in lines[:-1]]
    text.append(code + b" " + enhanced + b" " + lines[-1])
    return b"\r\n".join(text)
