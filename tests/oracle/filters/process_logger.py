"""A process of its own writes the log, fed by a queue, both made before runmilter."""

# Written as legacy filters are, in their style:
# ruff: noqa

import multiprocessing
import sys

import Milter


def writer(queue):
    with open("process.log", "w") as out:
        for line in iter(queue.get, None):
            out.write(line + "\n")


def main():
    ctx = multiprocessing.get_context("fork")
    queue = ctx.SimpleQueue()
    process = ctx.Process(target=writer, args=(queue,))
    process.start()

    class Logging(Milter.Base):
        def connect(self, host, family, addr):
            queue.put("connect %s %s" % (host, family))
            return Milter.CONTINUE

        def envfrom(self, f, *p):
            queue.put("from " + f)
            return Milter.CONTINUE

        def eom(self):
            queue.put("eom " + str(self.getsymval("i")))
            return Milter.ACCEPT

        def close(self):
            queue.put("close")
            return Milter.CONTINUE

    Milter.factory = Logging
    Milter.runmilter("plog", sys.argv[1])
    queue.put(None)
    process.join(10)
    print(open("process.log").read(), process.exitcode)


if __name__ == "__main__":
    main()
