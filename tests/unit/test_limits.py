"""`Milter.limits`: names, defaults and what may be set."""

from __future__ import annotations

import pytest

import Milter
from Milter._server import Server

DEFAULTS = {
    "receive_frame": 1 << 20,
    "send_payload": 65535,
    "macros_per_stage": 256,
    "macro_bytes": 1 << 16,
    "connections": 0,
    "packet_timeout": 120,
    "idle_timeout": 7210,
    "write_timeout": 300,
}


def test_defaults() -> None:
    """A new server has the documented limits (wire spec 1.2, 7.4; docs/design.md)."""
    limits = Server().limits
    assert {name: getattr(limits, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_set(name: str) -> None:
    """Each can be set, for one server and no other."""
    one, other = Server(), Server()
    setattr(one.limits, name, 7)
    assert 7 == getattr(one.limits, name)
    assert DEFAULTS[name] == getattr(other.limits, name)


@pytest.mark.parametrize("value", [-1, 2**31])
@pytest.mark.parametrize("name", [name for name in DEFAULTS if "timeout" not in name])
def test_out_of_range(name: str, value: int) -> None:
    """A size or count below 0, or beyond an MTA's int, is a ValueError, and nothing changes."""
    limits = Server().limits
    with pytest.raises(ValueError, match=name):
        setattr(limits, name, value)
    assert DEFAULTS[name] == getattr(limits, name)


def test_a_misspelt_name() -> None:
    """A limit that does not exist cannot be set by mistake."""
    with pytest.raises(AttributeError):
        Milter.limits.recieve_frame = 1  # type: ignore[attr-defined]


def test_settimeout_is_the_idle_timeout() -> None:
    """`settimeout` sets the time between packets (API spec 1.3)."""
    server = Server()
    server.settimeout(5)
    assert 5 == server.limits.idle_timeout


def test_blocked_after_is_a_limit() -> None:
    """How long a callback of the pool may take is set like the other times, in seconds."""
    from Milter._server import Server

    server = Server()
    assert 0.001 == server.limits.blocked_after
    server.limits.blocked_after = 0.25
    assert 0.25 == server.limits.blocked_after
