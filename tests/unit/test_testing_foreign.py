"""Milter.testing with filters that are not ours: it tests whatever speaks the protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mta_support import PATIENCE

from Milter import _programs, mta, testing

ROOT = Path(__file__).resolve().parents[2]
ORACLE = Path(os.environ.get("ORACLE_PYTHON") or ROOT / ".cache" / "oracle" / "bin" / "python")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
OPENDKIM = shutil.which("opendkim", path=PATH)
OPENSSL = shutil.which("openssl", path=PATH)


@pytest.fixture(autouse=True)
def _ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is killed because the machine is busy: whoever ends, ends by itself."""
    monkeypatch.setattr(_programs, "_ENDING", PATIENCE)


@pytest.mark.oracle
@pytest.mark.parametrize("profile", ["postfix", "sendmail"])
def test_pymilter(tmp_path: Path, profile: str) -> None:
    """A filter on pymilter and libmilter, as a program; it is stopped in no time."""
    if not ORACLE.exists():
        pytest.skip("no pymilter on libmilter: run scripts/setup-oracle")
    # Copied, so that our package, which lies beside it, is not the one that it finds.
    copy = shutil.copy(Path(__file__).with_name("testing_filters.py"), tmp_path)
    with testing.command(
        [ORACLE, copy, "{socket}"], cwd=tmp_path, env={"PYTHONPATH": ""}, profile=profile
    ) as client:
        report = client.send(macros={"{auth_authen}": "carol"})
        report.assert_accepted().assert_header("X-User", "carol").assert_body("good\nbye\n")
        client.send(sender="bad@example.net").assert_rejected(550, "5.7.1", "go away")
        client.send(sender="later@example.net").assert_tempfailed(451, "4.7.1", "not now")
        client.send(to=["bad@example.com", "bob@example.com"]).assert_refused("bad@example.com")
        client.send(subject="spam").assert_discarded()
    # By SIGTERM alone, for which libmilter takes up to five seconds unless it is woken.
    assert client.filters[0].process.returncode >= 0


@pytest.mark.oracle
def test_opendkim(tmp_path: Path) -> None:
    """OpenDKIM signs what our client says comes from its own domain, and nothing else."""
    if OPENDKIM is None or OPENSSL is None:
        pytest.skip("no opendkim")
    key = tmp_path / "key.pem"
    subprocess.run(
        [OPENSSL, "genrsa", "-out", str(key), "2048"], check=True, capture_output=True, timeout=60
    )
    key.chmod(0o600)
    configuration = tmp_path / "opendkim.conf"
    configuration.write_text(
        f"Domain example.org\nSelector sel\nKeyFile {key}\nMode s\nBackground no\n"
        "RequireSafeKeys no\nSocket unix:/overridden\n"
    )
    with testing.command(
        [OPENDKIM, "-f", "-x", configuration, "-p", "{socket}"], profile="postfix"
    ) as client:
        report = client.send(sender="alice@example.org", body="hello\n")
        report.assert_accepted()
        (change,) = report.modifications
        assert isinstance(change, mta.InsertHeader)
        assert ("DKIM-Signature", True) == (change.name, "d=example.org; s=sel;" in change.value)
        client.send(sender="carol@example.net").assert_accepted().assert_unchanged()
        far = mta.SmtpClient("mx.example.net", "192.0.2.1")
        client.send(sender="alice@example.org", client=far).assert_no_header("DKIM-Signature")


def test_ends_without_wait(tmp_path: Path) -> None:
    """A program that notices its end only when somebody connects is woken, as libmilter needs."""
    program = (
        "import signal, socket, sys\n"
        "over = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: over.append(1))\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "while not over:\n"
        "    s.accept()\n"
    )
    with testing.command([sys.executable, "-c", program, "{path}"]) as client:
        pass
    assert 0 == client.filters[0].process.returncode
