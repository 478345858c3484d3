"""The public names of package `Milter` and how the two modules are imported (API spec 2.1)."""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from compat_support import run_python

import Milter
import milter

OWN = [
    "Base",
    "Milter",
    "DisabledAction",
    "uniqueID",
    "decode_mask",
    "enable_protocols",
    "rejected_recipients",
    "header_leading_space",
    "nocallback",
    "noreply",
    "decode",
    "symlist",
    "factory",
    "negotiate_callback",
    "connect_callback",
    "close_callback",
    "dictfromlist",
    "param2dict",
    "envcallback",
    "runmilter",
    "OPTIONAL_CALLBACKS",
    "MACRO_CALLBACKS",
    "R",
    "__version__",
    "milter",
    "os",
    "re",
    "sys",
    "thread",
    "wraps",
    "print_function",
    "_seq",
    "_seq_lock",
]
#: What `from Milter import *` gives beside the names of module milter.
STAR = [
    "Base",
    "DisabledAction",
    "MACRO_CALLBACKS",
    "Milter",
    "OPTIONAL_CALLBACKS",
    "R",
    "close_callback",
    "connect_callback",
    "decode",
    "decode_mask",
    "dictfromlist",
    "enable_protocols",
    "envcallback",
    "header_leading_space",
    "negotiate_callback",
    "nocallback",
    "noreply",
    "param2dict",
    "print_function",
    "re",
    "rejected_recipients",
    "runmilter",
    "symlist",
    "sys",
    "uniqueID",
    "wraps",
]
NOT_STAR = ["factory", "milter", "os", "thread", "_seq", "_seq_lock", "__version__"]
# Where it finds the package's metadata, which name a plugin, pytest rewrites the module's code, and
# leaves names there that no program could write.
LOW = [name for name in dir(milter) if name.isidentifier() and not name.startswith("_")]


@pytest.mark.parametrize("name", OWN)
def test_own_name(name: str) -> None:
    """The package has every name of API spec 2.1, the incidental ones too."""
    assert hasattr(Milter, name)


def test_every_name_of_milter() -> None:
    """Every public name of module milter is in the package, the same object."""
    assert "REJECT" in LOW
    assert [] == [name for name in LOW if getattr(Milter, name, None) is not getattr(milter, name)]


def test_incidental_objects() -> None:
    """The names that leak are the objects that they seem to be."""
    import __future__

    import _thread

    assert Milter.milter is milter
    assert Milter.os is os
    assert Milter.re is re
    assert Milter.sys is sys
    assert Milter.thread is _thread
    assert Milter.wraps is functools.wraps
    assert Milter.print_function is __future__.print_function
    assert isinstance(Milter, ModuleType)


def test_types_of_names() -> None:
    """Classes are classes, the exception is a RuntimeError, the version is text."""
    assert issubclass(Milter.Milter, Milter.Base)
    assert Milter.factory is Milter.Milter
    assert issubclass(Milter.DisabledAction, RuntimeError)
    assert isinstance(Milter.__version__, str)
    with Milter._seq_lock:
        pass


def test_percent_pattern() -> None:
    """R finds runs of percent signs."""
    assert ["%%", "%", "%%%"] == Milter.R.findall("a%%b%c %%%")
    assert Milter.R.search("abc") is None


@pytest.mark.ours
def test_all_is_a_list() -> None:
    """`__all__` is a list of text, without dunders, each name once and there."""
    assert list is type(Milter.__all__)
    assert len(set(Milter.__all__)) == len(Milter.__all__)
    assert [] == [name for name in Milter.__all__ if name.startswith("__")]
    assert [] == [name for name in Milter.__all__ if not hasattr(Milter, name)]


@pytest.mark.parametrize("name", NOT_STAR)
def test_not_in_all(name: str) -> None:
    """These are left out on purpose: a filter that star-imports must not rebind `factory`."""
    assert name not in Milter.__all__


@pytest.mark.parametrize("name", STAR)
def test_in_all(name: str) -> None:
    """These are part of `__all__`."""
    assert name in Milter.__all__


@pytest.mark.ours
def test_star_import() -> None:
    """`from Milter import *` works and gives these names and module milter's, and no other."""
    scope: dict[str, object] = {}
    exec("from Milter import *", scope)
    assert {*LOW, *STAR} == set(scope) - {"__builtins__"}
    assert scope["Milter"] is Milter.Milter
    assert scope["REJECT"] == 1


@pytest.mark.ours
def test_star_import_in_a_package(tmp_path: Path) -> None:
    """It also works at the top of a package whose modules use the names."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("from Milter import *\n")
    (tmp_path / "mine" / "use.py").write_text(
        "from . import Base, CONTINUE, noreply\n"
        "class Mine(Base):\n"
        "    @noreply\n"
        "    def hello(self, name):\n"
        "        return CONTINUE\n"
    )
    code = "import sys; sys.path.insert(0, sys.argv[1]); import mine.use as u; print(u.Mine.hello)"
    done = run_python(code, str(tmp_path))
    assert "" == done.stderr
    assert done.stdout.startswith("<function Mine.hello ")


def test_optional_callbacks() -> None:
    """Method name -> (bit for "no reply", bit for "do not send")."""
    assert {
        "connect": (0x1000, 0x1),
        "hello": (0x2000, 0x2),
        "envfrom": (0x4000, 0x4),
        "envrcpt": (0x8000, 0x8),
        "data": (0x10000, 0x200),
        "unknown": (0x20000, 0x100),
        "eoh": (0x40000, 0x40),
        "body": (0x80000, 0x10),
        "header": (0x80, 0x20),
    } == Milter.OPTIONAL_CALLBACKS


def test_macro_callbacks() -> None:
    """Method name -> stage number, in this order (EOM comes before EOH)."""
    assert [
        ("connect", 0),
        ("hello", 1),
        ("envfrom", 2),
        ("envrcpt", 3),
        ("data", 4),
        ("eom", 5),
        ("eoh", 6),
    ] == list(Milter.MACRO_CALLBACKS.items())


@pytest.mark.parametrize(
    "imports",
    [
        "import milter",
        "import Milter",
        "import milter, Milter",
        "import Milter, milter",
        "from milter import ACCEPT; import Milter",
        "from Milter import milter",
        "from Milter import Base, runmilter; import milter",
    ],
)
def test_import_orders(imports: str) -> None:
    """Each of the two modules can be imported first, second or alone, without a warning."""
    code = f"""
{imports}
import sys
module = sys.modules["milter"]
print(module.getversion(), module.__name__, module.error.__module__)
"""
    done = run_python(code, PYTHONWARNINGS="error")
    assert ("", "(1, 0, 1) milter milter\n") == (done.stderr, done.stdout)


def test_package_replaced_by_a_fake_later() -> None:
    """Neither module minds when `sys.modules["Milter"]` is replaced after the import."""
    code = """
import sys, types
import Milter as real, milter
fake = sys.modules["Milter"] = types.ModuleType("Milter")
import Milter
print(Milter is fake, real.uniqueID(), real.dictfromlist(["a=b"]), milter.getversion())
"""
    done = run_python(code)
    assert ("", "True 1 {'A': 'b'} (1, 0, 1)\n") == (done.stderr, done.stdout)
