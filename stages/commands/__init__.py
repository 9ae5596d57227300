"""The commands of `mtp`, one module each with `add(commands)`, in the order of --help.

A module imports what its command needs only when the command runs: help comes at once.
"""

from stages.commands import (
    convert,
    eval,
    freeze,
    grade,
    label,
    learn,
    md,
    models,
    report,
    show,
    train,
    validate,
)

COMMANDS = (train, eval, show, report, convert, freeze, label, models, md, validate, grade, learn)
