"""`python -m mtp.lammps`: where the plugin is, or the plugin for a LAMMPS of one's own."""

from __future__ import annotations

import argparse
import sys

from mtp.errors import InvalidInput
from mtp.lammps.plugin import build, find_plugin


def main() -> int:
    """Print the plugin's path; 2 when it cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m mtp.lammps",
        description="Compile the plugin of pair_style mtp/light and print its path. Without "
        "options: for the LAMMPS that is installed here.",
    )
    parser.add_argument("--lammps", metavar="SRC", help="source folder (or headers) of LAMMPS")
    parser.add_argument("--mpi", metavar="FOLDER", help="folder of mpi.h, unless CXX=mpicxx")
    parser.add_argument("--output", metavar="FILE", default="mtpplugin.so")
    options = parser.parse_args()
    try:
        if options.lammps is None:
            print(find_plugin())
        else:
            build(options.output, options.lammps, options.mpi)
            print(options.output)
    except InvalidInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
