"""Build the distributions once, and install the wheel into an environment once."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging_support import ROOT, run, source_files


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the sdist from a copy of the sources, and the wheel from the sdist."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("no module build: pip install build")
    base = tmp_path_factory.mktemp("packaging")
    tree = base / "tree"
    for name in source_files():
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    # Things that lie about in a developer's tree and must not be packed.
    (tree / "Milter" / "_engine.leftover.so").write_bytes(b"not for you")
    (tree / "Milter" / "__pycache__").mkdir()
    (tree / "Milter" / "__pycache__" / "x.pyc").write_bytes(b"not for you")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", base / "dist", tree, cwd=base)
    (sdist,) = (base / "dist").glob("*.tar.gz")
    (wheel,) = (base / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="session")
def sdist(distributions: tuple[Path, Path]) -> Path:
    """Return the path of the source distribution."""
    return distributions[0]


@pytest.fixture(scope="session")
def wheel(distributions: tuple[Path, Path]) -> Path:
    """Return the path of the wheel."""
    return distributions[1]


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own; return its interpreter."""
    base = tmp_path_factory.mktemp("installed")
    venv.create(base / "venv", with_pip=True)
    python = base / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if subprocess.run([*pip, "cffi"], cwd=base, check=False, stdin=subprocess.DEVNULL).returncode:
        pytest.skip("no cffi for a new environment: give pip access to a package index")
    # Without the index: nothing but cffi is required.
    run(*pip, "--no-index", wheel, cwd=base)
    return python
