"""Torture judged by filters that are not ours, and by one with faults planted in it.

The filter in raw sockets is right by the wire spec; with each fault torture must find the rule that
it breaks. Filters on libmilter (in C, pymilter, OpenDKIM) break none but those that libmilter is
known to break (wire spec 3.3).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest
from mta_support import ALL, PATIENCE, OnlyAt, Simple
from torture_filter import FAULTS

from Milter import mta
from Milter._torture import Report, _State, _Torture, replay, torture
from Milter._tortureplay import PLAIN, Move, Play, moves_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ORACLE = Path(os.environ.get("ORACLE_PYTHON") or ROOT / ".cache" / "oracle" / "bin" / "python")
OPENDKIM = shutil.which("opendkim", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

QUICK = mta.Timeouts.all(0.5)
PATIENT = mta.Timeouts.all(PATIENCE)
SHRINK = 10 * PATIENCE
"""Seconds in which even a busy machine comes to the smallest play."""


class Unhurried(mta.Timeouts):
    """Times of which that for an answer is long: the others are for what comes after the steps."""

    def of(self, step: str) -> float:
        return 5.0


class Running:
    """A filter in a process of its own."""

    def __init__(self, command: list[str], path: Path, **environment: str) -> None:
        self.command = command
        self.path = path
        self.environment = environment
        self.spec = f"unix:{path}"
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.start()

    def start(self) -> None:
        """Starts it, again if need be, and waits until it listens."""
        self.stop()
        self.path.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with open(self.path.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**environment, **self.environment},
                cwd=self.path.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.path)) == 0:
                    return
            assert self.process.poll() is None, self.path.with_suffix(".log").read_text()
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts filters, and ends them."""
    filters: list[Running] = []

    def run(*command: str, **environment: str) -> Running:
        path = tmp_path / f"s{len(filters)}"
        filters.append(
            Running([word.replace("SOCKET", str(path)) for word in command], path, **environment)
        )
        return filters[-1]

    yield run
    for each in filters:
        each.stop()


def raw(start: Start, fault: str = "") -> Running:
    """The filter in raw sockets."""
    return start(sys.executable, str(HERE / "torture_filter.py"), "SOCKET", fault)


def until(rule: str) -> Callable[[Play, Optional[mta.MilterError]], bool]:
    """Ends a torture where this rule is broken; what is late or missing names none."""

    def over(play: Play, error: Optional[mta.MilterError]) -> bool:
        broken = error.rule if isinstance(error, mta.ProtocolError) else "1.3, 7.2"
        return error is not None and rule in broken

    return over


# -- planted faults ------------------------------------------------------------------------------


@pytest.mark.row(199)
@pytest.mark.slow
def test_nothing_wrong_with_a_right_filter(start: Start) -> None:
    """The filter without a fault breaks no rule, also of those that libmilter breaks."""
    report = torture(raw(start).spec, rounds=250, seed=3, timeouts=PATIENT, improved=True)
    assert report.ok, str(report)
    assert 250 == report.plays
    assert "250 plays with seed 3" in str(report)
    assert "no rule broken" in str(report)


@pytest.mark.row(199)
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults(start: Start, fault: str) -> None:
    """Each planted fault is found, and its rule named."""
    filter = raw(start, fault)
    # Where silence is the fault, an answer that is late on a busy machine is taken for it; where it
    # is another, it must not end the torture.
    waits = QUICK if FAULTS[fault] == "1.3" else Unhurried.all(0.5)
    report = torture(
        filter.spec,
        rounds=600,
        timeouts=waits,
        shrink=0,
        restart=filter.start,
        on_play=until(FAULTS[fault]),
    )
    assert any(FAULTS[fault] in failure.rule for failure in report.failures), str(report)


def test_the_smallest_play(start: Start) -> None:
    """A filter that does not answer a command that only some plays have: the smallest play is that
    command alone, and shows it again; a right filter survives the same play."""
    filter = raw(start, "no answer to unknown")
    report = torture(
        filter.spec,
        rounds=100,
        timeouts=OnlyAt("unknown", 0.2),
        shrink=SHRINK,
        on_play=until("1.3"),
    )
    (failure,) = report.failures
    assert moves_of("U") == failure.play.moves
    assert (6, 0x1FF, 0x1FFFFF) == failure.play.offer
    assert isinstance(failure.error, mta.FilterTimeout)
    assert b"".join(data for who, data in failure.transcript if who == "mta").endswith(
        b"\0\0\0\5UFOO\0"
    )
    again = replay(filter.spec, Play.from_json(failure.play.to_json()), timeouts=QUICK)
    assert again is not None
    assert failure.rule == again.rule
    assert replay(raw(start).spec, failure.play, timeouts=PATIENT) is None


def test_the_end_of_a_filter(start: Start) -> None:
    """A play that is the filter's end is reported, also where it is one of those that were tried
    for being smaller than one that only breaks a rule."""
    filter = raw(start, "dies of a body without the headers' end")
    moves = (*moves_of("MRTUN"), Move("body", size=80), *moves_of("E"))
    # A play that is not answered is tried, too: not long for that one, and long for all others.
    timeouts = mta.Timeouts.all(4.0)
    inquisition = _Torture(filter.spec, timeouts, True, shrink=SHRINK)
    state = _State()
    found = inquisition.check(Play(7, 1, moves=moves), state)
    assert found is not None
    assert not inquisition.sort(found, Play(7, 1, moves=moves), state)
    # As the play became smaller, its group may have got a second key.
    groups = dict.fromkeys(state.groups.values())
    twice, gone = sorted(groups, key=lambda group: "gone" in str(group.found.error))
    assert "wire spec 1.1" in twice.found.rule
    assert "the filter is gone" in str(gone.found.error)
    assert "eoh" not in [move.step for move in gone.play.moves]
    filter.start()
    again = replay(filter.spec, gone.play, timeouts=timeouts)
    assert again is not None
    assert filter.process is not None
    assert 1 == filter.process.wait(PATIENCE)


def test_what_a_failure_says(start: Start) -> None:
    """A failure's text has the error with rule, packet and bytes, what was said, and the play."""
    filter = raw(start, "trailing byte")
    report = torture(filter.spec, rounds=0, timeouts=PATIENT, shrink=SHRINK)
    (failure,) = report.failures
    assert not report.ok
    assert "1 rule broken" in str(report)
    assert "with a plain message already" in str(report)
    text = str(failure)
    assert "a malformed CONTINUE with 1 bytes of data" in text
    assert "wire spec 1.4: exact length" in text
    assert "00 00 00 02 63 00)" in text
    assert "  < 00 00 00 02 63 00" in text
    assert f"  replay: {failure.play.to_json()}" in text
    assert ["mail", "rcpt", "body"] == [move.step for move in failure.play.moves]


def test_a_filter_that_dies(start: Start) -> None:
    """Where nobody starts the filter again, the torture ends, and says so."""
    filter = raw(start, "dies of noise")
    timeouts = mta.Timeouts(0.3, PATIENCE, PATIENCE, PATIENCE)
    report = torture(filter.spec, rounds=600, timeouts=timeouts)
    assert report.gone
    assert report.plays < 600
    assert "the filter is gone" in str(report)
    assert "a plain message is not served" in str(report.failures[0].error)
    assert "others are served" in report.failures[0].rule


def test_nobody_there(tmp_path: Path) -> None:
    """No filter, or no socket: an error at once."""
    with pytest.raises(mta.ConnectError):
        torture(f"unix:{tmp_path}/none", rounds=1)
    with pytest.raises(mta.SocketSpecError):
        torture("nonsense:1", rounds=1)


def test_connections_of_ones_own(start: Start) -> None:
    """A function may connect; it is called for each play, and each plain message."""
    filter = raw(start)
    made = []

    def connect() -> socket.socket:
        made.append(socket.socket(socket.AF_UNIX))
        made[-1].connect(str(filter.path))
        return made[-1]

    report = torture(connect, rounds=3, timeouts=PATIENT)
    assert (True, 3) == (report.ok, report.plays)
    assert len(made) >= 2 + 2 * 3
    assert all(each.fileno() == -1 for each in made), "left open"


def test_when_it_ends(start: Start) -> None:
    """After so many seconds no other play begins; and none after `on_play` has said so."""
    filter = raw(start)
    assert 0 == torture(filter.spec, rounds=50, seconds=0, timeouts=PATIENT).plays
    seen: list[Play] = []

    def third(play: Play, error: Optional[mta.MilterError]) -> bool:
        seen.append(play)
        return len(seen) == 3

    assert 3 == torture(filter.spec, rounds=50, timeouts=PATIENT, on_play=third).plays
    assert [0, 1, 2] == [play.number for play in seen]


def test_nothing_smaller_is_looked_for_after_the_end(tmp_path: Path) -> None:
    """Also a play that would be simpler than the one that showed a fault is none to begin then."""
    with Simple(tmp_path / "s", {"M": b"\0\0\0\1!"}) as simple:
        (failure,) = torture(simple.spec, seconds=0, timeouts=PATIENT).failures
        assert PLAIN == failure.play
        (failure,) = torture(simple.spec, rounds=0, timeouts=PATIENT, shrink=SHRINK).failures
        assert moves_of("M") == failure.play.moves


@pytest.mark.parametrize(
    ("offer", "good"),
    [
        ((6, 0x1FF, 0x1FFFFF), False),
        ((6, 0x1FF, 0x301FFFFF), False),
        ((5, 0x1FF, 0x1FFFFF), True),
        ((6, 0x0FF, 0x1FFFFF), True),
        ((6, 0x1FF, 0x1FFFFE), True),
    ],
)
def test_offers_may_be_refused(tmp_path: Path, offer: tuple[int, int, int], good: bool) -> None:
    """A filter may refuse an offer of less than there is by closing, but not the full one."""
    with Simple(tmp_path / "s", {"O": [None, ALL]}) as filter:
        failure = replay(filter.spec, Play(offer=offer), timeouts=PATIENT)
    assert good == (failure is None)
    if failure is not None:
        assert isinstance(failure.error, mta.ConnectionLost)
        assert "every command but D, A, K and Q is answered" in failure.rule


def test_moves_written_at_once(start: Start) -> None:
    """Commands in one write are all answered (row 2)."""
    letters = moves_of("CHMRRTLLNBBE")
    joined = tuple(Move(m.step, m.texts, m.macros, m.size, joined=True) for m in letters)
    assert replay(raw(start).spec, Play(moves=joined), timeouts=PATIENT) is None
    lossy = raw(start, "loses the second of two packets")
    failure = replay(lossy.spec, Play(moves=joined), timeouts=QUICK)
    assert failure is not None
    assert isinstance(failure.error, mta.FilterTimeout)


# -- filters that are not ours -------------------------------------------------------------------


def known_to_libmilter(report: Report) -> list[str]:
    """The failures that are none of libmilter's known ones: after UNKNOWN in a message it drops
    the content, where there was no DATA (wire spec 3.3, Q1)."""
    others = []
    for failure in report.failures:
        steps = [move.step for move in failure.play.moves]
        if not ("unknown" in steps and isinstance(failure.error, mta.FilterTimeout)):
            others.append(str(failure))
    return others


@pytest.fixture(scope="module")
def compile_filter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compiles the filter in C on libmilter."""

    def compiled(*options: str) -> str:
        if shutil.which("gcc") is None or not Path("/usr/include/libmilter/mfapi.h").exists():
            pytest.skip("no gcc, or no libmilter-dev")
        program = tmp_path_factory.mktemp("c") / "filter"
        source = str(HERE / "torture_filter.c")
        warnings = ["-Wall", "-Wextra", "-Werror"]
        files = ["-o", str(program), source, "-lmilter", "-lpthread"]
        subprocess.run(["gcc", *warnings, *options, *files], check=True)
        return str(program)

    return compiled


@pytest.mark.oracle
@pytest.mark.slow
def test_a_filter_in_c(start: Start, compile_filter: Callable[..., str]) -> None:
    """A filter on libmilter with all callbacks breaks no rule."""
    filter = start(compile_filter(), "SOCKET")
    report = torture(filter.spec, rounds=250, timeouts=PATIENT)
    assert [] == known_to_libmilter(report)
    assert 0 < report.refused < 200


@pytest.mark.oracle
def test_what_libmilter_is_known_for(start: Start, compile_filter: Callable[..., str]) -> None:
    """Without a callback for DATA libmilter does not answer content after UNKNOWN (Q1, row 112),
    and none wants CONNECT after QUIT_NC anywhere but at the end of a message (Q7, row 109)."""
    filter = start(compile_filter("-DNO_DATA"), "SOCKET")
    for letters, answered in (("CHMRUL", False), ("CHMRL", True), ("CHMUR", True)):
        timeouts = PATIENT if answered else QUICK
        failure = replay(filter.spec, Play(moves=moves_of(letters)), timeouts=timeouts)
        assert answered == (failure is None), letters


@pytest.mark.oracle
@pytest.mark.slow
def test_pymilter(start: Start, tmp_path: Path) -> None:
    """pymilter on libmilter breaks no rule but libmilter's."""
    if not ORACLE.exists():
        pytest.skip("no pymilter on libmilter: run scripts/setup-oracle")
    # Copied, so that what lies beside it does not hide the package to be used.
    script = shutil.copy(HERE / "mta_filter.py", tmp_path)
    filter = start(str(ORACLE), script, "SOCKET", "plain")
    report = torture(filter.spec, rounds=150, timeouts=mta.Timeouts.all(5), shrink=10)
    assert [] == known_to_libmilter(report)


@pytest.mark.oracle
@pytest.mark.slow
def test_opendkim(start: Start, tmp_path: Path) -> None:
    """OpenDKIM, a filter of others on libmilter, breaks no rule."""
    if OPENDKIM is None:
        pytest.skip("no opendkim")
    configuration = tmp_path / "opendkim.conf"
    configuration.write_text(
        f"Mode v\nBackground no\nSyslog no\nPidFile {tmp_path}/pid\n"
        "DNSTimeout 1\nNameservers 127.0.0.1\n"
    )
    filter = start(OPENDKIM, "-f", "-x", str(configuration), "-p", "local:SOCKET")
    report = torture(filter.spec, rounds=150, timeouts=PATIENT)
    assert [] == known_to_libmilter(report)


@pytest.mark.row(199)
@pytest.mark.parametrize("kind", ["plain", "lists", "extras", "noreply", "nocallback"])
def test_our_filters(start: Start, tmp_path: Path, kind: str) -> None:
    """A filter on our package breaks no rule, also of those that libmilter breaks."""
    script = shutil.copy(HERE / "mta_filter.py", tmp_path)
    filter = start(sys.executable, script, "SOCKET", kind, PYTHONPATH=str(ROOT))
    report = torture(filter.spec, rounds=110, seed=5, timeouts=PATIENT, improved=True)
    assert report.ok, str(report)


def test_plain_is_plain() -> None:
    """The plain message is one that Postfix could send: all steps of it in their order."""
    steps = "connect helo mail rcpt data header header eoh body eom"
    assert steps.split() == [move.step for move in PLAIN.moves]
    assert "quit" == PLAIN.end.how
