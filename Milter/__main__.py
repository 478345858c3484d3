# PYTHON_ARGCOMPLETE_OK: a mark for the shell, see Milter._cli
"""``python -m Milter``: the command line, which is in Milter._cli."""

from __future__ import annotations

import sys

from Milter._cli import main

if __name__ == "__main__":
    sys.exit(main())
