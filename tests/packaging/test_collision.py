"""pymilter installed in the same place: that is said, and not half of each run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from packaging_support import run

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

#: An extension module without anything in it, in the place of pymilter's.
EXTENSION = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "milter", .m_size = -1};
PyMODINIT_FUNC PyInit_milter(void) { return PyModule_Create(&module); }
"""


@pytest.fixture(scope="module")
def collided(installed: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with our wheel's files over pymilter's, of which one is not ours, too."""
    base = tmp_path_factory.mktemp("collided")
    (base / "milter.c").write_text(EXTENSION, encoding="utf-8")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        pytest.skip("no C compiler: apt-get install gcc")
    place = base / "place"
    run(installed, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index",
        "--no-deps", "--target", place, wheel, cwd=base)  # fmt: skip
    include = sysconfig.get_paths()["include"]
    module = place / f"milter{sysconfig.get_config_var('EXT_SUFFIX')}"
    run(*compiler, "-shared", "-fPIC", "-I", include, "-o", module, base / "milter.c", cwd=base)
    return place


@pytest.mark.parametrize("first", ["Milter", "mime", "Milter.utils"])
def test_extension_module_is_noticed(
    installed: Path, collided: Path, tmp_path: Path, first: str
) -> None:
    """Importing the package fails, and the error names pymilter's file and what to do."""
    done = subprocess.run(
        [str(installed), "-c", f"import {first}"],
        env={**os.environ, "PYTHONPATH": str(collided)},
        cwd=tmp_path, check=False, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode
    (*_, last) = done.stderr.decode().splitlines()
    assert last.startswith(f"ImportError: {collided}/milter.")
    assert last.endswith(
        " is pymilter's: uninstall pymilter, then install pymilter-cffi again"
        " (pip install --force-reinstall --no-deps pymilter-cffi)"
    )


def test_without_it_nothing_is_said(installed: Path, collided: Path, tmp_path: Path) -> None:
    """Once the file is gone, the same place is fine, so it was the file."""
    copy = tmp_path / "copy"
    shutil.copytree(
        collided, copy, ignore=lambda _, names: [n for n in names if n[:7] == "milter."]
    )
    shutil.copy(collided / "milter.py", copy)
    shown = run(
        installed, "-c", "import Milter; print(Milter.__file__)", cwd=tmp_path,
        PYTHONPATH=str(copy),
    )  # fmt: skip
    assert str(copy / "Milter" / "__init__.py") == shown.strip()


def test_a_module_from_elsewhere_is_taken(installed: Path, tmp_path: Path) -> None:
    """What a test has put in the place of `milter`, as suites do, is no reason to fail."""
    run(
        installed, "-c",
        "import sys, types; sys.modules['milter'] = types.ModuleType('milter'); import Milter",
        cwd=tmp_path,
    )  # fmt: skip
