"""The installed types: mypy reads a typed filter and an old one from outside."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from packaging_support import ROOT, run

pytestmark = [pytest.mark.packaging, pytest.mark.slow]


def mypy(installed: Path, base: Path, name: str, *options: str) -> None:
    """Let mypy read a filter where nothing but the installed package is; fail with what it says."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("no mypy: pip install mypy")
    shutil.copy(ROOT / "tests" / "typing" / name, base)
    run(sys.executable, "-m", "mypy", "--python-executable", installed, "--no-incremental",
        "--warn-unreachable", *options, name, cwd=base)  # fmt: skip


def test_a_typed_filter(installed: Path, tmp_path: Path) -> None:
    """All of the public interface that a filter with types uses passes the strictest check."""
    mypy(installed, tmp_path, "typed_filter.py", "--strict")


def test_an_old_filter(installed: Path, tmp_path: Path) -> None:
    """A filter without types, which does what old ones do, passes as well."""
    mypy(installed, tmp_path, "legacy_filter.py")


def test_types_are_looked_at(installed: Path, tmp_path: Path) -> None:
    """A mistake is found, so the package's types are seen and are not all Any."""
    (tmp_path / "wrong.py").write_text(
        "import Milter, mime\nfrom Milter.utils import parse_addr\n"
        "reveal_type(Milter.uniqueID())\nreveal_type(parse_addr(''))\n"
        "reveal_type(mime.check_ext(''))\n",
        encoding="utf-8",
    )
    shown = run(sys.executable, "-m", "mypy", "--python-executable", installed,
                "--no-incremental", "wrong.py", cwd=tmp_path)  # fmt: skip
    assert ['"int"', '"list[str]"', '"str | None"'] == [
        line.rpartition(" is ")[2] for line in shown.splitlines() if "Revealed" in line
    ]


def test_the_stub_of_milter_is_complete() -> None:
    """It has the names of the module, from where the module has them."""

    def imports(path: Path) -> set[tuple[str, str]]:
        return {
            (node.module or "", alias.name)
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    assert imports(ROOT / "milter.py") == imports(ROOT / "milter-stubs" / "__init__.pyi")
