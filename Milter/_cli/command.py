"""What a command of the command line is."""

from __future__ import annotations

import argparse
from typing import Callable, NamedTuple


class Command(NamedTuple):
    """A command, as the table COMMANDS of Milter._cli has it."""

    name: str
    help: str
    """One line for the list of commands, lower case and without a full stop."""
    epilog: str
    """What stands below the arguments: examples and the exit status."""
    add: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments, and sets the usage; no argument may have the destination ``command``."""
    run: Callable[[argparse.Namespace], int]
    """Does it, and returns the exit status. It may raise Failure, MilterError and OSError."""
    takes_rest: bool = False
    """What stands behind ``--`` is not for the command itself; its run finds it in ``rest``."""
