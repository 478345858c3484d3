#!/usr/bin/env python3
"""Draw docs/pictures: terminals in which commands of the documentation have run.

    scripts/pictures.py [NAME...]      draws them all, or these

Each is drawn from what the command prints on a terminal here and now, colours included, in the
directory that the page describes. That it says what the page says is tested
(tests/unit/test_pictures.py). It needs rich and pytest, and the engine built in place.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
WIDTH = 100


class Picture(NamedTuple):
    """What is on one picture."""

    page: str
    """In docs/, with the files that the command needs."""
    command: str
    background: tuple[str, ...] = ()
    """Commands that go on meanwhile, each once it has said that it listens."""
    before: str = ""
    """A command that is run before, and not shown."""


FILTER = "milterctl run spam.py:Spam --socket unix:spam.sock"
ALL = {
    "send": Picture(
        "cli.md", "milterctl send --socket unix:spam.sock message.eml", background=(FILTER,)
    ),
    "trace": Picture(
        "cli.md",
        "milterctl trace session.rec",
        background=(
            FILTER,
            "milterctl trace --listen unix:trace.sock --filter unix:spam.sock --record session.rec",
        ),
        before="milterctl send --socket unix:trace.sock message.eml",
    ),
    "demo": Picture("cli.md", "milterctl demo spam.py:Spam"),
    "pytest": Picture("testing.md", "pytest -q --tb=short test_guard.py"),
}

# As an SVG viewer has it: no font is loaded from anywhere.
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{width}} {{height}}" role="img"
 xml:space="preserve">
<title>{title}</title>
<desc>{description}</desc>
<style>
.{{unique_id}}-matrix {{{{
  font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {{char_height}}px; line-height: {{line_height}}px;
}}}}
.{{unique_id}}-title {{{{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}}}
{{styles}}
</style>
<defs>
<clipPath id="{{unique_id}}-clip-terminal">
<rect x="0" y="0" width="{{terminal_width}}" height="{{terminal_height}}" />
</clipPath>
{{lines}}
</defs>
{{chrome}}
<g transform="translate({{terminal_x}}, {{terminal_y}})"
 clip-path="url(#{{unique_id}}-clip-terminal)">
{{backgrounds}}
<g class="{{unique_id}}-matrix">
{{matrix}}
</g>
</g>
</svg>
"""


def files(page: str) -> dict[str, str]:
    """The files that a page has its reader write, as they are when its first command is run."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    found: dict[str, str] = {}
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        first = block.partition("\n")[0]
        if kind == "eml":
            found["message.eml"] = block
        elif kind == "python" and (page == "cli.md" or first.startswith("# ")):
            found.setdefault("spam.py" if page == "cli.md" else first[2:], block)
    return found


def arguments(command: str) -> list[str]:
    """A command as this interpreter runs it."""
    program, *rest = shlex.split(command)
    plain = ["-p", "no:cacheprovider", "-p", "no:milter", "-p", "Milter.pytest_plugin"]
    module = {"milterctl": ["Milter"], "pytest": ["pytest", *plain]}[program]
    return [sys.executable, "-m", *module, *rest]


@contextlib.contextmanager
def running(command: str, directory: Path, environment: dict[str, str]) -> Iterator[None]:
    """A command goes on in the background, once it has said that it listens."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            arguments(command),
            cwd=directory,
            env=environment,
            stdout=said,
            stderr=said,
        ) as child,
    ):
        try:
            deadline = time.monotonic() + 30
            while b"listening at" not in os.pread(said.fileno(), 65536, 0):
                assert child.poll() is None, command
                assert time.monotonic() < deadline, command
                time.sleep(0.01)
            yield
        finally:
            child.terminate()


def printed(picture: Picture) -> str:
    """What the command prints on a terminal, escape sequences included."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file, text in files(picture.page).items():
            directory.joinpath(file).write_text(text, "utf-8")
        environment = {
            # CI: where it is set, pytest's summary is another. NO_COLOR: there are to be some.
            **{key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR")},
            "PYTHONPATH": os.pathsep.join([name, str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": name,
            "COLUMNS": "80",
            "TERM": "xterm-256color",
            "COLORTERM": "",
        }
        with contextlib.ExitStack() as stack:
            for command in picture.background:
                stack.enter_context(running(command, directory, environment))
            if picture.before:
                subprocess.run(
                    arguments(picture.before),
                    cwd=directory,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
            master, slave = pty.openpty()
            with subprocess.Popen(
                arguments(picture.command),
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=slave,
                stderr=slave,
            ):
                os.close(slave)
                output = b""
                # Linux ends a terminal that nobody holds open any more with an error.
                with contextlib.suppress(OSError), os.fdopen(master, "rb", 0) as terminal:
                    while data := terminal.read(65536):
                        output += data
    text = output.decode().replace("\r\n", "\n").rstrip("\n")
    # pytest's duration, as the page has it; and a maildir's file names have the machine's in them.
    text = re.sub(r" in [0-9.]+s", " in 0.10s", text)
    return re.sub(r"/\S+/new/\S+(?=:)", "/tmp/milterctl/mail/new/1795268271.M6P9Q1.host", text)


def draw(name: str, picture: Picture) -> str:
    """The picture."""
    from rich.console import Console
    from rich.text import Text

    output = Text.from_ansi(printed(picture))
    text = f"$ {picture.command}\n" + re.sub(r" +$", "", output.plain, flags=re.MULTILINE) + "\n"
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, highlight=False)
        console.print(Text("$ " + picture.command, "bold"))
        console.print(output)

    def literally(words: str) -> str:
        return escape(words, quote=False).replace("{", "{{").replace("}", "}}")

    svg = console.export_svg(
        title=picture.command,
        unique_id=name,
        code_format=SVG.format(title=literally(picture.command), description=literally(text)),
    )
    return re.sub(r" +$", "", svg, flags=re.MULTILINE)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(ALL))
    for name in parser.parse_args().names or ALL:
        (PICTURES / f"{name}.svg").write_text(draw(name, ALL[name]), "utf-8")


if __name__ == "__main__":
    main()
