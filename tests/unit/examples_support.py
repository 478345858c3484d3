"""What the tests of sample.py and examples/ share: the programs, imported or run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from Milter import mta

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which something that does not happen has failed.
PATIENCE = 20.0


def load(name: str) -> Any:
    """Import sample.py or one of examples/ from its path, whatever else has that name."""
    path = ROOT / "sample.py" if name == "sample" else ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        # What other people's libraries are warned of is their affair.
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


class Program:
    """One of the programs, running, on a unix socket in a directory of its own.

    `foreign`: it imports libraries that may be warned of.
    """

    def __init__(self, name: str, *arguments: str | Path, foreign: bool = False) -> None:
        # A short path, as that of a socket must be.
        self.directory = Path(tempfile.mkdtemp(prefix="example-"))
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        self.socket = str(self.directory / "s")
        # Copied, so that what lies beside it does not hide a library that it imports.
        script = ROOT / ("sample.py" if name == "sample" else f"examples/{name}.py")
        copy = shutil.copy(script, self.directory)
        warning = "default" if foreign else "error"
        command = [sys.executable, "-W", warning, copy, "--socket", f"unix:{self.socket}"]
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)},
                cwd=self.directory,
            )
        deadline = time.monotonic() + 3 * PATIENCE
        while not os.path.exists(self.socket):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        """Return what it has written so far."""
        return (self.directory / "log").read_text("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        """Wait until its log holds this text."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.log():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def connect(self) -> mta.Session:
        """Connect to it as a mail server."""
        return mta.connect(self.socket, timeouts=mta.Timeouts.all(PATIENCE))

    def send(self, message: mta.Message, **more: Any) -> mta.Result:
        """Play one message to it over a connection of its own."""
        with self.connect() as session:
            return session.send(message, **more)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self, faults: bool = False) -> None:
        """Ask it to end; it must, with status 0, and have raised nothing unless `faults`.

        Its directory goes with it.
        """
        try:
            self.process.terminate()
            status = self.process.wait(PATIENCE)
            text = self.log()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.directory)
        assert 0 == status, text
        assert faults == ("Traceback" in text), text


def message(
    headers: Iterable[tuple[str, str]] = (("Subject", "hi"),),
    body: str | bytes = b"hello\n",
    sender: str = "<alice@example.org>",
    recipients: Iterable[str | mta.Recipient] = ("<bob@example.com>",),
) -> mta.Message:
    """Make a message from a sender to recipients."""
    head = "".join(f"{name}: {value}\n" for name, value in headers)
    content = body if isinstance(body, bytes) else body.encode()
    return mta.Message.from_bytes(
        head.encode("utf-8", "surrogateescape") + b"\n" + content, sender, recipients
    )
