"""A plan as text: the potential, its heads and data, the stages, and stages × tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from stages.messages import describe_head, table
from stages.plan import (
    GROUPS,
    LINEAR,
    WITH_RATE,
    Coefficients,
    DataFile,
    HeadPlan,
    ModelPlan,
    Plan,
    Stage,
    TaskStage,
)

OF_STAGE = ("stage", "epochs", "optimizer", "lr", "schedule")
OF_TASK = ("loss", "energy", "forces", "stress")
LAST = ("moves", "more")
OF_TASKS = ("stage", "task", "steps", "loss", "coefficients", "more")
SHORT = {"per_atom": "energy per √atom", "total": "energy total"}


def describe_plan(plan: Plan) -> str:
    """A plan as tables for the terminal."""
    lines = [_model_line(plan.model), *_heads(plan.model), ""]
    for task, data in plan.data.items():
        files = f"{_files(data.files)}; test: {_files(data.test_files)}"
        lines.append(f"data{'' if task == 'default' else f' of {task}'}: {files}")
    run = plan.run
    lines.append(
        f"run: seed {run.seed}, {run.dtype}, {_batches(plan)}, "
        f"{run.memory:g} GiB for neighbour pairs"
    )
    lines += ["", stage_table(plan.stages)]
    if _several(plan.stages):
        lines += ["", task_table(plan.stages)]
    total = sum(one.epochs for one in plan.stages)
    return "\n".join([*lines, f"{total} epochs in {len(plan.stages)} stages"])


def stage_table(stages: Iterable[Stage]) -> str:
    """Stages as a table; a single task stands in it too."""
    stages = list(stages)
    if _several(stages):
        rows = [[*_stage(one), *_last(one)] for one in stages]
        return table((*OF_STAGE, *LAST), *rows)
    rows = [
        [*_stage(one), *_single(task), *_last(one, task)]
        for one in stages
        for task in one.tasks.values()
    ]
    return table((*OF_STAGE, *OF_TASK, *LAST), *rows)


def task_table(stages: Iterable[Stage]) -> str:
    """Stages × tasks as a table."""
    rows = []
    for one in stages:
        for name, task in one.tasks.items():
            first = one.name if name == next(iter(one.tasks)) else ""
            rows.append([first, name, *_cells(one, name, task)])
    return table(OF_TASKS, *rows)


def _several(stages: Iterable[Stage]) -> bool:
    """Whether tasks need a table of their own: several, or one that predicts no energy."""
    tasks = next(iter(stages)).tasks
    return len(tasks) > 1 or not _energies(next(iter(tasks.values())))


def _energies(task: TaskStage) -> bool:
    terms = {"energy", "forces", "stress"}
    return task.coefficients is None or set(task.coefficients) <= terms


# --- the potential --------------------------------------------------------------------------------


def _model_line(model: ModelPlan) -> str:
    start = model.reload_model or model.pretrained_model
    if start:
        return f"model: starts from {start}"
    from mtp.basis.graphs import MomentSpec
    from mtp.basis.moment_table import moment_table

    costs = (model.moment_init_cost, model.moment_mu_cost, model.moment_nu_cost)
    basis = moment_table(MomentSpec(model.levmax, *costs))
    embedding = ""
    if model.embedding is not None:
        widths = " → ".join(map(str, model.embedding.neuron))
        embedding = f", made from a type embedding (species → {widths})"
    return (
        f"model: rc {model.rc:g} Å, level {model.levmax}, costs {'/'.join(map(str, costs))} "
        f"(init/μ/ν); invariants {len(basis.scalars)}, moment components {len(basis.basic)}, "
        f"radial functions {basis.n_radial} × {model.n_q} polynomials{embedding}"
    )


def _heads(model: ModelPlan) -> Iterable[str]:
    loads = bool(model.reload_model or model.pretrained_model)
    if len(model.heads) == 1 and not (loads and model.heads[0].source):
        if not loads:
            yield f"head {model.heads[0].name}: {describe_head(asdict(model.heads[0]))}"
        return
    rows = [(head.name, describe_head(asdict(head)), *_source(head, loads)) for head in model.heads]
    yield ""
    yield table(("head", "predicts", *(("starts from",) if loads else ())), *rows)


def _source(head: HeadPlan, loads: bool) -> tuple[str, ...]:
    """Where a head starts, if anything is loaded."""
    if not loads:
        return ()
    if head.source in (None, "RANDOM"):
        return ("new",)
    shifts = ", shifts adjusted" if head.adjust else ", shifts kept"
    return (f"head {head.source}{shifts}",)


def _files(files: tuple[DataFile, ...]) -> str:
    names = [f.path if f.weight == 1 else f"{f.path} (weight {f.weight:g})" for f in files]
    return ", ".join(names) or "none"


def _batches(plan: Plan) -> str:
    if not any(stage.optimizer in WITH_RATE for stage in plan.stages):
        return "full batches"
    drawn = ", tasks drawn at random" if plan.run.task_draw == "random" else ""
    return f"batches of {plan.run.batch_size} structures{drawn}"


# --- the stages -----------------------------------------------------------------------------------


def _stage(stage: Stage) -> list[str]:
    rate = f"{stage.lr:g}" if stage.optimizer in WITH_RATE else "–"
    return [stage.name, str(stage.epochs), stage.optimizer, rate, _schedule(stage)]


def _schedule(stage: Stage) -> str:
    schedule = stage.schedule
    if stage.optimizer not in WITH_RATE:
        return "–"
    if schedule.kind == "step":
        return f"×{schedule.gamma:g} every {schedule.step_size}"
    if schedule.kind == "linear_warmup":
        return f"up in {schedule.step_size}, to ×{schedule.min_ratio:g}"
    return "constant"


def _last(stage: Stage, task: TaskStage | None = None) -> list[str]:
    more = () if task is None else _more(task)
    return [moves(stage.trainable), ", ".join((*_options(stage), *more))]


def moves(trainable: Sequence[str]) -> str:
    """What a stage moves, in words."""
    if set(trainable) >= set(GROUPS):
        return "all"
    if set(trainable) == {*GROUPS, LINEAR} - {"readout"}:
        return "all but networks"
    return "+".join(trainable)


def _options(stage: Stage) -> Iterable[str]:
    if stage.weight_decay:
        yield f"decay {stage.weight_decay:g}"
    if stage.gradient_clip is not None:
        yield f"clip {stage.gradient_clip:g}"
    if stage.ema is not None:
        yield f"ema {stage.ema:g}"
    if stage.pull:
        yield f"pull {stage.pull:g}"
    if stage.optimizer == "lstsq":
        yield f"ridge {stage.ridge:g}"


# --- stages × tasks -------------------------------------------------------------------------------


def _single(task: TaskStage) -> list[str]:
    """Loss and coefficients of a single energy task."""
    if task.coefficients is None:
        return [task.loss, *["from log"] * 3]
    return [task.loss, *(_value(task, term) for term in ("energy", "forces", "stress"))]


def _value(task: TaskStage, term: str) -> str:
    """A coefficient, or its start and limit."""
    found = (task.prefactors or {}).get(term)
    if found is None:
        return f"{task.coefficients[term]:g}" if term in task.coefficients else "–"
    return f"{found.start:g}" if found.start == found.limit else f"{found.start:g}→{found.limit:g}"


def _cells(stage: Stage, name: str, task: TaskStage) -> list[str]:
    if task.weight == 0:
        return ["idle", "–", "–", ""]
    return [
        _steps(stage, task),
        task.loss,
        _coefficients(stage, name, task),
        ", ".join((*_more(task), *_target(stage, name))),
    ]


def _steps(stage: Stage, task: TaskStage) -> str:
    """A task's part in a stage."""
    if task.epochs is not None:
        return f"{task.epochs:g} passes"
    if task.weight is None:
        return "as batches"
    return f"{100 * task.weight / sum(t.weight or 0 for t in stage.tasks.values()):.3g} %"


def _coefficients(stage: Stage, name: str, task: TaskStage) -> str:
    if task.coefficients is None:
        shares = (stage.calibration_target or {}).get(name)
        return f"from log, loss as {_parts(shares)}" if shares else "from log"
    values = [(term, value) for term, value in task.coefficients.items() if value]
    return ", ".join(
        f"{'virial' if task.virial and term == 'stress' else term} {_value(task, term)}"
        for term, _ in values
    )


def _parts(shares: Coefficients) -> str:
    """Shares in percent."""
    whole = sum(shares.values())
    return ", ".join(f"{term} {100 * part / whole:.3g} %" for term, part in shares.items())


def _more(task: TaskStage) -> Iterable[str]:
    if task.energy_weighting in SHORT:
        yield SHORT[task.energy_weighting]
    if task.lr is not None:
        yield f"lr {task.lr:g}"
    if task.loss == "huber" and task.huber_delta:
        yield "δ " + ", ".join(f"{term} {value:g}" for term, value in task.huber_delta.items())


def _target(stage: Stage, name: str) -> Iterable[str]:
    if stage.task_target:
        whole = sum(stage.task_target.values())
        yield f"{100 * stage.task_target.get(name, 0.0) / whole:.3g} % of the loss"
