"""packaging/pymilter-shim: the name pymilter, for packages that require it."""

from __future__ import annotations

import email
import importlib.util
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging_support import ROOT, run

pytestmark = [pytest.mark.packaging, pytest.mark.slow]


def build(source: Path, target: Path) -> Path:
    """Build a wheel from a copy of *source*, so that nothing is written there; return its path."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("no module build: pip install build")
    copy = target / source.name
    shutil.copytree(source, copy)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", target]
    run(*command, copy, cwd=target)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shim's wheel."""
    return build(ROOT / "packaging" / "pymilter-shim", tmp_path_factory.mktemp("shim"))


DEPENDENT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "some-filter"
version = "1"
dependencies = ["pymilter{specifier}"]

[tool.setuptools]
packages = []
py-modules = []
"""


def dependent(specifier: str, base: Path) -> Path:
    """Return the wheel of a package that requires pymilter."""
    source = base / "some-filter"
    source.mkdir()
    (source / "pyproject.toml").write_text(DEPENDENT.format(specifier=specifier), encoding="utf-8")
    (base / "out").mkdir()
    return build(source, base / "out")


def test_nothing_in_it(shim: Path) -> None:
    """It has metadata and no file that could hide one of ours."""
    with zipfile.ZipFile(shim) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        fields = email.message_from_bytes(archive.read(metadata))
    assert [] == [name for name in names if ".dist-info/" not in name]
    assert "pymilter" == fields["Name"]
    assert ["pymilter-cffi"] == fields.get_all("Requires-Dist")


@pytest.fixture(scope="module")
def with_shim(installed: Path, shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of the environment with our wheel and the shim."""
    base = tmp_path_factory.mktemp("with-shim")
    run(installed, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index",
        shim, cwd=base)  # fmt: skip
    return installed


@pytest.mark.parametrize("specifier", ["", ">=1.0.4", "~=1.0", "==1.0.6", "==1.0.*", ">=1,<2"])
def test_a_package_that_requires_pymilter(with_shim: Path, tmp_path: Path, specifier: str) -> None:
    """It installs without an index, so without pymilter; pip has nothing to complain of."""
    pip = [with_shim, "-m", "pip", "--disable-pip-version-check"]
    wheel = dependent(specifier, tmp_path)
    run(*pip, "install", "-q", "--no-index", "--force-reinstall", "--no-deps", wheel, cwd=tmp_path)
    run(*pip, "check", cwd=tmp_path)
    # Not only checked afterwards: pip itself finds the requirement fulfilled.
    run(*pip, "uninstall", "-q", "-y", "some-filter", cwd=tmp_path)
    run(*pip, "install", "-q", "--no-index", wheel, cwd=tmp_path)
    shown = run(
        with_shim, "-c", "import Milter, milter, mime; print(Milter.__file__)", cwd=tmp_path
    )
    assert str(with_shim.parents[1]) in shown


def test_without_it(installed: Path, wheel: Path, tmp_path: Path) -> None:
    """Without the shim such a package installs with --no-deps only."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    # Another environment's pip: to give this one its own would take longer than all the rest.
    pip = [str(installed), "-m", "pip", "--python", str(python), "install", "-q",
           "--disable-pip-version-check", "--no-index"]  # fmt: skip
    run(*pip, "--no-deps", wheel, cwd=tmp_path)
    package = dependent("", tmp_path)
    done = subprocess.run([*pip, str(package)], cwd=tmp_path, check=False, stderr=subprocess.PIPE)
    assert done.returncode
    assert b"pymilter" in done.stderr
    run(*pip, "--no-deps", package, cwd=tmp_path)
