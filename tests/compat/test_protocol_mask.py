"""`Base.protocol_mask`: which bits of the MTA's offer a class does not take (API spec 2.3)."""

from __future__ import annotations

import pytest
from compat_support import evaluate

import Milter

#: Class body and bases -> mask. Each in a fresh interpreter, as API spec 2.3 says.
MASKS = {
    "Milter.Base": 0x1FF880,
    "Milter.Milter": 0x1B086F,
    "Envfrom": 0x1FF884,
    "RejectedRcpt": 0x1FF088,
    "LeadingSpace": 0x0FF880,
    "NoReply": 0x1FD882,
    "NoCallback": 0x1FF880,
    "Everything": 0x1FFBFF,
    "OwnAttribute": 0x1FF884,
    "FixedOnes": 0x1FF880,
}
CLASSES = """
import Milter
class Envfrom(Milter.Base):
    def envfrom(self, f, *s): return 0
@Milter.rejected_recipients
class RejectedRcpt(Milter.Base):
    def envrcpt(self, to, *s): return 0
@Milter.header_leading_space
class LeadingSpace(Milter.Base):
    pass
class NoReply(Milter.Base):
    @Milter.noreply
    def hello(self, name): return 0
class NoCallback(Milter.Base):
    @Milter.nocallback
    def hello(self, name): return 0
class Everything(Milter.Base):
    def connect(self, *a): return 0
    hello = envfrom = envrcpt = data = header = eoh = body = unknown = connect
class OwnAttribute(Milter.Base):
    envfrom = 5
class FixedOnes(Milter.Base):
    def eom(self): return 0
    abort = close = eom
"""


@pytest.mark.parametrize("name", MASKS)
def test_mask(name: str) -> None:
    """The mask is P_RCPT_REJ, P_HDR_LEADSPC and, of each optional method, the bits it does not
    carry: "do not send" goes when a method is overridden, "no reply" stays only with @noreply."""
    assert [("returned", str(MASKS[name]))] * 2 == evaluate(
        CLASSES, f"{name}.protocol_mask()", f"{name}().protocol_mask()"
    )


def test_mask_is_stored() -> None:
    """The result is kept in `_protocol_mask` of the class and used from then on."""
    assert [("returned", "2095236"), ("returned", "2095236"), ("returned", "2095236")] == evaluate(
        CLASSES,
        "Envfrom.protocol_mask()",
        "Envfrom.__dict__['_protocol_mask']",
        "(delattr(Envfrom, 'envfrom'), Envfrom.protocol_mask())[1]",
    )


def test_mask_set_by_the_user() -> None:
    """A class may set `_protocol_mask` itself; nothing is computed then."""

    class Mine(Milter.Base):
        _protocol_mask = 0x123

    assert 0x123 == Mine.protocol_mask()


@pytest.mark.ours
def test_masks_are_per_class() -> None:
    """A mask computed for a base class says nothing about its subclasses (under pymilter it
    disables all their callbacks)."""

    class Plain(Milter.Base):
        pass

    class Header(Plain):
        def header(self, field: str, value: str) -> int:
            return Milter.CONTINUE

    assert 0x1FF880 == Milter.Base.protocol_mask()
    assert 0x1FF880 == Plain.protocol_mask()
    assert 0x1FF8A0 == Header.protocol_mask()
    assert 0x1FF880 == Plain.protocol_mask()


@pytest.mark.ours
def test_enabled_bits_are_inherited() -> None:
    """What a decorator asked for on a class holds for its subclasses, beside their own methods."""

    @Milter.rejected_recipients
    class Parent(Milter.Base):
        pass

    class Child(Parent):
        def header(self, field: str, value: str) -> int:
            return Milter.CONTINUE

    @Milter.header_leading_space
    class Grandchild(Child):
        def eoh(self) -> int:
            return Milter.CONTINUE

    assert 0x1FF080 == Parent.protocol_mask()
    assert 0x1FF0A0 == Child.protocol_mask()
    assert 0x0FF0E0 == Grandchild.protocol_mask()
    assert 0x1FF0A0 == Child.protocol_mask()


@pytest.mark.ours
def test_enabled_bits_of_a_decorated_subclass_only() -> None:
    """Decorating a subclass changes nothing for its parent or its siblings."""

    class Parent(Milter.Base):
        def envrcpt(self, to: str, *params: str) -> int:
            return Milter.CONTINUE

    @Milter.rejected_recipients
    class One(Parent):
        pass

    class Other(Parent):
        pass

    assert [0x1FF888, 0x1FF088, 0x1FF888] == [c.protocol_mask() for c in (Parent, One, Other)]


@pytest.mark.ours
def test_order_of_computation() -> None:
    """The masks of parent and child are the same, whichever is asked for first."""

    def make() -> tuple[type, type]:
        class Parent(Milter.Base):
            def hello(self, name: str) -> int:
                return Milter.CONTINUE

        class Child(Parent):
            def body(self, blk: bytes) -> int:
                return Milter.CONTINUE

        return Parent, Child

    first, second = make(), make()
    down = [first[0].protocol_mask(), first[1].protocol_mask()]
    up = [second[1].protocol_mask(), second[0].protocol_mask()]
    assert [0x1FF882, 0x1FF892] == down
    assert [0x1FF892, 0x1FF882] == up
