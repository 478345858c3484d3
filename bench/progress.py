"""What goes on, for who watches: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts steps towards a total that is known."""

    WIDTH = 30

    def __init__(self, total: int) -> None:
        """Takes how many steps there will be."""
        self._total = total
        self._done = 0
        self._begun = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def step(self, text: str) -> None:
        """Says what is done now, before it is."""
        spent = time.monotonic() - self._begun
        left = spent / self._done * (self._total - self._done) if self._done else 0
        if self._terminal:
            filled = self.WIDTH * self._done // self._total
            bar = "#" * filled + "-" * (self.WIDTH - filled)
            remaining = f"{left // 60:.0f}:{left % 60:02.0f} left" if self._done else ""
            # Erases to the end of the line, as the line before may have been longer.
            sys.stderr.write(f"\r[{bar}] {self._done}/{self._total} {remaining:10} {text}\x1b[K")
            sys.stderr.flush()
        self._done += 1

    def say(self, text: str) -> None:
        """Prints a line of its own."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
        print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Takes the bar away."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
