"""What pymilter's suite checks of `Milter.policy` (API spec 7, testpolicy)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from Milter.policy import MTAPolicy

#: An access map. pymilter's suite makes a Berkeley DB of it, with sendmail's makemap.
ACCESS = {
    "smtp-auth!good@example.com": "OK",
    "smtp-auth!example.com": "REJECT",
    "smtp-auth": "REJECT",
    "smtp-test!.baz.com": "WILDCARD",
}


def text(path: Path) -> None:
    """Write it as text."""
    path.write_text("".join(f"{key}\t{value}\n" for key, value in ACCESS.items()))


def berkeleydb(path: Path) -> None:
    """Write it as makemap does."""
    db = pytest.importorskip("berkeleydb", reason="no package berkeleydb").db
    map = db.DB()
    map.open(str(path), None, db.DB_HASH, db.DB_CREATE)
    for key, value in ACCESS.items():
        map[key.encode()] = value.encode()
    map.close()


@pytest.fixture(params=[text, berkeleydb], ids=["text", "berkeleydb"])
def conf(request: pytest.FixtureRequest) -> Any:
    """What a filter's configuration says: the map, with `!` and without NUL."""
    path = Path("test", "access" if request.param is text else "access.db")
    request.param(path)
    return SimpleNamespace(access_file=str(path), access_file_nulls=False, access_file_colon=False)


@pytest.mark.parametrize(
    ("sender", "prefix", "policy"),
    [
        ("good@example.com", "smtp-auth", "OK"),
        ("bad@example.com", "smtp-auth", "REJECT"),
        ("bad@sub.example.com", "smtp-test", None),
        ("bad@localhost", "smtp-auth", "REJECT"),
        ("foo@bar.baz.com", "smtp-test", "WILDCARD"),
    ],
)
def test_policy(conf: Any, sender: str, prefix: str, policy: str | None) -> None:
    """The address, its domain, none for a subdomain, the bare prefix, a parent domain."""
    with MTAPolicy(sender, conf=conf) as found:
        assert policy == found.getPolicy(prefix)
