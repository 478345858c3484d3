# PYTHON_ARGCOMPLETE_OK: a mark for the shell, see Milter._cli
"""``python -m Milter``: the command line, which is in Milter._cli."""

from __future__ import annotations

import sys

try:
    from Milter._cli import main
except KeyboardInterrupt:
    # Before main() could see to it: no traceback, either.
    print("milterctl: interrupted", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
