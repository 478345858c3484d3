"""The exception of the `milter` module, and how its functions refuse keywords."""

from __future__ import annotations

import functools
from typing import Any, Callable, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class error(Exception):
    """A call into the engine failed, or was not allowed where it was made.

    Carries one string: pymilter's text, and where there is more to say a colon and the reason.
    Source: API spec 1.2.
    """


error.__module__ = "milter"


def no_keywords(function: F) -> F:
    """Decorator: refuses keyword arguments in the words that functions written in C have.

    pymilter's functions are such, and their signatures are no promise to callers that name
    parameters. Source: API spec 1.1, 1.10.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **keywords: Any) -> Any:
        if keywords:
            raise TypeError(f"{function.__name__}() takes no keyword arguments")
        return function(*args)

    return cast("F", wrapper)
