"""pymilter's module ``mime``: not there yet; what is to come, and when.

pymilter installs a top-level module ``mime`` beside ``Milter`` and ``milter``: a MIME parser that
notices what was changed (``message_from_file``, ``MimeMessage``), and on top of it the removal of
dangerous attachments and scripts (``defang``, ``check_attachments``, ``HTMLScriptFilter``).
This release holds the name, so that ``import mime`` tells a missing feature from a missing
installation. Every name of pymilter's module exists as soon as it is asked for and says so:

>>> import mime
>>> mime.message_from_file
Traceback (most recent call last):
...
NotImplementedError: mime.message_from_file comes with pymilter-cffi 0.2.0

Until then the standard library's ``email`` package does all that a filter needs to read a message.
"""

from __future__ import annotations

from typing import NoReturn

#: The release that brings the module.
_COMES_IN = "0.2.0"

#: The names that pymilter's module has (API spec section 4), so that a typing mistake is still
#: an ``AttributeError``.
_NAMES = frozenset(
    {
        "HTMLParser",
        "HTMLScriptFilter",
        "Message",
        "MimeGenerator",
        "MimeMessage",
        "SGMLFilter",
        "bad_extensions",
        "check_attachments",
        "check_ext",
        "check_html",
        "check_name",
        "defang",
        "encoders",
        "extlist",
        "message_from_file",
        "quote",
        "unquote",
        "virus_msg",
        "zipnames",
    }
)


def __getattr__(name: str) -> NoReturn:
    """Refuse a name of pymilter's module, naming the release that brings it.

    Raises NotImplementedError for a name that pymilter's ``mime`` has, AttributeError for others.
    """
    if name in _NAMES:
        raise NotImplementedError(f"mime.{name} comes with pymilter-cffi {_COMES_IN}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
