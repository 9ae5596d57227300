"""What keys of a control file must satisfy together: mistakes, warnings and notes.

A rule is left out when one of the keys it looks at was already refused, so that one slip of the pen
gives one line.
"""

from __future__ import annotations

from stages.control.findings import Context
from stages.control.rules import data, model, options, stages, task_losses, task_stages, tasks

MODULES = (stages, model, data, options, tasks, task_losses, task_stages)


def conflicts(context: Context) -> tuple[list[str], list[str], list[str]]:
    """Lines of mistakes, of warnings and of notes."""
    reading = context.reading
    rules = [one for module in MODULES for one in vars(module).values() if hasattr(one, "needs")]
    found = [one for rule in rules if reading.sound(*rule.needs) for one in rule(context)]
    errors, warnings, notes = (
        [reading.line(one.where, one.message) for one in found if one.level == level]
        for level in ("error", "warning", "note")
    )
    return errors, warnings, notes
