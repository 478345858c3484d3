"""Small functions over ESMTP parameters and bit masks.

Source: API spec 2.8.
"""

from __future__ import annotations

from typing import Any, Callable

from Milter import _constants as constants


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
