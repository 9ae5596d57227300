"""Control file → Plan: what the file means, or every mistake in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mtp.errors import InvalidInput
from stages.control.conflicts import conflicts
from stages.control.defaults import TASK
from stages.control.findings import Context
from stages.control.heads import completed, data_plan, embedding_plan, head_plan, tasks_of
from stages.control.loaded import Loaded, load, several_heads
from stages.control.reader import Reading, beside
from stages.control.sequence import stage_sequence
from stages.plan import ModelPlan, Plan, RunPlan


def resolve(
    reading: Reading,
    *,
    data: Sequence[str] = (),
    test: Sequence[str] = (),
    strict: bool = False,
    need_data: bool = True,
) -> Plan:
    """The plan that a control file means.

    data, test: files of the command line, which replace those of the file.  strict: what is
    otherwise a warning is a mistake.  need_data: whether a plan without data is a mistake.
    Raises InvalidInput with every mistake of the file, one line each.
    """
    start, unreadable = _load(reading)
    loaded = start if reading.control.tasks.model_fields_set else None
    reading = replace(reading, control=completed(reading.control, loaded))
    errors, warnings, notes = conflicts(Context(reading, loaded, start, data, test, need_data))
    mistakes = [*reading.mistakes, *unreadable, *errors, *(warnings if strict else ())]
    if mistakes:
        raise InvalidInput(*mistakes)
    return Plan(
        model=_model(reading, loaded),
        data={
            name: data_plan(reading, name, loaded, data, test) for name in tasks_of(reading.control)
        },
        stages=stage_sequence(reading.control, start),
        run=_run(reading, strict),
        warnings=(*warnings, *notes),
    )


def _load(reading: Reading) -> tuple[Loaded | None, list[str]]:
    """The trained model that the run starts from, or the line that says why it cannot."""
    try:
        found = load(reading)
        single = not reading.control.tasks.model_fields_set
        if found and single and found.default is None and TASK not in found.heads:
            raise InvalidInput(several_heads(found.path.name, list(found.heads), TASK))
        return found, []
    except InvalidInput as error:
        where = "/common_config/reload_model"
        if not reading.control.common_config.reload_model:
            where = "/mtp_config/pretrained_model"
        return None, [reading.line(where, str(error))]


def _model(reading: Reading, loaded: Loaded | None) -> ModelPlan:
    control, reload = reading.control, reading.control.common_config.reload_model
    section = control.mtp_config
    heads = (head_plan(control, name, loaded) for name in tasks_of(control))
    return ModelPlan(
        rc=section.rc,
        levmax=section.levmax,
        n_q=section.n_q,
        moment_init_cost=section.moment_init_cost,
        moment_mu_cost=section.moment_mu_cost,
        moment_nu_cost=section.moment_nu_cost,
        heads=tuple(heads),
        embedding=embedding_plan(control),
        pretrained_model=section.pretrained_model or None,
        reload_model=str(beside(reading.path, reload)) if reload else None,
    )


def _run(reading: Reading, strict: bool) -> RunPlan:
    section = reading.control.run_config
    return RunPlan(
        seed=section.seed,
        dtype=section.dtype,
        threads=section.threads,
        memory=section.memory,
        batch_size=reading.control.common_config.batch_size,
        strict=strict,
        task_draw=section.task_draw,
        grade=section.grade,
    )
