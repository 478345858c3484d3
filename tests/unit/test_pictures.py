"""docs/pictures: terminals that show what the commands print."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_support import ENVIRONMENT, ROOT

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def page_of(picture: Path) -> str:
    """The one page that shows a picture."""
    (page,) = [
        text
        for file in (ROOT / "docs").glob("*.md")
        if f"(pictures/{picture.name})" in (text := file.read_text("utf-8"))
    ]
    return page


def described(picture: Path) -> str:
    """The text that goes with a picture."""
    text = ElementTree.parse(picture).getroot().findtext(f"{SVG}desc")
    assert text is not None
    return text


def squeezed(text: str) -> str:
    """Without blanks: where lines are folded does not matter."""
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_text_is_what_is_drawn(picture: Path) -> None:
    """The text beside a picture is the one in it; nothing is loaded from elsewhere."""
    root = ElementTree.parse(picture).getroot()
    (matrix,) = [
        group for group in root.iter(f"{SVG}g") if group.get("class", "").endswith("-matrix")
    ]
    assert squeezed(described(picture)) == squeezed("".join(matrix.itertext()))
    assert [] == re.findall(r"@import|url\([^#]|href", picture.read_text("utf-8"))


@pytest.mark.parametrize(
    "picture", [one for one in PICTURES if one.stem != "demo"], ids=lambda picture: picture.stem
)
def test_a_picture_says_what_its_page_says(picture: Path) -> None:
    """The page that shows it has the same command with the same output, which its test runs."""
    drawn = described(picture).splitlines()
    blocks = re.findall(r"^```console\n(.*?)^```$", page_of(picture), re.DOTALL | re.MULTILINE)
    (lines, *_) = [block.splitlines() for block in blocks if block.startswith(f"{drawn[0]}\n")]
    # pytest cuts lines where it prints no colours.
    cut = {line[:-3] for line in lines if line.endswith("...")}
    drawn = [next((f"{part}..." for part in cut if line.startswith(part)), line) for line in drawn]
    assert lines == drawn


def test_demo(tmp_path: Path) -> None:
    """The demo's picture is what the demo prints, but for ports, times and names of files."""
    pytest.importorskip("aiosmtpd", reason="no aiosmtpd: pip install aiosmtpd")
    (picture,) = [one for one in PICTURES if one.stem == "demo"]
    command, _, output = described(picture).partition("\n")
    (code, *_) = re.findall(r"^```python\n(.*?)^```$", page_of(picture), re.DOTALL | re.MULTILINE)
    (tmp_path / "spam.py").write_text(code)
    assert "$ milterctl demo spam.py:Spam" == command
    done = subprocess.run(
        [sys.executable, "-m", "Milter", "demo", "spam.py:Spam"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    def masked(text: str) -> list[str]:
        lines = html.unescape(text).splitlines()
        return [
            re.sub(r"(port )\d+|/\S*/new/\S+|\w{3}, \d+ .*\+0000", r"\1...", line).rstrip()
            for line in lines
        ]

    assert masked(output) == masked(done.stdout)
