"""A SQLite handle made in connect and used in eom and close."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sqlite3
import sys

import Milter


class Log(Milter.Base):
    def connect(self, host, family, addr):
        self.db = sqlite3.connect("log.db", check_same_thread=False)
        self.db.execute("create table if not exists mail (sender text, rcpt text, host text)")
        self.host = host
        return Milter.CONTINUE

    def envfrom(self, f, *p):
        self.f = f
        self.r = []
        return Milter.CONTINUE

    def envrcpt(self, t, *p):
        self.r.append(t)
        return Milter.CONTINUE

    def eom(self):
        for r in self.r:
            self.db.execute("insert into mail values (?, ?, ?)", (self.f, r, self.host))
        self.db.commit()
        n = self.db.execute("select count(*) from mail where sender = ?", (self.f,)).fetchone()[0]
        self.addheader("X-Count", str(n))
        return Milter.CONTINUE

    def close(self):
        if hasattr(self, "db"):
            print(self.db.execute("select sender, rcpt from mail").fetchall())
            self.db.close()
        return Milter.CONTINUE


Milter.factory = Log
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("sqlitelog", sys.argv[1])
