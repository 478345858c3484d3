"""The constants and the exception of module `milter` (API spec 1.2)."""

from __future__ import annotations

import pytest
from compat_support import CALLBACK_SETTERS

import milter

RESULTS = {
    "SUCCESS": 0,
    "FAILURE": -1,
    "VERSION": 0x1000001,
    "CONTINUE": 0,
    "REJECT": 1,
    "DISCARD": 2,
    "ACCEPT": 3,
    "TEMPFAIL": 4,
    "NOREPLY": 7,
    "SKIP": 8,
    "ALL_OPTS": 10,
}
ACTIONS = {
    "ADDHDRS": 0x001,
    "CHGBODY": 0x002,
    "MODBODY": 0x002,
    "ADDRCPT": 0x004,
    "DELRCPT": 0x008,
    "CHGHDRS": 0x010,
    "QUARANTINE": 0x020,
    "CHGFROM": 0x040,
    "ADDRCPT_PAR": 0x080,
    "SETSYMLIST": 0x100,
    "V1_ACTS": 0x00F,
    "V2_ACTS": 0x03F,
    "CURR_ACTS": 0x1FF,
}
STAGES = {
    "M_CONNECT": 0,
    "M_HELO": 1,
    "M_ENVFROM": 2,
    "M_ENVRCPT": 3,
    "M_DATA": 4,
    "M_EOM": 5,
    "M_EOH": 6,
}
PROTOCOL = {
    "P_NOCONNECT": 0x000001,
    "P_NOHELO": 0x000002,
    "P_NOMAIL": 0x000004,
    "P_NORCPT": 0x000008,
    "P_NOBODY": 0x000010,
    "P_NOHDRS": 0x000020,
    "P_NOEOH": 0x000040,
    "P_NR_HDR": 0x000080,
    "P_NOUNKNOWN": 0x000100,
    "P_NODATA": 0x000200,
    "P_SKIP": 0x000400,
    "P_RCPT_REJ": 0x000800,
    "P_NR_CONN": 0x001000,
    "P_NR_HELO": 0x002000,
    "P_NR_MAIL": 0x004000,
    "P_NR_RCPT": 0x008000,
    "P_NR_DATA": 0x010000,
    "P_NR_UNKN": 0x020000,
    "P_NR_EOH": 0x040000,
    "P_NR_BODY": 0x080000,
    "P_HDR_LEADSPC": 0x100000,
}
CONSTANTS = {**RESULTS, **ACTIONS, **STAGES, **PROTOCOL}

FUNCTIONS = [
    *CALLBACK_SETTERS,
    "set_flags",
    "set_exception_policy",
    "register",
    "setconn",
    "opensocket",
    "main",
    "stop",
    "setdbg",
    "settimeout",
    "setbacklog",
    "getdiag",
    "getversion",
]


@pytest.mark.parametrize(("name", "value"), CONSTANTS.items())
def test_constant(name: str, value: int) -> None:
    """Every constant has the value of API spec 1.2 and is a plain int."""
    assert value == getattr(milter, name)
    assert int is type(getattr(milter, name))


def test_protocol_bits_fill_the_mask() -> None:
    """The P_ bits are distinct single bits whose union is 0x1FFFFF."""
    bits = [value for name, value in vars(milter).items() if name.startswith("P_")]
    assert 21 == len(bits)
    assert all(bit & (bit - 1) == 0 for bit in bits)
    assert 0x1FFFFF == sum(bits)


def test_actions_fill_the_mask() -> None:
    """The nine action bits, without the alias, make up CURR_ACTS."""
    masks = {"MODBODY", "V1_ACTS", "V2_ACTS", "CURR_ACTS"}
    assert sum(getattr(milter, name) for name in ACTIONS if name not in masks) == milter.CURR_ACTS


def test_no_other_public_names() -> None:
    """The module has the constants, `error` and the 22 functions, and no other public name."""
    # pytest leaves names in a module that it rewrites which no program could write.
    public = {name for name in dir(milter) if name.isidentifier() and not name.startswith("_")}
    assert {*CONSTANTS, *FUNCTIONS, "error"} == public


@pytest.mark.parametrize(
    "name", ["Context", "M_HEADER", "M_BODY", "M_UNKNOWN", "P_NR_EOM", "P_NOEOM", "MDS_256K"]
)
def test_absent_names(name: str) -> None:
    """Names that one might expect by analogy are not there, as filters probe with getattr."""
    with pytest.raises(AttributeError):
        getattr(milter, name)


def test_star_import() -> None:
    """`from milter import *` gives every public name."""
    scope: dict[str, object] = {}
    exec("from milter import *", scope)
    assert {*CONSTANTS, *FUNCTIONS, "error"} == {n for n in scope if not n.startswith("_")}


def test_error_type() -> None:
    """`milter.error` is a direct subclass of Exception that names its module and its text."""
    assert (Exception,) == milter.error.__bases__
    assert "milter" == milter.error.__module__
    assert "error" == milter.error.__name__
    assert ("bad context",) == milter.error("bad context").args
    assert "bad context" == str(milter.error("bad context"))
