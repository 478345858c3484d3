"""What pymilter's suite checks of `Milter.greysql` (API spec 7, testgrey)."""

from __future__ import annotations

from Milter.greysql import Greylist

MINUTES = 60
HOURS = 3600
DAYS = 86400


def test_decisions() -> None:
    """A triple is let in between ten minutes and four hours, and then for 36 days."""
    grey = Greylist("test.db")
    sender, recipient = "foo@bar.com", "baz@spat.com"
    results = [
        grey.check("1.2.3.4", sender, recipient, timeinc=after)
        if ip == 4
        else grey.check("1.2.3.5", sender, recipient, timeinc=after)
        for ip, after in [
            (4, 0),
            (4, 5 * MINUTES),
            (4, 15 * MINUTES),
            (5, 15 * MINUTES),
            (4, 5 * HOURS),
            (5, 6 * HOURS),
            (4, 37 * DAYS),
        ]
    ]
    results.append(grey.check("1.2.3.4", "flub@bar.com", recipient, timeinc=20 * DAYS))
    assert [0, 0, 1, 0, 2, 0, 0, 0] == results
    grey.close()

    # Of the three, only the other address has not been seen for 36 days then.
    again = Greylist("test.db")
    assert 1 == again.clean(timeinc=37 * DAYS)
    assert 0 == again.clean(timeinc=37 * DAYS)
    again.close()
