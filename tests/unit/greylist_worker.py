"""A process that checks: run by the tests of greylists, several at a time.

    python greylist_worker.py URL COUNT TRIPLE...

Goes through the triples in turn until COUNT checks are done (0: never), telling each on its
standard output, one line of triple and answer, once check() has returned. The clock stands still.
Starts when its standard input ends.
"""

import os
import sys

from Milter import greylist

NOW = 1_700_000_000.0
PATIENCE = 60.0  # seconds to wait for the others


def main() -> None:
    """Check."""
    url, count, triples = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    sys.stdin.read()
    done = 0
    with greylist.open(url, timeout=PATIENCE, clock=lambda: NOW) as store:
        while done < count or not count:
            triple = triples[done % len(triples)]
            answer = store.check("192.0.2.1", triple, "r@y")
            os.write(1, f"{triple} {answer}\n".encode())
            done += 1


main()
