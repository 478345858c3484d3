"""pytest plugin: say what the tests run against, and let no skip pass unnoticed in CI.

Loaded for every run by ``-p milter_report`` in pyproject.toml.

- The report header names Python, the engine and the foreign programs with their versions.
- With ``CI=true`` a skipped test fails the run, unless its reason begins with ``not here:``, the
  mark of a skip that no installation could turn into a run (another operating system, another
  interpreter).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

#: A skip whose reason begins thus is expected: nothing that can be installed would change it.
EXPECTED = "not here:"


def in_ci() -> bool:
    """Tell whether a skip is a failure: the environment says ``CI=true`` (or 1)."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def _output(*command: str, cwd: Path = ROOT) -> str | None:
    """Return what *command* prints, stripped; None if it is not there or fails."""
    try:
        done = subprocess.run(
            command,
            check=True,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def _debian_version(package: str) -> str | None:
    """Return the version of an installed Debian package, None if it is not installed."""
    text = _output("dpkg-query", "-W", "-f=${db:Status-Abbrev}${Version}", package)
    return text[3:].strip() if text and text.startswith("ii") else None


def _engine() -> str:
    """Describe the engine that ``import Milter`` gets, in a process of its own."""
    code = (
        "import Milter, Milter._engine as e; "
        "print('pymilter-cffi', Milter.__version__, '-', e.__file__)"
    )
    text = _output(sys.executable, "-c", code)
    return text.splitlines()[-1] if text else "not built (python setup.py build_ext --inplace)"


def _postfix() -> str | None:
    """Return Postfix's own version number, None without Postfix."""
    program = shutil.which("postconf") or "/usr/sbin/postconf"
    text = _output(program, "-dh", "mail_version")
    return text.splitlines()[-1] if text else None


def _sendmail() -> str | None:
    """Return the version of the private Sendmail, None if it is not set up."""
    binary = ROOT / ".cache" / "sendmail" / "usr" / "lib" / "sm.bin" / "sendmail"
    if not binary.exists():
        return None
    # It prints its version first, and then asks the DNS for a minute what this machine is called.
    with subprocess.Popen(
        [str(binary), "-d0.1", "-C/dev/null", "-bt"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode("utf-8", "replace")
        process.kill()
    return line.split()[1] if line.startswith("Version ") else None


def _oracle() -> str | None:
    """Return the version of the oracle's pymilter, None without the oracle environment."""
    python = ROOT / ".cache" / "oracle" / "bin" / "python"
    if not python.exists():
        return None
    return _output(
        str(python),
        "-c",
        "import Milter, milter; print(Milter.__version__, 'on libmilter', "
        "'.'.join(map(str, milter.getversion())))",
        # Not here, where our own modules of these names would be found.
        cwd=python.parent,
    )


def versions() -> list[tuple[str, str]]:
    """Return (what, version) of everything that the tests may run against."""
    absent = "absent"
    return [
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("engine", _engine()),
        ("Postfix", _postfix() or absent),
        ("Sendmail", _sendmail() or absent),
        ("libmilter package", _debian_version("libmilter-dev") or absent),
        ("pymilter (oracle)", _oracle() or absent),
        ("OpenDKIM miltertest", _debian_version("miltertest") or absent),
    ]


def pytest_report_header() -> list[str]:
    """Put one line per program and its version above the results."""
    return [f"{what}: {version}" for what, version in versions()]


def _reason(report: Any) -> str:
    """Return a skip's reason without pytest's own prefix."""
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def pytest_sessionfinish(session: Any, exitstatus: int) -> None:
    """Turn a successful run with unexpected skips into a failed one, in CI only."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not in_ci():
        return
    skipped = reporter.stats.get("skipped", [])
    session.config._unexpected_skips = unexpected = [
        f"{report.nodeid}: {_reason(report)}"
        for report in skipped
        if not _reason(report).startswith(EXPECTED)
    ]
    if unexpected and exitstatus in (0, 5):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Name the skips that failed the run."""
    for line in getattr(config, "_unexpected_skips", []):
        terminalreporter.write_line(f"unexpected skip in CI: {line}", red=True)


if __name__ == "__main__":
    for what, version in versions():
        print(f"{what}: {version}")
