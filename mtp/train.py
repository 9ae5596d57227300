"""``python -m mtp.train``: the command mtp-train as a module, for ``torchrun -m mtp.train``."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points


def main() -> int:
    """Run the installed command; this package knows nothing of training itself."""
    (command,) = entry_points(group="console_scripts", name="mtp-train")
    return command.load()()


if __name__ == "__main__":
    sys.exit(main())
