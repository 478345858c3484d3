"""The decorators that say what a filter's callbacks want, and the tables they go by.

They only leave attributes on functions and classes; Base.protocol_mask() and Base.negotiate() read
them. Source: API spec 2.1, 2.3 and 2.5.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Callable, TypeVar
from weakref import WeakKeyDictionary

import Milter as package
from Milter._constants import (
    CONTINUE,
    M_CONNECT,
    M_DATA,
    M_ENVFROM,
    M_ENVRCPT,
    M_EOH,
    M_EOM,
    M_HELO,
    P_HDR_LEADSPC,
    P_RCPT_REJ,
)
from Milter._dispatch import METHODS, NO_BITS, NR_BITS

if TYPE_CHECKING:
    from Milter._base import Base

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

# Masks that protocol_mask() has worked out itself, which subclasses must not inherit.
computed_masks: WeakKeyDictionary[type, int] = WeakKeyDictionary()


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
    computed_masks[klass] = klass._protocol_mask
    return klass


def rejected_recipients(klass: C) -> C:
    """Class decorator: asks for the recipients that the MTA itself refuses (P_RCPT_REJ)."""
    return enable_protocols(klass, P_RCPT_REJ)


def header_leading_space(klass: C) -> C:
    """Class decorator: asks for header values with the blanks they begin with (P_HDR_LEADSPC)."""
    return enable_protocols(klass, P_HDR_LEADSPC)
