"""What `mtp learn` was asked for: the control file, its paths, the plan of a training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ase import Atoms

from mtp.errors import InvalidInput
from stages.control.reader import Reading, beside, read_control
from stages.control.resolve import resolve
from stages.control.sections.learn import Learn
from stages.inputs import read_structures
from stages.plan import DataFile, Plan


@dataclass(frozen=True)
class Setting:
    """A control file with a section `learn`."""

    reading: Reading
    plan: Plan

    @classmethod
    def read(cls, path: Path) -> Setting:
        """Raises InvalidInput with every mistake."""
        reading = read_control(path)
        setting = cls(reading, resolve(reading, need_data=False))
        setting._check()
        return setting

    @property
    def learn(self) -> Learn:
        """The section."""
        return self.reading.control.learn

    @cached_property
    def starts(self) -> list[Atoms]:
        """The structures in which the dynamics begin."""
        paths = [beside(self.reading.path, path) for path in self.learn.start]
        frames = [frame for path in paths for frame in read_structures(path)]
        for frame in frames:
            frame.calc = None
            frame.arrays.pop("momenta", None)
        return frames

    def starting_with(self, file: DataFile) -> Setting:
        """The same with labelled data to begin with."""
        data = {"default": replace(self.plan.data["default"], files=(file,))}
        return replace(self, plan=replace(self.plan, data=data))

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The labelled data to begin with."""
        return self.plan.data["default"].files

    def training(self, added: list[Path], last: Path | None) -> Plan:
        """The plan of a training on the first data and what was added, perhaps from a model."""
        files = (*self.files, *(DataFile(str(path)) for path in added))
        data = {"default": replace(self.plan.data["default"], files=files)}
        plan = replace(self.plan, data=data, warnings=())
        share = self.learn.fine_tune
        if last is None or share is None:
            return plan
        stages = (replace(s, epochs=max(1, round(share * s.epochs))) for s in plan.stages)
        model = replace(plan.model, reload_model=str(last), pretrained_model=None)
        return replace(plan, model=model, stages=tuple(stages))

    def as_dict(self) -> dict[str, Any]:
        """What must not change while a run of rounds goes on."""
        free = {"rounds", "workers"}
        plan = self.plan.as_dict()
        del plan["warnings"]
        return {"learn": self.learn.model_dump(exclude=free), "plan": plan}

    def _check(self) -> None:
        learn, lines = self.learn, []

        def line(where: str, message: str) -> None:
            lines.append(self.reading.line(f"/learn/{where}", message))

        if list(self.plan.data) != ["default"]:
            lines.append(self.reading.line("/tasks", "mtp learn is for one task; leave tasks out"))
        if not learn.start:
            line("start", "names no file; name one with structures to begin the dynamics in")
        if not learn.temperatures:
            line("temperatures", "is empty; name one or more, as [300]")
        if learn.teacher is None and learn.selection == "error":
            line("selection", "`error` needs a teacher; name one or select by grade")
        if learn.teacher is None and not self.files:
            line("teacher", "is null and data_config has no files: there is nothing to begin with")
        if lines:
            raise InvalidInput(*lines)
