"""The exception of the `milter` module."""

from __future__ import annotations


class error(Exception):
    """A call into the engine failed, or was not allowed where it was made.

    Carries one string: pymilter's text, and where there is more to say a colon and the reason.
    Source: API spec 1.2.
    """


error.__module__ = "milter"
