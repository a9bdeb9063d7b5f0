"""The `treering` command of this package: the same program as the one that cargo builds."""

from __future__ import annotations

import signal
import sys

from . import importing
from ._native import command_line


def main() -> int:
    # Rust sets a handler of its own where it can stop in good order; elsewhere Ctrl-C just ends the program.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if importing.command(sys.argv) is not None:
        return importing.main(sys.argv)
    return command_line(sys.argv)
