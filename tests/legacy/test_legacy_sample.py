"""What pymilter's suite checks of its sample, by TestBase and TestCtx (API spec 7, testsample)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from legacy_data import MESSAGES

import Milter
import milter
import mime
from Milter.test import TestBase
from Milter.testctx import TestCtx

# The import has set it for the whole process, where other tests go by the real one.
Milter.NOREPLY = milter.NOREPLY

ROOT = Path(__file__).resolve().parents[2]

#: Messages in which a program is found, and the part that holds it.
REPLACED = {"virus1": 1, "virus2": 1, "virus3": 0, "virus7": 1}
#: Messages that are left alone.
HARMLESS = ["samp1", "spam7", "utf8", "test2"]


def load(name: str, path: Path) -> Any:
    """Import a program by its path."""
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


sample = load("legacy_sample", ROOT / "sample.py")


class Bench(TestBase, sample.sampleMilter):
    """The sample under test."""

    def __init__(self) -> None:
        TestBase.__init__(self)
        sample.sampleMilter.__init__(self)


@pytest.fixture(autouse=True)
def _noreply(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the import of Milter.test leaves it."""
    monkeypatch.setattr(Milter, "NOREPLY", Milter.CONTINUE)


@pytest.fixture
def bench() -> Bench:
    """The sample, connected, with the macros that it may ask for."""
    bench = Bench()
    bench.setsymval("{auth_authen}", "batman")
    bench.setsymval("{auth_type}", "batcomputer")
    bench.setsymval("j", "mailhost")
    assert Milter.CONTINUE == bench.connect()
    return bench


@pytest.fixture
def ctx() -> Iterator[TestCtx]:
    """A context whose factory is the sample, connected, with those macros."""
    Milter.factory = sample.sampleMilter
    ctx = TestCtx()
    ctx._setsymval("{auth_authen}", "batman")
    ctx._setsymval("{auth_type}", "batcomputer")
    ctx._setsymval("j", "mailhost")
    assert Milter.CONTINUE == ctx._connect()
    yield ctx
    ctx._close()


def written(kit: Any, name: str) -> Any:
    """Write what came out as pymilter's suite does, and read it again."""
    path = Path("test", name + ".tstout")
    path.write_bytes(kit._body.getvalue())
    with open(path, "rb") as fp:
        return mime.message_from_file(fp)


# With TestBase.


@pytest.mark.parametrize(("name", "part"), REPLACED.items())
def test_bench_defangs(bench: Bench, name: str, part: int) -> None:
    """The body is replaced, the message accepted, and what came out has the warning."""
    assert Milter.ACCEPT == bench.feedMsg(name)
    assert bench._bodyreplaced
    assert "batman" == bench.user
    warning = written(bench, name).get_payload()[part]
    assert "text/plain" == warning.get_content_type()
    assert "WARNING.TXT" == warning.getname()
    assert b"not a program" not in bench._body.getvalue()


def test_bench_single_part(bench: Bench) -> None:
    """A message that is itself the program has headers changed, too."""
    assert Milter.ACCEPT == bench.feedMsg("virus6")
    assert bench._bodyreplaced
    assert bench._headerschanged
    assert "text/plain" == bench._msg.get_content_type()
    assert "story.exe" in bench._body.getvalue().partition(b"\n\n")[2].decode()


@pytest.mark.parametrize("name", HARMLESS)
def test_bench_leaves_alone(bench: Bench, name: str) -> None:
    """A harmless message passes as it is, with headers and bodies of any kind."""
    assert Milter.ACCEPT == bench.feedMsg(name)
    assert not bench._bodyreplaced
    assert not bench._headerschanged
    assert MESSAGES[name] == bench._body.getvalue()


def test_bench_log(bench: Bench) -> None:
    """What the sample logs is in test/milter.log."""
    bench.feedMsg("samp1")
    assert "samp1" in Path("test/milter.log").read_text()


# With TestCtx.


@pytest.mark.parametrize(("name", "part"), REPLACED.items())
def test_context_defangs(ctx: TestCtx, name: str, part: int) -> None:
    """The same through the context."""
    assert Milter.ACCEPT == ctx._feedMsg(name)
    assert ctx._bodyreplaced
    assert "WARNING.TXT" == written(ctx, name).get_payload()[part].getname()


@pytest.mark.parametrize("name", HARMLESS)
def test_context_leaves_alone(ctx: TestCtx, name: str) -> None:
    """The same through the context."""
    assert Milter.ACCEPT == ctx._feedMsg(name)
    assert not ctx._bodyreplaced
    assert not ctx._headerschanged
    assert MESSAGES[name] == ctx._body.getvalue()


def test_context_macros(ctx: TestCtx) -> None:
    """The macro in the symlist is seen, the other is not."""
    ctx._feedMsg("samp1")
    assert "batman" == ctx.getpriv().user
    assert ctx.getpriv().auth_type is None


# The tour of the API.


def test_template() -> None:
    """Ten connections of one context, one after the other."""
    # Its helper process is not started: what it logs goes nowhere.
    template = load("legacy_template", ROOT / "examples" / "template.py")
    Milter.factory = template.myMilter
    ctx = TestCtx()
    for number in range(10):
        assert Milter.CONTINUE == ctx._connect(helo=f"mx{number}.example.net")
        assert Milter.ACCEPT == ctx._feedMsg("samp1")
        assert ("<spy@example.com>", None) == ctx._addrcpt[-1]
        assert MESSAGES["samp1"] == ctx._body.getvalue()
        ctx._close()
    assert 10 == len(ctx._addrcpt)


def test_template_refuses_helo() -> None:
    """A HELO without a dot is refused, with a text."""
    template = load("legacy_template", ROOT / "examples" / "template.py")
    Milter.factory = template.myMilter
    ctx = TestCtx()
    assert Milter.REJECT == ctx._connect(helo="spamrelay")
    assert ctx._reply is not None
    assert ("550", "5.7.1") == ctx._reply[:2]
