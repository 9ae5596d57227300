"""Control file → Plan: what the file means, or every mistake in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtp.errors import InvalidInput
from stages.control.conflicts import conflicts
from stages.control.defaults import TASK
from stages.control.reader import Reading, beside
from stages.control.schema import DataConfig, FileEntry
from stages.control.sequence import stage_sequence
from stages.plan import DataFile, DataPlan, HeadPlan, ModelPlan, Plan, RunPlan


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
    errors, warnings = conflicts(reading, data=data, test=test, need_data=need_data)
    mistakes = [*reading.mistakes, *errors, *(warnings if strict else ())]
    if mistakes:
        raise InvalidInput(*mistakes)
    return Plan(
        model=_model(reading),
        data={TASK: _data(reading, data, test)},
        stages=stage_sequence(reading.control),
        run=_run(reading, strict),
        warnings=tuple(warnings),
    )


def _model(reading: Reading) -> ModelPlan:
    section, reload = reading.control.mtp_config, reading.control.common_config.reload_model
    return ModelPlan(
        rc=section.rc,
        levmax=section.levmax,
        n_q=section.n_q,
        moment_init_cost=section.moment_init_cost,
        moment_mu_cost=section.moment_mu_cost,
        moment_nu_cost=section.moment_nu_cost,
        heads=(HeadPlan(TASK, hidden=tuple(section.nn_dim_list)),),
        pretrained_model=section.pretrained_model or None,
        reload_model=str(beside(reading.path, reload)) if reload else None,
    )


def _data(reading: Reading, data: Sequence[str], test: Sequence[str]) -> DataPlan:
    common, section = reading.control.common_config, reading.control.data_config
    same = {name: getattr(section, name) for name in DataConfig.model_fields if "files" not in name}
    same["type_map"] = None if section.type_map is None else tuple(section.type_map)
    return DataPlan(
        files=_files(reading.path, section.files, data),
        test_files=_files(reading.path, section.test_files, test),
        max_energy=common.max_energy,
        max_forces=common.max_forces,
        **same,
    )


def _files(
    control: Path, written: Sequence[str | FileEntry], replaced_by: Sequence[str]
) -> tuple[DataFile, ...]:
    if replaced_by:
        return tuple(DataFile(path) for path in replaced_by)
    entries = [FileEntry(path=entry) if isinstance(entry, str) else entry for entry in written]
    return tuple(DataFile(str(beside(control, e.path)), e.weight) for e in entries)


def _run(reading: Reading, strict: bool) -> RunPlan:
    section = reading.control.run_config
    return RunPlan(
        seed=section.seed,
        dtype=section.dtype,
        threads=section.threads,
        memory=section.memory,
        batch_size=reading.control.common_config.batch_size,
        strict=strict,
    )
