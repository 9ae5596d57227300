"""The tables of speed and agreement: content of a result file → table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.cells import multiple, number, rows_of, size_name

KIB, GIB = 1024, 2**30


def training(content: dict[str, Any]) -> str:
    """Loss and full gradient."""
    heading = (
        *("level", "float64", "float32", "MOTEP", "MLIP-3, carried over", "float64 vs MOTEP"),
        *("vs MLIP-3", "float32 vs float64", "one evaluation of the set"),
    )
    rows = []
    for row in content["results"]:
        times, ratios = row["times"], row["ratios"]
        rows.append(
            (
                str(row["level"]),
                *(number(times[k]["cpu_us_per_atom"]) for k in ("float64", "float32", "motep")),
                number(row["mlip3"]["gradient_us_per_atom"]),
                *(multiple(ratios[f"{name}/float64"]) for name in ("motep", "mlip3")),
                f"{ratios['float64/float32']:.2f} ×",
                f"{number(1e3 * row['seconds_per_evaluation']['float64'])} ms",
            )
        )
    return rows_of(heading, rows)


def calculators(content: dict[str, Any]) -> str:
    """Energy, forces and stress through ASE."""
    heading = (
        *("model", "species", "float64", "of it kernel", "of it ASE", "of it our own"),
        *("float32", "MOTEP", "MLIP-3, carried over", "float64 vs MOTEP", "vs MLIP-3"),
        "float32 vs float64",
    )
    rows = []
    for row in content["results"]:
        times = {name: time["cpu_us_per_atom"] for name, time in row["times"].items()}
        own = row["overhead"]
        rows.append(
            (
                size_name(row["size"]),
                str(row["species"]),
                *(number(times[name]) for name in ("float64", "kernel", "nothing")),
                f"{number(own['us_per_atom'])} ({100 * own['share']:.0f} %)",
                *(number(times.get(name)) for name in ("float32", "motep", "mlip3")),
                *(multiple(row["ratios"].get(f"{name}/float64")) for name in ("motep", "mlip3")),
                f"{row['ratios']['float64/float32']:.2f} ×",
            )
        )
    return rows_of(heading, rows)


def peak(content: dict[str, Any]) -> str:
    """The kernel's two passes and their share of the core's peak."""
    names = [
        f"{task} {p}" for p in ("float64", "float32") for task in ("energy+forces", "gradient")
    ]
    rows = []
    for row in content["results"]:
        cells = [
            f"{number(row['passes'][n]['cpu_us_per_atom'])} ({share(row['passes'][n])} %)"
            for n in names
        ]
        rows.append((size_name(row["size"]), *cells))
    rates = [f"{content['peak'][p] / 1e9:.1f} in {p}" for p in ("float64", "float32")]
    return (
        rows_of(("model", *(f"{n.replace('+', ' + ')} pass" for n in names)), rows)
        + f"\nPeak, billions of multiply-adds per second: {', '.join(rates)}.\n"
    )


def share(row: dict[str, Any]) -> str:
    """Share of the peak in per cent."""
    return f"{100 * row['share_of_peak']:.0f}"


def lammps(content: dict[str, Any]) -> str:
    """The pair style in LAMMPS, and Stillinger-Weber of the same rounds."""
    heading = ("model", "atoms", "ranks", *PRECISIONS, "`pair_style sw`")
    return rows_of(heading, [(*labels, *times) for labels, times, _ in _in_lammps(content)])


def lammps_peer(content: dict[str, Any]) -> str:
    """The same with the peer's pair style, where that ran in the same rounds on one rank."""
    heading = (
        *("model", "atoms", *PRECISIONS, "`pair_style mtp`", "`pair_style sw`"),
        *(f"`mtp` vs {name}" for name in PRECISIONS),
    )
    rows = [
        (
            *(*labels[:2], *times[:2], number(here["peer"]["cpu_us_per_atom_step"]), times[2]),
            *(multiple(here[name]["peer_over_this"]) for name in PRECISIONS),
        )
        for labels, times, here in _in_lammps(content)
        if "peer" in here and labels[2] == "1"
    ]
    return rows_of(heading, rows)


PRECISIONS = ("float64", "float32")


def _in_lammps(content: dict[str, Any]) -> Iterator[tuple[tuple, tuple, dict[str, Any]]]:
    """Model, atoms and ranks; times in both precisions and of sw; rows by kind, for each line."""
    found = {(row["atoms"], row["ranks"], row["style"]): row for row in content["results"]}
    for atoms, ranks, style in found:
        size, _, kind = style.partition(" ")
        if kind != PRECISIONS[0]:
            continue
        kinds = {name: f"{size} {name}" for name in (*PRECISIONS, "peer")} | {"sw": "sw"}
        names = {k: name for k, name in kinds.items() if (atoms, ranks, name) in found}
        here = {k: found[atoms, ranks, name] for k, name in names.items()}
        column = "cpu_us_per_atom_step" if ranks == 1 else "wall_us_per_atom_step"
        labels = (size_name(size), f"{atoms:,}".replace(",", " "), str(ranks))
        yield labels, tuple(number(here[k][column]) for k in (*PRECISIONS, "sw")), here


def agreement(content: dict[str, Any]) -> str:
    """Largest relative difference of energy, forces and stress for the same potential."""
    names = list(content["results"][0]["differences"])
    rows = [
        (
            *(size_name(row["size"]), str(row["species"])),
            *(f"{max(row['differences'][name].values()):.0e}" for name in names),
        )
        for row in content["results"]
    ]
    return rows_of(("model", "species", *names), rows)


def scaling(content: dict[str, Any]) -> str:
    """Time and memory over the number of atoms."""
    heading = (
        *("model", "atoms", "1 thread", "2 threads", "speed-up", "with a new list"),
        *("memory per atom", "peak of the process"),
    )
    by_point: dict[tuple, dict[int, dict]] = {}
    for row in content["results"]:
        by_point.setdefault((row["size"], row["atoms"]), {})[row["threads"]] = row
    rows = []
    for (size, atoms), found in by_point.items():
        one, two = found[1], found.get(2)
        rows.append(
            (
                size_name(size),
                f"{atoms:,}".replace(",", " "),
                number(one["wall_us_per_atom"]),
                number(two and two["wall_us_per_atom"]),
                f"{one['wall_us_per_atom'] / two['wall_us_per_atom']:.2f} ×" if two else "–",
                number(one["first_us_per_atom"]),
                f"{number(one['bytes_per_atom'] / KIB)} KiB",
                f"{one['peak_bytes'] / GIB:.2f} GiB",
            )
        )
    return rows_of(heading, rows)
