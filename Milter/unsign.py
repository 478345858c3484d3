"""Undo the signing of a sender's address: the stub that pymilter has.

pymilter names this module and never filled it; filters that import it get what they got there.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def unsign(s: T) -> T:
    """Return *s*, an address, as it is (API spec 3.14)."""
    return s
