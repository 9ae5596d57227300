"""Compile the passes of the CUDA kernel without a GPU; prints registers and spills of each."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

INTEGERS = ("n", "stride", "n_species", "n_radial", "n_tensors", "first", "last", "rows_each")
INTEGERS += ("chunk", "n_columns", *(f"{a}_{b}" for a in ("n", "reach", "loop") for b in "xyz"))
LONGS = ("start", "incoming", "incoming_start", "begin_of_structure")
INDICES = ("species", "count", "base", "neighbour", "all_species", "tensors", "row_of", "begin")
INDICES += ("left", "right", "incoming_count", "order", "bin_of", "bin_start", "image", "found")
LONGS += ("opposite",)
DOUBLES = ("forces", "virial", "sums", "values", "x", "cell", "limit_squared")
LISTS = ("find", "opposites", "displacements")

PAIRS = {"N_Q": 8, "MAX_RANK": 2, "A": 32, "K": 4}
VARIANTS = [
    ("moments", {**PAIRS, "DUAL": False, "C_DOT": False}),
    ("moments", {**PAIRS, "DUAL": True, "C_DOT": False}),
    ("moments", {**PAIRS, "DUAL": True, "C_DOT": False, "MAX_RANK": 6}),
    ("pull", {**PAIRS, "DUAL": False, "C_DOT": False}),
    ("pull", {**PAIRS, "DUAL": False, "C_DOT": False, "MAX_RANK": 6}),
    ("coefficients", {**PAIRS, "DUAL": True, "GROUP": 4}),
    ("contract", {"ADD": False, "DUAL": False, "UNROLL": 4, "A": 128}),
    ("contract", {"ADD": True, "DUAL": True, "UNROLL": 4, "A": 128}),
    ("direction", {"A": 16, "K": 8}),
    ("collect", {"A": 16, "K": 8}),
    ("by_species", {"B": 1024}),
    ("by_structure", {"B": 256}),
    *((name, {"PLACES": 64, "A": 128}) for name in LISTS),
]
"""Passes with what they are compiled for, of the small default table and of level 16."""


def compiled(name: str, constants: dict) -> tuple[int, int]:
    """Registers of a thread and bytes that did not fit into them, for compute capability 9.0."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mtp.kernels.gpu import lists, passes

    function = getattr(lists if name in LISTS else passes, name)
    signature = {
        argument: "constexpr" if argument in constants else _type(name, argument)
        for argument in function.arg_names
    }
    source = ASTSource(function, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(re.search(rf"{word}:(\d+)", said)[1]) for word in ("REG", "LOCAL"))


def _type(name: str, argument: str) -> str:
    if argument in INTEGERS:
        return "i32"
    if argument in LONGS or (name, argument) == ("by_structure", "begin"):
        return "*i64"
    if argument in INDICES:
        return "*i32"
    sums = argument == "out" and name.startswith("by_")
    if sums or (argument in DOUBLES and name != "contract"):
        return "*fp64"
    return "*fp32"


if __name__ == "__main__":
    for name, constants in VARIANTS:
        registers, local = compiled(name, constants)
        print(name, constants, f"registers {registers}, local {local}", flush=True)
