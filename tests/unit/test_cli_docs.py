"""docs/cli.md: what it shows is what happens, and it names everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from cli_support import ENVIRONMENT, ROOT, serving

from Milter import _cli

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The page's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def sessions() -> list[tuple[str, str]]:
    """Each command of the page with the output that it shows."""
    found: list[tuple[str, str]] = []
    for block in blocks("console"):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:], ""))
            elif line.startswith("> "):
                found[-1] = (found[-1][0] + line[2:], found[-1][1])
            else:
                found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def test_commands(tmp_path: Path) -> None:
    """Every command of the page, in a shell, prints what the page shows."""
    (code,), (message,) = blocks("python"), blocks("eml")
    (tmp_path / "spam.py").write_text(code)
    (tmp_path / "message.eml").write_text(message)
    command = tmp_path / "bin" / "milterctl"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom Milter._cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), os.environ["PATH"]])
    (start, nothing), *others = sessions()
    assert ("milterctl run spam.py:Spam --socket unix:spam.sock &\n", "") == (start, nothing)
    assert len(others) >= 5
    with serving(tmp_path / "spam.sock", *start.split()[1:-1], cwd=tmp_path):
        for shell, expected in others:
            done = subprocess.run(
                ["sh", "-c", shell],
                cwd=tmp_path,
                env={**ENVIRONMENT, "PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            )
            assert expected == done.stdout, shell


def test_everything_is_named() -> None:
    """The page has a section for each command, and names each of its options."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    for name, parser in _cli.parsers().items():
        (section,) = [text for text in sections if text.startswith(f"`{name}`")]
        for action in parser._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or f"`{option}" in section, (name, option)
