"""A private Sendmail, unpacked by scripts/setup-integration, with a configuration made by m4.

It only queues (``DeliveryMode=queueonly``), so what became of a message is read from its queue
files: the envelope and headers from qf (hf for one in quarantine), the body from df.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

from .mta import (
    HOSTNAME,
    ROOT,
    Endpoint,
    Found,
    Mta,
    Stored,
    Unavailable,
    end,
    greets,
    spawn,
    tail,
    wait_until,
)

TREE = ROOT / ".cache" / "sendmail"
BINARY = TREE / "usr" / "lib" / "sm.bin" / "sendmail"
CF = TREE / "usr" / "share" / "sendmail" / "cf"

MASTER_MC = """\
divert(-1)
divert(0)dnl
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `{hostname}')dnl
define(`confDELIVERY_MODE', `queueonly')dnl
define(`QUEUE_DIR', `{base}/queue')dnl
define(`confPID_FILE', `{base}/pid')dnl
define(`STATUS_FILE', `')dnl
define(`HELP_FILE', `')dnl
define(`ALIAS_FILE', `{base}/aliases')dnl
define(`confSERVICE_SWITCH_FILE', `{base}/service.switch')dnl
define(`confTO_IDENT', `0')dnl
define(`confDONT_PROBE_INTERFACES', `True')dnl
define(`confBAD_RCPT_THROTTLE', `0')dnl
define(`confMAX_DAEMON_CHILDREN', `0')dnl
dnl Load and penalties are no part of what is tested.
define(`confREFUSE_LA', `0')dnl
define(`confQUEUE_LA', `0')dnl
define(`confDELAY_LA', `0')dnl
define(`SMART_HOST', `[127.0.0.1]')dnl
dnl The default list and, as a common extension of it, the client's address.
define(`confMILTER_MACROS_CONNECT',
 `j, _, {{daemon_name}}, {{if_name}}, {{if_addr}}, {{client_addr}}')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
{daemons}
{filters}
dnl For what does not come over one of the ports: the filter of the endpoint "unix".
define(`confINPUT_MAIL_FILTERS', `unix-0')dnl
MAILER(`local')dnl
MAILER(`smtp')dnl
"""


def milter_spec(spec: str) -> str:
    """Write a spec of ours as Sendmail has it: the same, but without brackets around IPv6."""
    return spec.replace("[", "").replace("]", "")


class Sendmail(Mta):
    """One Sendmail daemon that listens once per endpoint."""

    name = "sendmail"
    umask = 0o077  # it connects as root, and refuses sockets that others could write to

    def __init__(self, directory: Path, endpoints: list[Endpoint]) -> None:
        super().__init__(directory, endpoints)
        self.base = directory / "sendmail"
        self.queue = self.base / "queue"
        self.config = self.base / "sendmail.cf"
        self.process: subprocess.Popen[bytes] | None = None
        self.m4 = shutil.which("m4") or str(TREE / "usr" / "bin" / "m4")
        if not (TREE / ".complete").exists():
            raise Unavailable("no unpacked Sendmail: scripts/setup-integration")
        if not os.path.exists(self.m4):
            raise Unavailable("no m4: as root: apt-get install m4")
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            raise Unavailable("Sendmail needs a host name of its own: root, and unshare(1)")

    # -- start and stop ----------------------------------------------------------------------------

    def _configure(self) -> None:
        self.queue.mkdir(parents=True)
        self.base.chmod(0o755)
        self.queue.chmod(0o700)
        (self.base / "service.switch").write_text("hosts\tfiles\naliases\tfiles\n")
        daemons, filters = [], []
        for name, endpoint in self.endpoints.items():
            host, port = endpoint.address
            names = []
            for number, spec in enumerate(endpoint.filters):
                names.append(f"{name}-{number}")
                one = endpoint.timeout
                limits = f", T=S:{one}s;R:{one}s;E:30s" if one else ", T=S:30s;R:30s;E:60s"
                filters.append(
                    f"MAIL_FILTER(`{names[-1]}', `S={milter_spec(spec)}, F=T{limits}')dnl"
                )
            family = "inet6" if ":" in host else "inet"
            daemons.append(
                f"DAEMON_OPTIONS(`Name={name}, Family={family}, Addr={host}, Port={port}, "
                f"InputMailFilters={';'.join(names)}')dnl"
            )
        source = self.base / "sendmail.mc"
        source.write_text(
            MASTER_MC.format(
                hostname=HOSTNAME,
                base=self.base,
                daemons="\n".join(daemons),
                filters="\n".join(filters),
            )
        )
        # An m4 that was unpacked beside Sendmail has its library there.
        unpacked = self.m4.startswith(str(TREE))
        libraries = ":".join(map(str, TREE.glob("usr/lib/*-linux-*"))) if unpacked else ""
        with open(self.config, "wb") as output:
            subprocess.run(
                [self.m4, f"-D_CF_DIR_={CF}/", f"{CF}/m4/cf.m4", source],
                check=True,
                cwd=CF,
                stdin=subprocess.DEVNULL,
                stdout=output,
                env={**os.environ, "LD_LIBRARY_PATH": libraries} if libraries else None,
                timeout=60,
            )

    def command(self, *arguments: str) -> list[str]:
        """Return a command that runs this Sendmail where the host has a full name.

        Otherwise it asks the DNS for one, for a minute.
        """
        script = f'hostname {HOSTNAME} && exec "$@"'
        sendmail = [str(BINARY), "-C", str(self.config), *arguments]
        return ["unshare", "-u", "sh", "-c", script, "sh", *sendmail]

    def start(self) -> None:
        self._configure()
        # Without a database of aliases it takes every local recipient and looks later.
        (self.base / "aliases").touch()
        subprocess.run(
            self.command("-bi"),
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        self.process = spawn(self.command("-bD"), self.base / "output")

        def up() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"Sendmail did not start:\n{self.diagnosis()}")
            return all(greets(endpoint.address) for endpoint in self.endpoints.values())

        wait_until(up, "Sendmail answers on all its ports", pause=0.05)

    def stop(self) -> None:
        if self.process is not None:
            end(self.process)
            self.process = None

    def diagnosis(self) -> str:
        return tail(self.base / "output")

    # -- the other way in --------------------------------------------------------------------------

    def converse(self, *requests: bytes) -> list[str]:
        """Speak SMTP with ``sendmail -bs`` on its standard input; return its replies.

        One at a time: it will not talk to a client that speaks before it is spoken to.
        """
        process = subprocess.Popen(
            self.command("-bs"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        limit = threading.Timer(60, process.kill)
        limit.start()
        with process:
            assert process.stdin
            assert process.stdout
            replies = []
            for request in (b"", *requests):
                process.stdin.write(request)
                process.stdin.flush()
                line = process.stdout.readline()
                while line[3:4] == b"-":
                    line = process.stdout.readline()
                replies.append(line.decode("utf-8", "replace").rstrip())
        limit.cancel()
        return replies

    # -- what became of a message ------------------------------------------------------------------

    def control(self, queue_id: str) -> str:
        """Return the file with envelope and headers of a message in the queue."""
        kept = [self.queue / f"{kind}{queue_id}" for kind in ("qf", "hf")]
        (path,) = (path for path in kept if path.exists())
        return path.read_text("utf-8", "surrogateescape")

    def stored(self, reply: str) -> Found:
        match = re.search(r"2\.0\.0 (\w+) Message accepted", reply)
        assert match, f"no queue id in the reply: {reply}"
        queue_id = match.group(1)
        # Nothing to wait for: the queue files are complete before the reply is sent.
        for kind in ("qf", "hf"):
            path = self.queue / f"{kind}{queue_id}"
            if path.exists():
                body = (self.queue / f"df{queue_id}").read_bytes()
                return self._parse(queue_id, path.read_bytes(), body)
        return None

    @staticmethod
    def _parse(queue_id: str, control: bytes, body: bytes) -> Stored:
        stored = Stored(queue_id, "", [], [], body)
        # Bytes that mean something to Sendmail itself are marked with 0xFF in its files.
        control = re.sub(rb"\xff([\x80-\x9f\xff])", rb"\1", control)
        lines = control.decode("utf-8", "surrogateescape").split("\n")
        for number, line in enumerate(lines):
            if line == ".":
                break
            code, rest = line[:1], line[1:]
            if code == "S":
                stored.sender = rest.removeprefix("<").removesuffix(">")
            elif code == "R":
                flags, _, address = rest.partition(":")
                address = address.removeprefix("<").removesuffix(">")
                stored.recipients.append(address)
                wanted = [
                    word
                    for flag, word in (
                        ("N", "NEVER"), ("S", "SUCCESS"), ("F", "FAILURE"), ("D", "DELAY"),
                    )
                    if flag in flags
                ]  # fmt: skip
                # "PFD" is what a recipient without a NOTIFY of its own gets.
                if flags.startswith("P") or wanted:
                    stored.notify[address] = ",".join(wanted)
            elif code == "q":
                stored.quarantine = rest
            elif code == "H":
                text = re.sub(r"^\?[^?]*\?", "", rest)
                for following in lines[number + 1 :]:
                    if following[:1] not in (" ", "\t"):
                        break
                    text += "\n" + following
                name, _, value = text.partition(":")
                stored.headers.append((name, value))
        stored.recipients.sort()
        return stored

    def holds(self, token: str) -> bool:
        text = token.encode()
        for path in self.queue.iterdir():
            try:
                if text in path.read_bytes():
                    return True
            except FileNotFoundError:
                continue
        return False

    def clear(self) -> None:
        for path in self.queue.iterdir():
            # Not the tf, xf or Qf files of a session that is still going on.
            if path.name[:2] in ("qf", "hf", "df"):
                path.unlink(missing_ok=True)
