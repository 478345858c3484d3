"""The distributions: what is in them, and that the installed wheel works where no tree is near."""

from __future__ import annotations

import email
import os
import shutil
import socket
import struct
import subprocess
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
from packaging_support import ROOT, run, source_files, version

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

PATIENCE = 30.0


def test_file_names(sdist: Path, wheel: Path) -> None:
    """Both are named after the distribution and the one version."""
    assert f"pymilter_cffi-{version()}.tar.gz" == sdist.name.replace("-cffi-", "_cffi-")
    assert wheel.name.startswith(f"pymilter_cffi-{version()}-")


def test_sdist_holds_every_source(sdist: Path) -> None:
    """All that is under version control is in it, the C sources above all."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert set() == source_files() - held


def test_sdist_holds_nothing_built(sdist: Path) -> None:
    """Nothing in it was compiled."""
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert [] == [name for name in names if name.endswith((".so", ".o", ".pyc", "/_engine.c"))]


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """The import names, the engine, the typing files and the man page, and no tests and no C."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    engines = {name for name in names if name.startswith("Milter/_engine.") and ".so" in name}
    assert 1 == len(engines)
    assert "Milter/_engine.leftover.so" not in engines
    expected = {
        name
        for name in source_files()
        if name == "milter.py"
        or (
            name.startswith(("Milter/", "mime/", "milter-stubs/"))
            and name.endswith((".py", ".pyi", "py.typed"))
        )
    }
    (page,) = [name for name in names if ".data/" in name]
    assert page.endswith(".data/data/share/man/man1/milterctl.1")
    assert expected == names - engines - {page}
    assert "Milter/py.typed" in names


def test_wheel_metadata(wheel: Path) -> None:
    """The metadata name the licence, the Python versions, and cffi as the only requirement."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        licences = [n for n in archive.namelist() if n.endswith("COPYING")]
    assert "pymilter-cffi" == metadata["Name"]
    assert version() == metadata["Version"]
    assert ">=3.9" == metadata["Requires-Python"]
    assert "GPL-2.0-or-later" in (metadata["License-Expression"], metadata["License"])
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra" not in line]
    assert ["cffi>=1.15"] == required
    assert 1 == len(licences)


@pytest.mark.parametrize(
    "names", ["milter, Milter, mime", "Milter, milter", "milter", "Milter", "mime"]
)
def test_imports(installed: Path, tmp_path: Path, names: str) -> None:
    """The modules are importable in any order and alone, from the environment, without a word."""
    shown = run(
        installed, "-W", "error", "-c",
        f"import {names}; print({names.split(',', maxsplit=1)[0]}.__file__)", cwd=tmp_path,
    )  # fmt: skip
    (line,) = shown.splitlines()
    assert installed.parents[1] in Path(line).parents


@pytest.mark.parametrize("name", ["Milter", "milter", "mime"])
def test_sources_without_an_engine(installed: Path, tmp_path: Path, name: str) -> None:
    """Where a source tree hides what is installed, the error says what to do."""
    for source in source_files():
        if source.startswith(("Milter/", "mime/", "milter.py")) and source.endswith(".py"):
            (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / source)
    done = subprocess.run(
        [installed, "-c", f"import {name}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path}/Milter has no engine")
    assert "pip install -e ." in done.stderr.splitlines()[-1]


def test_version(installed: Path, tmp_path: Path) -> None:
    """The package and the metadata say the same version."""
    shown = run(
        installed,
        "-c",
        "import Milter, importlib.metadata as m\n"
        "print(Milter.__version__, m.version('pymilter-cffi'))",
        cwd=tmp_path,
    )
    assert [version(), version()] == shown.split()


def test_command_line(installed: Path, tmp_path: Path) -> None:
    """``python -m Milter --help`` says how to send a message."""
    assert "send" in run(installed, "-m", "Milter", "--help", cwd=tmp_path)


@pytest.mark.skipif(shutil.which("man") is None, reason="not here: no man")
def test_man_page(installed: Path) -> None:
    """man finds the page of the command that is on the path."""
    environment = {**os.environ, "PATH": f"{installed.parent}:{os.environ['PATH']}"}
    environment.pop("MANPATH", None)
    page = subprocess.run(
        ["man", "-w", "milterctl"], env=environment, capture_output=True, text=True, check=False
    )
    assert f"{installed.parents[1]}/share/man/man1/milterctl.1\n" == page.stdout


def test_pip_check(installed: Path, tmp_path: Path) -> None:
    """The environment has all that is required."""
    run(installed, "-m", "pip", "check", "--disable-pip-version-check", cwd=tmp_path)


FILTER = """
import sys
import Milter

class Filter(Milter.Base):
    def hello(self, name):
        self.setreply("550", "5.7.1", "no " + name)
        return Milter.REJECT

Milter.factory = Filter
Milter.runmilter("packaged", "unix:" + sys.argv[1])
print("stopped")
"""


def test_filter_answers(installed: Path, tmp_path: Path) -> None:
    """A filter on the installed package negotiates, refuses a HELO and stops on SIGTERM."""
    (tmp_path / "filter.py").write_text(FILTER, encoding="utf-8")
    # A short path: a socket's is limited to 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="packaging-"))
    path = directory / "s"
    process = subprocess.Popen(
        [str(installed), "-W", "error", "filter.py", str(path)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        while True:
            try:
                client.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert process.poll() is None, process.stdout and process.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with client:
            client.sendall(struct.pack(">IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF))
            client.sendall(b"\0\0\0\x06Hh.ex\0")
            received = b""
            # The answer to the offer: all actions, no step but HELO; then the reply.
            expected = struct.pack(">IcIII", 13, b"O", 6, 0x1FF, 0x77D) + (
                b"\0\0\0\x13y550 5.7.1 no h.ex\0"
            )
            while len(received) < len(expected):
                data = client.recv(4096)
                assert data, received
                received += data
            assert expected == received
            process.terminate()
            output, _ = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(directory)
    assert 0 == process.returncode
    assert b"stopped" == output.strip()
