"""docs/cli.md: what it shows is what happens, and it names everything."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
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


def test_man_page() -> None:
    """docs/milterctl.1 is what scripts/man-page.py makes of the commands, as they are now."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "man-page.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_man_page_has_everything() -> None:
    """The page names each command and each option; no line of text is taken for a request."""
    text = (ROOT / "docs" / "milterctl.1").read_text(encoding="utf-8")
    for name, parser in _cli.parsers("milterctl").items():
        assert f"\n.SS {name}\n" in text
        for action in parser._actions:
            for option in action.option_strings:
                assert "\\fB" + option.replace("-", "\\-") + "\\fR" in text, option
    requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
    assert {'.\\"', ".TH", ".nh", ".ad", ".SH", ".SS", ".TP", ".PP", ".nf", ".fi"} >= requests


def test_examples_of_the_commands() -> None:
    """Each example in --help is one that the parser takes."""
    found = 0
    for parser in _cli.parsers("milterctl").values():
        for line in (parser.epilog or "").replace("\\\n", " ").splitlines():
            words = shlex.split(line) if line.startswith("    milterctl ") else []
            if words:
                if "--" in words:
                    words = words[: words.index("--")]
                assert words[1] == _cli.parser("milterctl").parse_args(words[1:]).command.name
                found += 1
    assert found >= 2 * len(_cli.COMMANDS)


def test_completion() -> None:
    """The shell gets the commands, and a command's options, to complete a line with."""
    pytest.importorskip("argcomplete")
    for line, expected in (
        ("milterctl se", {"send"}),
        ("milterctl check --q", {"--quiet"}),
        ("milterctl send --profile ", {"postfix", "sendmail"}),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "Milter"],
            env={
                **ENVIRONMENT,
                "_ARGCOMPLETE": "1",
                "_ARGCOMPLETE_IFS": "\n",
                "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout",
                "COMP_LINE": line,
                "COMP_POINT": str(len(line)),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert expected == {word.strip() for word in done.stdout.splitlines()}


def test_completion_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, the command is what it would be without being asked."""
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    with pytest.raises(SystemExit) as end:
        _cli.main(["--version"])
    assert 0 == end.value.code
