"""Rules about a control file: how one is written, what it sees and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Literal, NamedTuple

from stages.control.defaults import LISTS
from stages.control.loaded import Loaded
from stages.control.reader import Reading
from stages.control.schema import ControlFile
from stages.control.sections.options import StageOptions
from stages.control.sequence import stage_count, stage_sequence
from stages.plan import Stage

STAGES = "/multistage_config"
OPTIONS = "/stage_options"
LIST_KEYS = tuple(f"multistage_config.{name}" for name in LISTS)
COUNT_KEYS = (*LIST_KEYS, "multistage_config.use_calib_stage")
OPTION_KEYS = tuple(f"stage_options.{name}" for name in StageOptions.model_fields)
STAGE_KEYS = (*COUNT_KEYS, *OPTION_KEYS, "common_config.total_epoch", "tasks")
"""What must be sound before the stages can be built."""


class Finding(NamedTuple):
    """One line about a place of the file.

    level: a warning is an error with --strict; a note says what an explicit wish means.
    """

    where: str
    message: str
    level: Literal["error", "warning", "note"] = "error"


class Context(NamedTuple):
    """What the rules look at: the file, what it loads, data files of the command line.

    loaded: the model whose heads tasks start from.  start: the one that the run starts from, also
    where no tasks are named.
    """

    reading: Reading
    loaded: Loaded | None = None
    start: Loaded | None = None
    data: Sequence[str] = ()
    test: Sequence[str] = ()
    need_data: bool = True


Rule = Callable[[Context], Iterator[Finding]]


def rule(*keys: str) -> Callable[[Rule], Rule]:
    """Make a function a rule; keys: sections and "section.key" that it needs to be sound."""

    def mark(function: Rule) -> Rule:
        function.needs = keys  # type: ignore[attr-defined]
        return function

    return mark


def meant(name: str, known: Sequence[str]) -> str:
    """What to do about a name that is not known."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known) or 'none'}"


def option_lists(control: ControlFile) -> dict[str, list]:
    """The lists that stage_options gives, by name."""
    options = control.stage_options
    lists = {name: getattr(options, name) for name in type(options).model_fields}
    return {name: values for name, values in lists.items() if isinstance(values, list)}


def unequal_options(control: ControlFile, count: int | None) -> str:
    """What is wrong with the lengths of the lists of stage_options; "" if nothing is.

    count: stages without calibration, None: not known.
    """
    lists = option_lists(control)
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        every = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        return f"the lists must have equal length, got {every}; make them equal"
    if not lengths or not count:
        return ""
    calibrated = control.multistage_config.use_calib_stage
    allowed = [count, count + 1] if calibrated else [count]
    if not lengths.isdisjoint(allowed):
        return ""
    numbers = " or ".join(map(str, allowed)) + (" (with calibration)" if calibrated else "")
    return f"the lists must have {numbers} entries, got {lengths.pop()}; one for each stage"


def planned(context: Context) -> Sequence[tuple[int, Stage]]:
    """The stages with their index, empty while mistakes elsewhere keep them from being built."""
    control = context.reading.control
    section, total = control.multistage_config, control.common_config.total_epoch
    count = stage_count(section)
    if not count or (total is not None and total < count + section.use_calib_stage):
        return []
    if unequal_options(control, count):
        return []
    return list(enumerate(stage_sequence(control, context.start)))
