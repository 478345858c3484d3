"""One thread owns the database; callbacks ask it by a queue and wait on an event."""

# Written as legacy filters are, in their style:
# ruff: noqa

import queue
import sqlite3
import sys
import threading

import Milter

jobs = queue.Queue()


def database():
    db = sqlite3.connect(":memory:")
    db.execute("create table seen (who text primary key, n integer)")
    while True:
        who, answer = jobs.get()
        db.execute("insert or ignore into seen values (?, 0)", (who,))
        db.execute("update seen set n = n + 1 where who = ?", (who,))
        answer.append(db.execute("select n from seen where who = ?", (who,)).fetchone()[0])
        answer[0].set()


class Asking(Milter.Base):
    def envfrom(self, f, *p):
        answer = [threading.Event()]
        jobs.put((f, answer))
        answer[0].wait(10)
        self.n = answer[1]
        if self.n > 3:
            self.setreply("451", "4.7.1", "too often: %d" % self.n)
            return Milter.TEMPFAIL
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Seen", str(self.n))
        return Milter.CONTINUE


threading.Thread(target=database, daemon=True).start()
Milter.factory = Asking
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("dbthread", sys.argv[1])
