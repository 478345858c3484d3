"""Logs with logging, from close too; looks at versions and at names that leak."""

# Written as legacy filters are, in their style:
# ruff: noqa

import logging
import sys
import time

import Milter

logging.basicConfig(
    stream=sys.stdout, level=logging.DEBUG, format="%(name)s %(levelname)s %(message)s"
)
log = logging.getLogger("filter")
log.info("version %s", type(Milter.__version__).__name__)
log.info("%s %s", hasattr(Milter, "getdiag"), Milter.getversion() >= (1, 0, 1))
Milter.setdbg(0)


class Logs(Milter.Base):
    def __init__(self):
        self.t = time.time()
        self.n = 0

    def envfrom(self, f, *p):
        self.n += 1
        log.info("mail %d", self.n)
        return Milter.CONTINUE

    def eom(self):
        log.warning("eom %s", self.getsymval("{auth_type}"))
        return Milter.CONTINUE

    def abort(self):
        log.info("abort")
        return Milter.CONTINUE

    def close(self):
        log.info("close after %d mails, %s", self.n, time.time() - self.t < 60)
        return Milter.CONTINUE


Milter.factory = Logs
Milter.runmilter("logs", sys.argv[1])
logging.shutdown()
