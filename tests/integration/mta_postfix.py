"""A private Postfix: its own configuration, queue, log and mailboxes, started with ``-c``.

Everything lies below one directory. Mail for `DOMAIN` is delivered by virtual(8) to one maildir
per recipient, so that a test sees what really arrives; mail that a filter quarantines is read from
the hold queue with postcat(1).
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from pathlib import Path

from .mta import (
    HOSTNAME,
    Endpoint,
    Found,
    Mta,
    Stored,
    Unavailable,
    end,
    greets,
    spawn,
    split_message,
    tail,
    wait_until,
)

#: The domain that is delivered, and who has a mailbox in it. Others are refused by Postfix itself,
#: and so are all in its own domain.
DOMAIN = "dest.example"
USERS = ("one", "two", "added", "other", "fünf")
#: The bits of notify_flags in a queue file.
NOTIFY = {1: "NEVER", 2: "SUCCESS", 4: "FAILURE", 8: "DELAY"}
#: Headers that virtual(8) puts on top of a delivered message.
DELIVERY_HEADERS = ("Return-Path", "X-Original-To", "Delivered-To")

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {base}/queue
data_directory = {base}/data
mail_owner = postfix
setgid_group = postdrop
maillog_file = {base}/log/maillog
maillog_file_prefixes = {base}
myhostname = {hostname}
mydomain = example.org
myorigin = $myhostname
mydestination =
mynetworks = 127.0.0.0/8 [::1]/128
inet_interfaces = loopback-only
inet_protocols = {protocols}
biff = no
alias_maps =
alias_database =
local_recipient_maps =
smtp_tls_security_level = none
smtpd_tls_security_level = none
enable_long_queue_ids = yes
smtputf8_enable = yes
virtual_mailbox_domains = {domain} {hostname}
virtual_mailbox_base = {base}/mail
virtual_mailbox_maps = texthash:{base}/etc/mailboxes
virtual_mailbox_limit = 0
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
default_transport = error:5.1.2 nothing leaves this machine
notify_classes =
smtpd_authorized_xclient_hosts = 127.0.0.0/8
# Errors are what many cases are about: no penalty for them.
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 1000
smtpd_hard_error_limit = 1000
smtpd_junk_command_limit = 1000
smtpd_timeout = 60s
in_flow_delay = 0
# What a filter said can make smtpd panic. One that does so with its first client is not replaced
# for this long, a minute by default, and its clients wait for a greeting.
service_throttle_time = 1s
milter_default_action = tempfail
# The default list and, as a common extension of it, the client's address.
milter_connect_macros = j {{daemon_name}} {{daemon_addr}} v _ {{client_addr}}
"""

MASTER_CF = """\
pickup    unix n - n 60 1 pickup
  -o cleanup_service_name=pickup-cleanup
cleanup   unix n - n - 0 cleanup
pickup-cleanup unix n - n - 0 cleanup
  -o non_smtpd_milters={non_smtpd_milters}
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
local     unix - n n - - local
virtual   unix - n n - - virtual
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
tlsmgr    unix - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def milter_spec(spec: str) -> str:
    """Write a spec of ours as Postfix has it: ``inet:HOST:PORT``."""
    kind, _, rest = spec.partition(":")
    if kind == "unix":
        return spec
    port, _, host = rest.partition("@")
    return f"inet:{host}:{port}"


class Postfix(Mta):
    """One Postfix instance with an smtpd(8) service per endpoint."""

    name = "postfix"
    umask = 0o000  # smtpd(8) connects as its own user

    def __init__(self, directory: Path, endpoints: list[Endpoint]) -> None:
        super().__init__(directory, endpoints)
        self.base = directory / "postfix"
        self.config = self.base / "etc"
        self.maillog = self.base / "log" / "maillog"
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("postfix", "postconf", "postcat"):
            if _program(name) is None:
                raise Unavailable(f"no {name}: as root: scripts/setup-integration")
        if os.geteuid() != 0:
            raise Unavailable("Postfix starts as root only: run the tests as root")

    def _tool(self, name: str, *arguments: str) -> bytes:
        program = _program(name)
        assert program is not None
        return subprocess.run(
            [program, "-c", str(self.config), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=30,
        ).stdout

    def version(self) -> str:
        """Return Postfix's own version number."""
        return self._tool("postconf", "-dh", "mail_version").decode().strip()

    # -- start and stop ----------------------------------------------------------------------------

    def _configure(self) -> None:
        owner, nobody = pwd.getpwnam("postfix"), pwd.getpwnam("nobody")
        for name in ("etc", "queue", "data", "log", "mail"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        os.chown(self.base / "data", owner.pw_uid, owner.pw_gid)
        os.chown(self.base / "mail", nobody.pw_uid, nobody.pw_gid)
        with_ipv6 = any(":" in one.address[0] for one in self.endpoints.values())
        (self.config / "main.cf").write_text(
            MAIN_CF.format(
                base=self.base,
                hostname=HOSTNAME,
                domain=DOMAIN,
                uid=nobody.pw_uid,
                gid=nobody.pw_gid,
                protocols="all" if with_ipv6 else "ipv4",
            )
        )
        (self.config / "mailboxes").write_text(
            "".join(f"{user}@{DOMAIN} {user}/\n" for user in USERS), encoding="utf-8"
        )
        # Mail that does not come over one of the ports goes through the filter of "unix". A service
        # of its own, for Postfix would show that filter, too, what another one discards at MAIL.
        local = milter_spec(self.endpoints["unix"].filters[0])
        services = [MASTER_CF.format(non_smtpd_milters=local)]
        for endpoint in self.endpoints.values():
            host, port = endpoint.address
            listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            milters = ",".join(milter_spec(one) for one in endpoint.filters)
            services.append(f"{listen} inet n - n - - smtpd\n  -o smtpd_milters={milters}\n")
            if endpoint.timeout is not None:
                for step in ("connect", "command", "content"):
                    services.append(f"  -o milter_{step}_timeout={endpoint.timeout}s\n")
        (self.config / "master.cf").write_text("".join(services))

    def start(self) -> None:
        self._configure()
        self._tool("postfix", "check")  # makes the directories of the queue
        daemons = self._tool("postconf", "-h", "daemon_directory").decode().strip()
        # What "postfix start" would do, but for the detaching: master(8) is to be our child, so
        # that it can be waited for. Should we be killed, it ends itself after an hour (the kernel's
        # notice of our end gets lost where it changes its user).
        self.process = spawn(
            [f"{daemons}/master", "-c", self.config, "-d", "-e", "3600"],
            self.base / "log" / "start",
        )

        def up() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"Postfix did not start:\n{self.diagnosis()}")
            return all(greets(endpoint.address) for endpoint in self.endpoints.values())

        wait_until(up, "Postfix answers on all its ports", pause=0.05)

    def stop(self) -> None:
        if self.process is not None:
            end(self.process)
            self.process = None

    def diagnosis(self) -> str:
        return tail(self.base / "log" / "start") + "\n" + tail(self.maillog)

    # -- what became of a message ------------------------------------------------------------------

    def _queue_file(self, queue_id: str) -> Path | None:
        for name in ("maildrop", "incoming", "active", "deferred", "hold"):
            for path in (self.base / "queue" / name).glob(f"**/{queue_id}"):
                return path
        return None

    def _maildir_files(self) -> list[Path]:
        return sorted((self.base / "mail").glob("*/new/*"))

    def stored(self, reply: str) -> Found:
        match = re.search(r"queued as (\w+)", reply)
        assert match, f"no queue id in the reply: {reply}"
        queue_id = match.group(1)

        def settled() -> bool:
            path = self._queue_file(queue_id)
            return path is None or path.parent.name == "hold"

        wait_until(settled, f"message {queue_id} delivered or on hold")
        path = self._queue_file(queue_id)
        if path is not None:
            return self._held(queue_id)
        return self._delivered(queue_id)

    def _delivered(self, queue_id: str) -> Found:
        found: Stored | None = None
        mark = re.compile(rb"^Received: (?:.|\n[ \t])*\bid " + queue_id.encode() + rb"\b", re.M)
        for path in self._maildir_files():
            data = path.read_bytes()
            if not mark.search(data):
                continue
            headers, body = split_message(data)
            top = {}
            while headers and headers[0][0] in DELIVERY_HEADERS:
                name, value = headers.pop(0)
                top[name] = value.strip()
            recipient = top["Delivered-To"]
            if found is None:
                sender = top["Return-Path"][1:-1]
                found = Stored(queue_id, sender, [recipient], headers, body)
            else:
                assert (found.headers, found.body) == (headers, body), "two copies differ"
                found.recipients.append(recipient)
        if found is not None:
            found.recipients.sort()
        elif f"{queue_id}: to=<" in self._log():  # else it had no recipients
            raise AssertionError(f"{queue_id} was not discarded but bounced:\n{self.diagnosis()}")
        return found

    def envelope(self, queue_id: str) -> str:
        """Return the envelope of a message in the queue, as postcat(1) shows it."""
        return self._tool("postcat", "-qe", queue_id).decode("utf-8", "surrogateescape")

    def _held(self, queue_id: str) -> Stored:
        envelope = self.envelope(queue_id)
        headers, body = split_message(self._tool("postcat", "-qhb", queue_id))
        stored = Stored(queue_id, "", [], headers, body, quarantine="")
        notify = ""
        for line in envelope.splitlines():
            name, _, value = line.partition(": ")
            if name == "sender":
                stored.sender = value
            elif name == "named_attribute" and value.startswith("notify_flags="):
                notify = value.partition("=")[2]
            elif name == "recipient":
                stored.recipients.append(value)
                if notify:
                    bits = int(notify)
                    stored.notify[value] = ",".join(w for bit, w in NOTIFY.items() if bits & bit)
                notify = ""
        stored.recipients.sort()
        mark = re.compile(rf"{queue_id}: milter-hold: .*: milter triggers HOLD action")
        wait_until(lambda: mark.search(self._log()), f"the log tells why {queue_id} is on hold")
        return stored

    def _log(self) -> str:
        return self.maillog.read_text("utf-8", "replace")

    def wait_for_sessions(self) -> None:
        """Wait until every SMTP session that has begun is over, and the log says all of it.

        postlogd(8) writes what the others hand it, so a client may be gone before that is in the
        log; but it writes in the order in which it was given.
        """
        mark = f"all before {time.monotonic_ns()}"
        self._tool("postlog", "-t", "tests", mark)
        wait_until(lambda: mark in self._log(), f"the log says {mark!r}")
        begin_or_end = r" postfix/smtpd\[(\d+)\]: (connect|disconnect|panic|fatal)\b"

        def over() -> bool:
            last = dict(re.findall(begin_or_end, self._log()))
            return "connect" not in last.values()

        wait_until(over, "all SMTP sessions are over")

    def queue_id_of(self, token: str) -> str:
        """Return the queue id of the message with this token in its Message-ID, from the log."""
        mark = re.compile(rf": (\w+): message-id=<{token}@")
        wait_until(lambda: mark.search(self._log()), f"the log has a message-id with {token}")
        match = mark.search(self._log())
        assert match
        return match.group(1)

    def holds(self, token: str) -> bool:
        text = token.encode()
        queued = [
            path
            for name in ("maildrop", "incoming", "active", "deferred", "hold")
            for path in (self.base / "queue" / name).glob("**/*")
            if path.is_file()
        ]
        # The queue first: a message that leaves it meanwhile is in a mailbox by then.
        for path in queued + self._maildir_files():
            try:
                if text in path.read_bytes():
                    return True
            except FileNotFoundError:
                continue
        return False

    def clear(self) -> None:
        for path in self._maildir_files():
            path.unlink()
        for path in (self.base / "queue" / "hold").glob("**/*"):
            if path.is_file():
                path.unlink()

    # -- the other way in --------------------------------------------------------------------------

    def submit(self, sender: str, recipients: list[str], message: bytes) -> None:
        """Hand in a message with sendmail(1), as a local program does."""
        program = _program("sendmail")
        assert program is not None
        subprocess.run(
            [program, "-C", str(self.config), "-i", "-f", sender, "--", *recipients],
            check=True,
            input=message,
            timeout=30,
        )
