"""Every row of the wire spec's conformance table has a test, and the page about it is true."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.one_mode("it serves nothing")

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The script that makes the table, as a module."""
    path = ROOT / "scripts" / "conformance-table.py"
    spec = importlib.util.spec_from_file_location("conformance_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_is_covered(table: ModuleType) -> None:
    """Rows 1 to 192 each have a test, and rows that leave a choice one that states ours."""
    assert [] == table.problems(table.collect())


def test_page_is_up_to_date(table: ModuleType) -> None:
    """docs/conformance.md is what the script makes of the tests as they are."""
    expected = table.render(table.collect())
    assert expected == (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_levels_are_those_of_the_spec(table: ModuleType) -> None:
    """Rows 1 to 192: 149 must match, 30 improve, 8 may close, 5 are optional; then 7 without."""
    assert list(range(1, 200)) == [row for rows in table.SECTIONS.values() for row in rows]
    levels = list(table.LEVELS.values())
    counts = [levels.count(level) for level in ("M", "I", "D/C", "O", "-")]
    assert [149, 30, 8, 5, 7] == counts


def test_gaps_are_noticed(table: ModuleType, tmp_path: Path) -> None:
    """A row without test, a row that is none, and a choice that nobody states are each reported."""
    (tmp_path / "test_some.py").write_text(
        "@pytest.mark.row(1, *range(3, 193))\n"
        "@pytest.mark.parametrize('a', [pytest.param(1, marks=pytest.mark.row(500))])\n"
        "def test_x(a):\n"
        '    """Something holds."""\n'
    )
    found = table.problems(table.collect(tmp_path))
    assert "row 2 is covered by no test" in found
    assert "test_some.py::test_x names row 500, which is none" in found
    choices = [52, 92, 93, 94, 97, 98, 100, 101, 8, 53, 63, 123, 168]
    stated = [f"row {n} leaves a choice, and no test of it is marked `ours`" for n in choices]
    assert sorted(stated) == sorted(f for f in found if "leaves a choice" in f)
    assert 2 + len(choices) == len(found)
