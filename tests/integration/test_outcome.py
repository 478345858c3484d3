"""A message after a filter's changes: as a real mail server stores it, and as the rules say.

How the two come about, and what is compared, is in `outcome`; the rows are in `outcome_cases`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from .mta import Mta
from .outcome import Case, real, simulated
from .outcome_cases import CASES, DIFFERENT, drawn
from .recorder import Recorder

pytestmark = [pytest.mark.integration, pytest.mark.one_mode("no filter of the package runs")]

MTAS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postfix", "sendmail")]
BLOCK = 25


@pytest.fixture(scope="module")
def recorders() -> Iterator[dict[str, list[Recorder]]]:
    """Recorders of each mail server, once they have been asked for."""
    with contextlib.ExitStack() as stack:
        found: dict[str, list[Recorder]] = {}
        stack.callback(lambda: [each.close() for some in found.values() for each in some])
        yield found


@pytest.fixture
def behind(
    request: pytest.FixtureRequest, recorders: dict[str, list[Recorder]], mta_name: str
) -> tuple[Mta, list[Recorder]]:
    """The mail server of that name, and the recorders behind its endpoint "pair"."""
    mta: Mta = request.getfixturevalue(mta_name)
    if mta_name not in recorders:
        recorders[mta_name] = [
            Recorder(spec.partition(":")[2], 0o777 & ~mta.umask)
            for spec in mta.endpoints["pair"].filters
        ]
    return mta, recorders[mta_name]


def rows() -> Iterator[Any]:
    """Yield the parameters: every row with each mail server that it is for."""
    for name in ("postfix", "sendmail"):
        for case in CASES.values():
            if name in case.mtas:
                mark = getattr(pytest.mark, name)
                yield pytest.param(name, case, id=f"{name}-{case.id}", marks=mark)


@pytest.mark.parametrize(("mta_name", "case"), list(rows()))
def test_outcome(mta_name: str, case: Case, behind: tuple[Mta, list[Recorder]]) -> None:
    """Envelope, headers, body, and what the next filter sees are as the mail server has them."""
    stored, received = real(case, *behind)
    assert stored == simulated(case, mta_name, received)


def different() -> Iterator[Any]:
    """Yield the parameters: what is known to differ."""
    for reason, case in DIFFERENT.items():
        for name in case.mtas:
            yield pytest.param(name, case, id=reason, marks=getattr(pytest.mark, name))


@pytest.mark.parametrize(("mta_name", "case"), list(different()))
def test_known_differences(mta_name: str, case: Case, behind: tuple[Mta, list[Recorder]]) -> None:
    """What the rules do not know is still so, and they still do not."""
    stored, received = real(case, *behind)
    assert stored != simulated(case, mta_name, received)


@pytest.mark.parametrize("mta_name", MTAS)
@pytest.mark.parametrize("first", list(range(0, 200, BLOCK)))
def test_random_outcomes(mta_name: str, first: int, behind: tuple[Mta, list[Recorder]]) -> None:
    """So they are after any changes, in any order, of one filter or of two in a row."""
    for seed in range(first, first + BLOCK):
        case = drawn(seed)
        stored, received = real(case, *behind)
        assert stored == simulated(case, mta_name, received), case
