"""What the command line says: plans and model files as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from stages.plan import WITH_RATE, DataFile, ModelPlan, Plan, Stage

HEADINGS = (
    "stage",
    "epochs",
    "optimizer",
    "lr",
    "schedule",
    "loss",
    "energy",
    "forces",
    "stress",
    "moves",
    "more",
)


def describe_plan(plan: Plan) -> str:
    """A plan as a table for the terminal."""
    lines = [_model_line(plan.model), ""]
    for task, data in plan.data.items():
        files = f"{_files(data.files)}; test: {_files(data.test_files)}"
        lines.append(f"data{'' if task == 'default' else f' of {task}'}: {files}")
    run = plan.run
    lines.append(
        f"run: seed {run.seed}, {run.dtype}, {_batches(plan)}, "
        f"{run.memory:g} GiB for neighbour pairs"
    )
    lines += ["", stage_table(plan.stages)]
    total = sum(one.epochs for one in plan.stages)
    return "\n".join([*lines, f"{total} epochs in {len(plan.stages)} stages"])


def _batches(plan: Plan) -> str:
    if any(stage.optimizer in WITH_RATE for stage in plan.stages):
        return f"batches of {plan.run.batch_size} structures"
    return "full batches"


def stage_table(stages: Iterable[Stage]) -> str:
    """Stages as a table, one row for each task."""
    return table(HEADINGS, *(_stage_row(one, task) for one in stages for task in one.tasks))


def table(*rows: Iterable[str]) -> str:
    """Rows of text in left-aligned columns."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def describe_head(head: dict[str, Any]) -> str:
    """Kind and readout of a head (HeadSpec as plain data)."""
    widths = " × ".join(map(str, head["hidden"]))
    readout = f"neural network {widths}, {head['activation']}" if widths else "linear"
    shared = [name for name in head["shared"] if name]
    return f"{head['kind']}, {readout}{', shares ' + ', '.join(shared) if shared else ''}"


def describe_model(content: dict[str, Any]) -> str:
    """What is inside a model file (mtp.model_file.describe), for the terminal."""
    spec, basis = content["spec"], content["basis"]
    costs = "/".join(str(spec[f"moment_{name}_cost"]) for name in ("init", "mu", "nu"))
    rows = [
        ("elements", " ".join(content["elements"])),
        ("basis", f"level {spec['levmax']}, costs {costs} (init/μ/ν), {_counts(basis)}"),
        ("distances", f"{spec['min_dist']:.4g} to {spec['cutoff']:g} Å"),
        *(("head", f"{head['name']}: {describe_head(head)}") for head in spec["heads"]),
        ("file", f"format {content['format']}, {content['program']} {content['version']}"),
        *_provenance_rows(content["provenance"]),
    ]
    tensors = [
        (name, entry["dtype"], " × ".join(map(str, entry["shape"])) or "scalar")
        for name, entry in content["tensors"].items()
    ]
    return f"{table(*rows)}\n\n{table(('tensor', 'type', 'shape'), *tensors)}"


def _provenance_rows(provenance: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Where a model comes from, as far as its file says."""
    if "stage" in provenance:
        yield "from", f"{provenance['stage']}, epoch {provenance['epoch']}"
    for stage in provenance.get("plan", {}).get("stages", ()):
        rate = f", lr {stage['lr']:g}" if stage["optimizer"] in WITH_RATE else ""
        yield stage["name"], f"{stage['epochs']} epochs, {stage['optimizer']}{rate}"
    for name, digest in provenance.get("data", {}).items():
        yield "data", f"{digest[:12]} {name}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items())


def _model_line(model: ModelPlan) -> str:
    start = model.reload_model or model.pretrained_model
    if start:
        return f"model: starts from {start}"
    from mtp.basis.graphs import MomentSpec
    from mtp.basis.moment_table import moment_table

    costs = (model.moment_init_cost, model.moment_mu_cost, model.moment_nu_cost)
    basis = moment_table(MomentSpec(model.levmax, *costs))
    size = f"radial functions {basis.n_radial} × {model.n_q} polynomials"
    heads = [f"head {head.name}: {describe_head(asdict(head))}" for head in model.heads]
    return "\n".join(
        [
            f"model: rc {model.rc:g} Å, level {model.levmax}, costs {'/'.join(map(str, costs))} "
            f"(init/μ/ν); invariants {len(basis.scalars)}, moment components "
            f"{len(basis.basic)}, {size}",
            *heads,
        ]
    )


def _files(files: tuple[DataFile, ...]) -> str:
    names = [f.path if f.weight == 1 else f"{f.path} (weight {f.weight:g})" for f in files]
    return ", ".join(names) or "none"


def _stage_row(stage: Stage, task: str) -> list[str]:
    wanted = stage.tasks[task]
    weights = wanted.coefficients
    coefficients = (
        [
            f"{weights[term]:g}" if term in weights else "–"
            for term in ("energy", "forces", "stress")
        ]
        if weights
        else ["from log"] * 3
    )
    return [
        stage.name if task == "default" else f"{stage.name} {task}",
        str(stage.epochs),
        stage.optimizer,
        f"{stage.lr:g}" if stage.optimizer in WITH_RATE else "–",
        _schedule(stage),
        wanted.loss,
        *coefficients,
        "+".join(stage.trainable),
        ", ".join(_more(stage, wanted.energy_weighting)),
    ]


def _schedule(stage: Stage) -> str:
    schedule = stage.schedule
    if stage.optimizer not in WITH_RATE:
        return "–"
    if schedule.kind == "step":
        return f"×{schedule.gamma:g} every {schedule.step_size}"
    if schedule.kind == "linear_warmup":
        return f"up in {schedule.step_size}, to ×{schedule.min_ratio:g}"
    return "constant"


def _more(stage: Stage, weighting: str) -> Iterable[str]:
    if weighting != "per_atom_squared":
        yield f"energy {weighting}"
    if stage.weight_decay:
        yield f"decay {stage.weight_decay:g}"
    if stage.gradient_clip is not None:
        yield f"clip {stage.gradient_clip:g}"
    if stage.ema is not None:
        yield f"ema {stage.ema:g}"
    if stage.optimizer == "lstsq":
        yield f"ridge {stage.ridge:g}"
