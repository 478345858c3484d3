"""What a long-running command needs of the system: log, pidfile, and whose process it is."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import grp
import json
import logging
import os
import pwd
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional

from Milter._cli.output import Failure

# -- log -----------------------------------------------------------------------------------------


class _JsonLines(logging.Formatter):
    """One JSON object for each record, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        values = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values)


def log_to_stderr(level: str, form: str) -> None:
    """Sends the log of all of the process to standard error.

    Args:
        level: the lowest that is of interest, as ``info``.
        form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])


# -- users ---------------------------------------------------------------------------------------


class Identity(NamedTuple):
    """Whose a process is to be; None: as it is."""

    name: Optional[str] = None
    """The user's, for the groups that he is in."""
    uid: Optional[int] = None
    gid: Optional[int] = None


def identity(user: Optional[str], group: Optional[str]) -> Identity:
    """Looks a user and a group up, names or ids; without a group it is the user's own.

    Raises:
        Failure: there is none.
    """
    name = uid = gid = None
    if user is not None:
        try:
            known = pwd.getpwuid(int(user)) if _is_id(user) else pwd.getpwnam(user)
        except (KeyError, ValueError):
            raise Failure(f"there is no user {user}") from None
        name, uid, gid = known.pw_name, known.pw_uid, known.pw_gid
    if group is not None:
        try:
            gid = (grp.getgrgid(int(group)) if _is_id(group) else grp.getgrnam(group)).gr_gid
        except (KeyError, ValueError):
            raise Failure(f"there is no group {group}") from None
    return Identity(name, uid, gid)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit()


def become(whose: Identity) -> None:
    """Makes the process that user's and group's, for good.

    Raises:
        Failure: it may not.
    """
    try:
        if whose.gid is not None and whose.uid is None and whose.gid != os.getgid():
            os.setgroups([])
        if whose.gid is not None and whose.gid != os.getgid():
            os.setgid(whose.gid)
        if whose.uid is not None and whose.uid != os.getuid():
            assert whose.name is not None
            os.initgroups(whose.name, os.getgid())
            os.setuid(whose.uid)
    except OSError as error:
        raise Failure(f"cannot change user or group: {error.strerror}") from None


# -- pidfile -------------------------------------------------------------------------------------


def _locked(path: str) -> int:
    """Opens the file, and returns its descriptor with the lock."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Failure(f"pidfile {path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            whose = f"process {holder}" if holder else "another process"
            raise Failure(f"pidfile {path}: {whose} runs") from None
        try:
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except OSError:
            pass
        os.close(descriptor)  # another process has just removed it


@contextlib.contextmanager
def pidfile(path: Optional[str]) -> Iterator[Callable[[], None]]:
    """Holds a pidfile while the block runs, and removes it then.

    A lock on the file, not its being there, says that it is in use: a process that was killed
    leaves the file, but no lock.

    Args:
        path: of the file; None for none.

    Yields:
        What writes the id of the process that calls it.

    Raises:
        Failure: another process holds it, or it cannot be written.
    """
    if path is None:
        yield lambda: None
        return
    descriptor = _locked(path)
    creator = os.getpid()
    writer: Optional[int] = None

    def write() -> None:
        nonlocal writer
        writer = os.getpid()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % writer, 0)

    try:
        yield write
    except SystemExit:
        # So ends the first process of a program that has become a daemon; the file is the other's.
        creator = 0
        raise
    finally:
        # Not by a process that was forked meanwhile and ends the same way.
        if os.getpid() in (creator, writer):
            try:
                os.unlink(path)
            except OSError:
                # The directory is not ours any more; an empty file names no process.
                os.ftruncate(descriptor, 0)
        os.close(descriptor)
