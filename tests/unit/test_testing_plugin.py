"""The pytest plugin: its fixtures, what a failed test shows, and that it is inert otherwise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_support import run

pytest_plugins = "pytester"

FILTER = """
import Milter

class Marks(Milter.Base):
    def envfrom(self, sender, *params):
        if sender == "<bad@example.net>":
            self.setreply("550", "5.7.1", "go away")
            return Milter.REJECT
        if sender == "<crash@example.net>":
            raise LookupError("no such table")
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Marked", "yes")
        self.replacebody(b"new\\r\\n")
        return Milter.ACCEPT
"""


@pytest.fixture
def marks(pytester: pytest.Pytester) -> pytest.Pytester:
    """A directory with a filter."""
    pytester.makepyfile(marks=FILTER)
    return pytester


def test_fixtures(marks: pytest.Pytester) -> None:
    """The fixtures start a filter in every way, and find messages beside the test."""
    marks.path.joinpath("hi.eml").write_bytes(b"Subject: hi\nTo: carol@example.com\n\nhi\n")
    marks.path.joinpath("run.py").write_text(
        "import sys, Milter, marks\n"
        "Milter.factory = marks.Marks\n"
        "Milter.runmilter('marks', sys.argv[1])\n"
    )
    root = Path(__file__).resolve().parents[2]
    marks.makepyfile(
        f"""
        import sys
        import pytest
        from marks import Marks

        COMMAND = [sys.executable, "run.py", "{{socket}}"]
        ENV = {{"PYTHONPATH": {str(root)!r}}}

        def test_message(mail):
            assert mail("hi.eml").recipients[0].address == "carol@example.com"
            assert mail(subject="x").get_all("Subject") == [b"x"]

        @pytest.mark.parametrize("way", ["direct", "thread", "command", "at"])
        def test_ways(milter, mail, way):
            client = {{
                "direct": lambda: milter(Marks),
                "thread": lambda: milter.thread(Marks),
                "command": lambda: milter.command(COMMAND, env=ENV, cwd={str(marks.path)!r}),
                "at": lambda: milter.at(milter.thread(Marks).spec),
            }}[way]()
            client.send(mail("hi.eml")).assert_header("X-Marked", "yes")
            client.send("hi.eml").assert_recipients("carol@example.com")
        """
    )
    run(marks).assert_outcomes(passed=5)


def test_stopped_after_the_test(marks: pytest.Pytester) -> None:
    """When a test is over, also a failed one, its filters are stopped."""
    marks.makepyfile(
        """
        import threading
        import time
        from marks import Marks

        before = threading.active_count()

        def test_one(milter):
            client = milter.thread(Marks)
            client.connect().negotiate()
            assert threading.active_count() > before
            assert False

        def test_two():
            deadline = time.monotonic() + 30
            while threading.active_count() > before and time.monotonic() < deadline:
                time.sleep(0.005)
            assert threading.active_count() == before
        """
    )
    run(marks, "-W", "ignore::ResourceWarning").assert_outcomes(passed=1, failed=1)


def test_failed_assertion(marks: pytest.Pytester) -> None:
    """An assertion of ours fails at the test's line, with dialogue and diff, told once."""
    marks.makepyfile(
        """
        from marks import Marks

        def test_it(milter):
            client = milter(Marks)
            client.send(body="old").assert_header("X-Marked", "no")
        """
    )
    result = run(marks)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       client.send(body="old").assert_header("X-Marked", "no")',
            "E       *Failure: expected: X-Marked: no",
            "E       but was:  X-Marked: yes",
            "E         mail     continue   <alice@example.org>",
            "E         eom      accept",
            "E                  add header X-Marked: yes",
            "E         accepted, with 2 changes: 250 2.0.0 Ok*",
            "E         +X-Marked: yes",
            "E         -old*",
            "E         +new",
            "test_failed_assertion.py:5: Failure",
        ]
    )
    assert 1 == result.stdout.str().count("add header X-Marked")
    assert "_testreport.py" not in result.stdout.str()


def test_failed_plain_assert(marks: pytest.Pytester) -> None:
    """Also where a plain assert fails, the report has the dialogues of all messages, and diffs."""
    marks.makepyfile(
        """
        from marks import Marks

        def test_it(milter):
            client = milter(Marks)
            client.send(sender="bad@example.net")
            report = client.send(body="old")
            assert report.code == 550

        def test_well(milter):
            milter(Marks).send()
        """
    )
    result = run(marks)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*- milter dialogue -*",
            "mail     reject     <bad@example.net>",
            "         550 5.7.1 go away",
            "rejected: 550 5.7.1 go away",
            "mail     continue   <alice@example.org>",
            "accepted, with 2 changes: 250 2.0.0 Ok*",
            "+X-Marked: yes",
            "-old*",
            "+new",
        ]
    )
    assert 1 == result.stdout.str().count("add header X-Marked")


def test_failed_among_several(marks: pytest.Pytester) -> None:
    """Where an assertion of ours fails after other messages, these are shown as well."""
    marks.makepyfile(
        """
        from marks import Marks

        def test_it(milter):
            client = milter(Marks)
            client.send(sender="bad@example.net")
            client.send().assert_rejected()
        """
    )
    result = run(marks)
    result.stdout.fnmatch_lines(["E       *Failure: expected: rejected", "*- milter dialogue -*"])
    assert "rejected: 550 5.7.1 go away" in result.stdout.str()


def test_crash(marks: pytest.Pytester) -> None:
    """A callback's exception fails the test with the filter's line, and the dialogue so far."""
    marks.makepyfile(
        """
        from marks import Marks

        def test_it(milter):
            milter(Marks).send(sender="crash@example.net")
        """
    )
    result = run(marks)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>           raise LookupError("no such table")',
            "E           LookupError: no such table",
            "*marks.py:9: LookupError",
            "*- milter dialogue -*",
            "mail     tempfail   <crash@example.net>",
        ]
    )


def test_own_lines_are_left_out(marks: pytest.Pytester) -> None:
    """Tracebacks show the test's and the filter's lines, all others only with --full-trace."""
    marks.makepyfile(
        """
        from marks import Marks

        def test_crash(milter):
            milter(Marks).send(sender="crash@example.net")

        def test_no_file(mail):
            mail("nothere.eml")

        def test_unreachable(milter):
            milter.at("unix:/nonexistent/socket").send()

        def test_without_fixtures():
            from Milter import testing
            with testing.direct(Marks) as client:
                client.send(subjekt="typo")

        def test_own_fault():
            import Milter
            Milter.set_flags("none")
        """
    )
    result = run(marks, "--tb=short", "--show-capture=no")
    result.assert_outcomes(failed=5)
    lines = [line for line in result.outlines if re.match(r"\S*\.py:\d+: in ", line)]
    assert [
        "test_own_lines_are_left_out.py:4: in test_crash",
        "marks.py:9: in envfrom",
        "test_own_lines_are_left_out.py:7: in test_no_file",
        "test_own_lines_are_left_out.py:10: in test_unreachable",
        "test_own_lines_are_left_out.py:15: in test_without_fixtures",
        "test_own_lines_are_left_out.py:19: in test_own_fault",
    ] == lines[:6]
    # Where the test kit has no part in it, tracebacks are as they always are.
    assert re.search(r"Milter/_server\.py:\d+: in set_flags$", "\n".join(lines[6:]), re.MULTILINE)
    result = run(marks, "--tb=short", "--show-capture=no", "--full-trace", "-k", "test_crash")
    result.stdout.fnmatch_lines(["*Milter/testing.py:*", "*marks.py:9: LookupError"])


def test_program_output(marks: pytest.Pytester) -> None:
    """A failed test shows what the program said that it tested."""
    root = Path(__file__).resolve().parents[2]
    marks.makepyfile(
        f"""
        import sys

        CODE = '''
        import sys, Milter, marks
        print("the filter says hello", flush=True)
        Milter.factory = marks.Marks
        Milter.runmilter("marks", sys.argv[1])
        '''.replace("\\n        ", "\\n")

        def test_it(milter):
            path = {str(marks.path)!r} + ":" + {str(root)!r}
            client = milter.command(
                [sys.executable, "-c", CODE, "{{socket}}"], env={{"PYTHONPATH": path}}
            )
            assert client.send().code == 550
        """
    )
    result = run(marks)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- filter output -*", "the filter says hello"])
    assert "filter ended" not in result.stdout.str()


def test_program_that_dies(marks: pytest.Pytester) -> None:
    """A failed test says that the program has ended meanwhile, and how."""
    marks.makepyfile(
        """
        import sys

        CODE = '''
        import os, signal, socket, sys
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(sys.argv[1])
        listener.listen()
        while listener.accept()[0].recv(1) == b"":
            pass
        os.kill(os.getpid(), signal.SIGKILL)
        '''.replace("\\n        ", "\\n")

        def test_it(milter):
            client = milter.command([sys.executable, "-c", CODE, "{path}"])
            try:
                client.send()
            finally:
                client.filters[0].process.wait(30)
        """
    )
    result = run(marks, "--tb=short")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- filter ended -*", "* has ended (killed by SIGKILL)"])


def test_messages_compared(marks: pytest.Pytester) -> None:
    """Two messages that are not equal are shown as a diff; other things as pytest does."""
    marks.makepyfile(
        """
        def test_messages(mail):
            assert mail(body="one") == mail(body="two", subject="other")

        def test_others(mail):
            assert mail() == 1
        """
    )
    result = run(marks)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E         -Subject: test",
            "E         +Subject: other",
            "E         -one*",
            "E         +two*",
        ]
    )


def test_own_fixture_wins(marks: pytest.Pytester) -> None:
    """A project's own fixtures of the same names are not touched."""
    marks.makeconftest(
        """
        import pytest

        @pytest.fixture
        def milter():
            return "mine"

        @pytest.fixture
        def mail():
            return "mine, too"
        """
    )
    marks.makepyfile("def test_it(milter, mail): assert (milter, mail) == ('mine', 'mine, too')")
    run(marks).assert_outcomes(passed=1)


def test_inert() -> None:
    """The plugin loads no module that talks to filters until a fixture is used."""
    code = (
        "import sys, Milter.pytest_plugin;"
        "print([n for n in ('Milter.mta', 'Milter.testing', 'hypothesis', 'email')"
        " if n in sys.modules])"
    )
    alone = "import sys, pytest; print([n for n in ('hypothesis', 'email') if n in sys.modules])"
    outputs = [
        subprocess.run([sys.executable, "-c", each], capture_output=True, text=True, check=True)
        for each in (code, alone)
    ]
    assert outputs[1].stdout == outputs[0].stdout


def test_testing_needs_no_pytest() -> None:
    """Milter.testing works where pytest and Hypothesis are not installed."""
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None\n"
        "import Milter\nfrom Milter import testing\n"
        "with testing.direct(Milter.Base) as client:\n"
        "    client.send().assert_unchanged()\n"
        "try:\n    import Milter.strategies\n"
        "except ImportError as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ("Milter.strategies needs Hypothesis: pip install hypothesis\n", "") == (
        result.stdout,
        result.stderr,
    )
