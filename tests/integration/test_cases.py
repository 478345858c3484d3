"""The table of `cases`, played through each mail server over each kind of socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .cases import CASES, Case, pick
from .checks import check_calls, check_order, check_raised, check_replies, check_stored
from .conftest import Place
from .filters import on_our_engine
from .smtp import expected_replies, render


def rows() -> Iterator[Any]:
    """Yield the parameters: the cases of one endpoint together, so that few filters run at once."""
    for mta in ("postfix", "sendmail"):
        for endpoint in ("unix", "inet", "inet6"):
            for case in CASES:
                if mta in case.mtas and endpoint in case.endpoints:
                    yield pytest.param(
                        (mta, endpoint),
                        case,
                        id=f"{mta}-{endpoint}-{case.id}",
                        marks=[pytest.mark.integration, getattr(pytest.mark, mta)],
                    )


@pytest.mark.parametrize(("place", "case"), list(rows()), indirect=["place"])
def test_case(place: Place, case: Case) -> None:
    """The MTA replies, the callbacks come, and the message is stored as the row says."""
    if case.ours and not on_our_engine():
        pytest.skip(f"not here: {case.ours}")
    log = place.load({**case.script, "rules": list(case.rules)})
    content = render(place.token, case.headers, case.body)
    mta = place.mta.name
    steps = pick(case.steps, mta)
    transcript = place.play(steps, content)
    log.wait_for_close()
    check_replies(transcript, dict(expected_replies(steps, pick(case.replies, mta))))
    check_order(log, pick(case.callbacks, mta))
    check_calls(log, pick(case.calls, mta), mta)
    check_raised(log, pick(case.raised, mta))
    check_stored(place, pick(case.stored, mta), transcript)
