"""The examples of docs/mta.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mta_support import C, Simple, packet

import Milter
from Milter import mta, testing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mta.md"
SPEC = "unix:/run/filter.sock"
_ALL = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
EXAMPLES = [example for example in _ALL if SPEC in example and "torture" not in example]
TORTURE = [example for example in _ALL if "torture" in example]
WITHOUT_FILTER = [example for example in _ALL if SPEC not in example]


@pytest.mark.parametrize("number", range(4))
def test_examples(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each example runs, only with another socket; its own assertions hold."""
    assert 4 == len(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    Path("message.eml").write_bytes(b"Subject: hi\n\nhello\n")
    replies = {"E": packet("h", b"X-Checked\0yes\0") + C}
    with Simple(tmp_path / "s", replies) as simple:
        exec(compile(EXAMPLES[number].replace(SPEC, simple.spec), str(PAGE), "exec"), {})
        assert "E" in simple.letters
    assert [
        "Outcome.ACCEPTED 250 2.0.0 Ok: queued as 4A5B6C0001\n"
        "add header X-Checked: yes\n"
        "Subject: hi\r\nX-Checked: yes\r\n\r\nhello\r\n\n",
        "",
        "6 ['ADDHDRS', 'CHGBODY', 'ADDRCPT', 'DELRCPT', 'CHGHDRS', 'QUARANTINE', 'CHGFROM', "
        "'ADDRCPT_PAR', 'SETSYMLIST']\n"
        "continue (AddHeader(name='X-Checked', value='yes'),)\n",
        "",
    ][number] == capsys.readouterr().out


def test_example_of_torture(tmp_path: Path) -> None:
    """It runs, with fewer rounds, on a filter of ours, which bears it."""
    (example,) = TORTURE
    spec = f"unix:{tmp_path}/s"
    with testing.thread(Milter.Base, spec):
        source = example.replace(SPEC, spec).replace("rounds=500", "rounds=5")
        assert source.count("rounds=5)") == 1
        exec(compile(source, str(PAGE), "exec"), {})


@pytest.mark.parametrize("number", range(2))
def test_examples_without_a_filter(number: int) -> None:
    """These run by themselves; their own assertions hold."""
    assert 2 == len(WITHOUT_FILTER)
    exec(compile(WITHOUT_FILTER[number], str(PAGE), "exec"), {})


def test_names_are_documented() -> None:
    """The page names every outcome, modification and error."""
    page = PAGE.read_text(encoding="utf-8")
    names = [outcome.name for outcome in mta.Outcome]
    names += [name for name in mta.__all__ if name.endswith(("Error", "Header", "Lost", "Timeout"))]
    names += ["ReplaceBody", "AddRecipient", "DeleteRecipient", "ChangeSender", "Quarantine"]
    for name in names:
        assert re.search(rf"\b{name}\b", page), name
