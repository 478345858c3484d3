"""Replace a file as passwd(5) is: lock it, write the new one, rename it into place.

The lock is a file beside it, made so that only one process can, which becomes the new file (API
spec 3.8). Readers see the old file or the new one, never a half.
"""

from __future__ import annotations

import os
import stat
import time
from typing import IO, Optional

__all__ = ["PLock"]


class PLock:
    """The lock on the file *basename* (a path). One object is for one thread.

    Attributes: `basename`; `fp`, the new file while the lock is held, else None; `lockname`, the
    lock's path, once there was one. A holder that dies leaves its lock behind: whether it lives
    cannot be told from here, since programs that know nothing of this one lock in the same way.
    Remove the file by hand.
    """

    lockname: str

    def __init__(self, basename: str) -> None:
        """Make an object that does not hold the lock yet."""
        self.basename = basename
        self.fp: Optional[IO[str]] = None

    def lock(
        self, lockname: Optional[str] = None, mode: int = 0o660, strict_perms: bool = False
    ) -> IO[str]:
        """Take the lock and return the new file, a text file open for writing.

        *lockname*: the lock's path, by default that of the file with ``.lock``. *mode*: permissions
        of the new file; those of the present one are added, those for others to write are never
        given. It gets the present one's group. *strict_perms*: fail if it cannot.

        Raises FileExistsError if the lock is held, OSError if it cannot be made. A lock that this
        object already holds is dropped first.
        """
        self.unlock()
        if lockname is None:
            lockname = self.basename + ".lock"
        try:
            present: Optional[os.stat_result] = os.stat(self.basename)
        except FileNotFoundError:
            if strict_perms:
                raise
            present = None
        if present is not None:
            mode |= stat.S_IMODE(present.st_mode)
        handle = os.open(lockname, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.fp = os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape")
        self.lockname = lockname
        try:
            if present is not None:
                try:
                    os.fchown(handle, -1, present.st_gid)
                except OSError:
                    if strict_perms:
                        raise
            # After the group, which may take bits away; not by the umask, which is the whole
            # process's.
            os.fchmod(handle, mode & ~stat.S_IWOTH)
        except OSError:
            self.unlock()
            raise
        return self.fp

    def wlock(self, lockname: Optional[str] = None) -> IO[str]:
        """Take the lock like `lock`, waiting for it: it is tried every two seconds, without end.

        Raises OSError if the lock cannot be made for another reason than that somebody holds it.
        """
        while True:
            try:
                return self.lock(lockname)
            except FileExistsError:
                time.sleep(2)

    def commit(self, backname: Optional[str] = None) -> None:
        """Put the new file in place, which ends the lock.

        *backname*: a path at which the old one stays, if there is an old one. What was written is
        on the disk before it replaces anything. Raises OSError if the lock is not held; OSError,
        with the lock still held, if the file cannot be written or put in place.
        """
        if self.fp is None:
            raise OSError("File not locked")
        self.fp.flush()
        os.fsync(self.fp.fileno())
        if backname:
            self._keep_old(backname)
        os.rename(self.lockname, self.basename)
        self.fp.close()
        self.fp = None

    def _keep_old(self, backname: str) -> None:
        try:
            os.unlink(backname)
        except FileNotFoundError:
            pass
        try:
            os.link(self.basename, backname)
        except FileNotFoundError:
            pass  # nothing to keep

    def unlock(self) -> None:
        """Drop the lock and what was written; nothing happens if it is not held."""
        if self.fp is None:
            return
        fp, self.fp = self.fp, None
        try:
            os.unlink(self.lockname)
        except FileNotFoundError:
            pass
        # After the name is gone: what could not be written is not to keep the lock.
        try:
            fp.close()
        except OSError:
            pass
