"""What the tests of the distributions share: running commands, and which files are sources."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Directories that are not part of the sources, where there is no git to ask.
NOT_SOURCES = {".git", ".cache", "build", "dist", "__pycache__", ".hypothesis", ".pytest_cache",
               ".mypy_cache", ".ruff_cache"}  # fmt: skip


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command with a clean environment; return what it printed, fail with it otherwise."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=600,
    )
    text = done.stdout.decode("utf-8", "replace")
    assert 0 == done.returncode, text
    return text


def source_files() -> set[str]:
    """Return the paths of all source files, relative to the tree."""
    if (ROOT / ".git").exists():
        listed = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
        # A file may be removed but not yet committed as such.
        return {name for name in listed if name and (ROOT / name).exists()}
    return {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*")
        if path.is_file()
        and not NOT_SOURCES.intersection(path.relative_to(ROOT).parts)
        and not path.relative_to(ROOT).parts[0].startswith(".venv")
        and path.suffix not in {".so", ".pyc", ".o"}
    }


def version() -> str:
    """Return the version that the source says, without importing it."""
    for node in ast.parse((ROOT / "Milter" / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise AssertionError("no __version__ in Milter/__init__.py")
