"""Makes access maps with the programs of mail servers, for the tests of `Milter.policy`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Where scripts/setup-integration unpacks Debian's Sendmail.
SENDMAIL = ROOT / ".cache" / "sendmail"


def run(
    *command: object, directory: Path, input: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a directory; what it says is the caller's to look at."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=directory,
        input=input,
        capture_output=True,
        check=False,
        timeout=60,
    )


def program(name: str, package: str) -> str:
    """Return the path of a program, or skip the test."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name}: apt-get install {package} (scripts/setup-services)")
    return found


def makemap(
    directory: Path, kind: str, *options: str, input: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run Sendmail's makemap for ``map.db`` in the directory."""
    binary = SENDMAIL / "usr" / "libexec" / "sendmail" / "makemap"
    installed = shutil.which("makemap", path="/usr/sbin:/usr/bin:/sbin:/usr/libexec/sendmail")
    libraries = sorted({str(p.parent) for p in SENDMAIL.rglob("*.so.*")})
    if binary.exists():
        command = ["env", "LD_LIBRARY_PATH=" + ":".join(libraries), str(binary)]
    elif installed is not None:
        command = [installed]
    else:
        pytest.skip("no makemap: run scripts/setup-integration")
    (directory / "sendmail.cf").touch()
    return run(
        *command, "-C", directory / "sendmail.cf", *options, kind, "map",
        directory=directory, input=input,
    )  # fmt: skip


def postmap(directory: Path, kind: str, text: bytes) -> None:
    """Run Postfix's postmap, with a configuration that is empty."""
    binary = program("postmap", "postfix")
    (directory / "main.cf").touch()
    (directory / "map").write_bytes(text)
    done = run(binary, "-c", directory, f"{kind}:map", directory=directory)
    if b"unsupported dictionary type" in done.stderr:
        pytest.skip(f"no {kind} in this Postfix: apt-get install postfix-{kind}")
    assert 0 == done.returncode, done.stderr
    # The text would be found first.
    (directory / "map").unlink()


class Built(NamedTuple):
    """A way to make a map."""

    make: Callable[[Path, bytes], None]
    file: str
    nulls: bool = False  # what has to be said in access_file_nulls
    needs: str = ""  # a module


def _text(directory: Path, text: bytes) -> None:
    (directory / "map").write_bytes(text)


def _makemap(kind: str, *options: str) -> Callable[[Path, bytes], None]:
    def make(directory: Path, text: bytes) -> None:
        done = makemap(directory, kind, *options, input=text)
        assert (0, b"") == (done.returncode, done.stderr)

    return make


def _postmap(kind: str) -> Callable[[Path, bytes], None]:
    return lambda directory, text: postmap(directory, kind, text)


def _tinycdb(directory: Path, text: bytes) -> None:
    lowered = b"".join(
        key.lower() + b" " + value + b"\n"
        for key, value in (line.split(None, 1) for line in text.splitlines())
    )
    done = run(program("cdb", "tinycdb"), "-c", "-m", "map.cdb", directory=directory, input=lowered)
    assert 0 == done.returncode, done.stderr


BUILT = {
    "text": Built(_text, "map"),
    "makemap-hash": Built(_makemap("hash"), "map.db", needs="berkeleydb"),
    "makemap-btree": Built(_makemap("btree"), "map.db", needs="berkeleydb"),
    "makemap-hash-nulls": Built(_makemap("hash", "-N"), "map.db", True, "berkeleydb"),
    "postmap-hash": Built(_postmap("hash"), "map.db", True, "berkeleydb"),
    "postmap-btree": Built(_postmap("btree"), "map.db", True, "berkeleydb"),
    "postmap-lmdb": Built(_postmap("lmdb"), "map.lmdb", needs="lmdb"),
    "postmap-cdb": Built(_postmap("cdb"), "map.cdb"),
    "tinycdb": Built(_tinycdb, "map.cdb"),
}


_made: dict[tuple[str, bytes], bytes] = {}


def build(name: str, directory: Path, entries: dict[str, str] | bytes, colon: bool = True) -> Any:
    """Make a map in the named way; return what a filter's configuration says of it.

    postmap takes its time, so what was made once is copied.
    """
    way = BUILT[name]
    if way.needs:
        pytest.importorskip(way.needs, reason=f"no package {way.needs}")
    text = entries if isinstance(entries, bytes) else as_text(entries)
    file = directory / way.file
    if (name, text) in _made:
        file.write_bytes(_made[name, text])
    else:
        way.make(directory, text)
        _made[name, text] = file.read_bytes()
    return conf(file, nulls=way.nulls, colon=colon)


def as_text(entries: dict[str, str]) -> bytes:
    """Write entries as lines."""
    return "".join(f"{key}\t{value}\n" for key, value in entries.items()).encode()


def conf(file: object, nulls: bool = False, colon: bool = True, **more: object) -> Any:
    """Return what a filter's configuration says."""
    return SimpleNamespace(
        access_file=file and str(file),
        access_file_nulls=nulls,
        access_file_colon=colon,
        **more,
    )
