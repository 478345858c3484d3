"""docs/pictures: terminals that show what the commands print."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_support import ROOT

SCRIPT = ROOT / "scripts" / "pictures.py"
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
    "picture",
    [one for one in PICTURES if one.stem in ("pytest", "send")],
    ids=lambda picture: picture.stem,
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


@pytest.mark.parametrize("name", ["demo", "trace"])
def test_a_picture_is_what_is_printed(name: str) -> None:
    """The picture is what the command prints now, but for ports and times."""
    pytest.importorskip("aiosmtpd", reason="no aiosmtpd: pip install aiosmtpd")
    specification = importlib.util.spec_from_file_location("pictures", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    pictures = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(pictures)
    (drawn,) = [one for one in PICTURES if one.stem == name]
    page_of(drawn)
    output = re.sub(r"\x1b\[[0-9;]*m", "", pictures.printed(pictures.ALL[name]))
    shown = f"$ {pictures.ALL[name].command}\n{output}\n"

    def masked(text: str) -> list[str]:
        numbers = r"(?<=port )\d+|\w{3}, \d+ \w{3} .*\+0000|\d+\.\d{4}|\d{4}-\S+Z"
        lines = [re.sub(numbers, "...", line).rstrip() for line in text.splitlines()]
        # Of a trace, the packets: which is the slowest, and who closes first, varies.
        return [line for line in lines if name != "trace" or re.match(r"\$|#1 +\d", line)]

    assert len(masked(shown)) > 20
    assert masked(described(drawn)) == masked(shown)
