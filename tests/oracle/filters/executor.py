"""Has a pool of threads do the checks, and waits for them at the end; one talks to the context."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys
from concurrent.futures import ThreadPoolExecutor

import Milter

pool = None


class Checks(Milter.Base):
    def envfrom(self, f, *p):
        global pool
        if pool is None:
            pool = ThreadPoolExecutor(max_workers=3)
        self.bodies = []
        self.f = f
        return Milter.CONTINUE

    def body(self, chunk):
        self.bodies.append(pool.submit(len, chunk))
        return Milter.CONTINUE

    def eom(self):
        size = sum(f.result(10) for f in self.bodies)
        queue_id = pool.submit(self.getsymval, "i").result(10)
        pool.submit(self.addheader, "X-Size", "%d %s" % (size, queue_id)).result(10)
        return Milter.CONTINUE


Milter.factory = Checks
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("checks", sys.argv[1])
