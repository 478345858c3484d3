"""What pymilter's suite checks of `Milter.config` (API spec 7, testcfg)."""

from __future__ import annotations

from pathlib import Path

from Milter.config import MilterConfigParser

FILE = """\
[srs]
secret = not so secret
maxage = 8
separator = =
banned_users = postmaster,abuse

[spf]
trusted = no
"""


def test_read() -> None:
    """A file is read; an option that is there has its value, whatever the default; and a false."""
    Path("test/pysrs.cfg").write_text(FILE)
    config = MilterConfigParser({"maxage": "21"})
    assert ["test/pysrs.cfg"] == config.read(["test/pysrs.cfg"])
    assert "not so secret" == config.getdefault("srs", "secret", "other")
    assert "other" == config.getdefault("srs", "nothing", "other")
    assert config.getboolean("spf", "trusted") is False
    assert 8 == config.getint("srs", "maxage")
    assert ["postmaster", "abuse"] == config.getlist("srs", "banned_users")
    assert config.get("srs", "nothing") is None
