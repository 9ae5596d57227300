"""The reference of the control file, generated: JSON schema and docs/control.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any, get_args, get_type_hints

from pydantic.fields import FieldInfo

from stages.control.defaults import default_stages
from stages.control.schema import ControlFile
from stages.control.sections.data import DataConfig
from stages.control.sections.keys import Section
from stages.control.sections.look import sections_of
from stages.control.sections.loss import StageTaskLoss
from stages.plan_text import stage_table

INTRODUCTION = """\
# The control file

`mtp-train control.json` (or `.yaml`) trains a potential. Every key is optional; `mtp-train CONTROL
--check` prints what a file means. `common_config`, `mtp_config` and `multistage_config` are
LightPFP's sections; the others are this program's own. Keys that begin with `_` are comments.
Unknown and duplicate keys, NaN and infinity are refused, all mistakes at once, before any data is
read; `mtp-train --schema` prints a JSON schema for editors.

Units: Å, eV, eV/Å, eV/Å³. This page is generated from `stages/control/sections`
(`python -m stages.control.reference`).
"""

CLOSING = """\
## How the keys become a plan

Stages follow one another in the order of the lists; calibration comes last. When none of the six
lists is given, the default plan applies (below); other keys change it. When lists are given without
`stage_options`, every stage uses Adam on all parameters.

`total_epoch` is split by largest remainder, every stage getting at least one epoch.

Calibration averages each unweighted term (mean squared or absolute error, as its loss says) over
the last 5 % of the epochs of the stage before, at least one, on the training set. A term's
coefficient is its share of `calibration_target` times the weighted loss of that stage, divided by
the term; terms without labels get 0, and the shares of the others fill up to 1. `calibration.json`
holds all numbers.

## Tasks × stages

```yaml
tasks:                            # heads on one descriptor
  dft:
    data: {files: [pbe.xyz]}
    readout: {neuron: [32, 32]}
    layer_name: [first, null, null]
  ccsd:
    data: {files: [ccsd.xyz], energy_key: E_ccsd}
    readout: {neuron: [32, 32]}
    layer_name: [first, null, null]   # its first layer is that of dft
    loss: {loss_func: huber}
  mu:
    type: dipole
    data: {files: [dipoles.xyz]}
multistage_config:
  lr_list: [0.01, 0.001]
  epoch_list: [100, 100]
stage_options:
  task_weight:
    - {dft: 1, ccsd: 0, mu: 1}        # first stage: ccsd is idle
    - {dft: 0, ccsd: 2, mu: 1}
  trainable: [null, [ccsd, mu]]       # second stage: the heads alone
```

An epoch has as many steps as all tasks that take part have batches; the weights say how the steps
are shared, and each task goes on through its own data. A task without weights makes as many steps
as it has batches. Optimisers that take all structures at once (not adam) weigh the losses
instead. What a head does not take part in, it is not moved by.

The loss of an energy task is that of the lists of the stage, changed by `tasks.NAME.loss`, then by
the stage's entry of `task_loss`; dipoles and polarizabilities begin with mse and coefficients 1000.
Calibration takes the kind of loss of the stage before and sets the coefficients of each task from
the log of that task.

Where a model is loaded (`reload_model` or `pretrained_model`), a task named like one of its heads
goes on from that head, and `NAME: {}` takes readout and data files from it too, as far as these
files are found beside the control file or the model. `finetune_head` names another head or
`RANDOM`; other tasks are new heads, and heads that no task names are left out. `--check` prints
which head starts from which.

`mtp convert input.json control.json` turns an input of DeePMD-kit (one task, or several in the
forms of version 2 and 3) into a control file and says, line by line, what has no counterpart: the
descriptor becomes an MTP of the same cutoff, fitting nets, shared layers, losses with prefactors,
probabilities, the learning rate and the number of steps are kept.

## Warnings

A conflict that LightPFP resolves in silence is a warning, and an error with `--strict`:
`total_epoch` beside explicit epochs (`total_epoch` holds), `pretrained_model` or `reload_model`
beside keys of the architecture (the model's holds), files beside `--data` or `--test` (the command
line's hold), a term that no structure has labels for (its coefficient is 0).
"""


DEFAULT_PLAN = """\
## The default plan

It applies when none of the six stage lists is given. Columns energy, forces and stress are the
coefficients of the loss. This is the plan of a run from scratch with a network. Without one pull is
0.03 in all stages; from a loaded model all moves in the first stage, too, with the pull above.

```
{stages}
```
"""


ELSEWHERE = (DataConfig, StageTaskLoss)
"""Sections whose keys the page explains in another place."""


def json_schema() -> str:
    """The JSON schema of a control file."""
    schema = ControlFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Control file of mtp-train"
    _allow_comments(schema)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def markdown() -> str:
    """The content of docs/control.md."""
    parts = [INTRODUCTION]
    for name, section in ControlFile.model_fields.items():
        parts.append(_section(name, section.annotation))
    plan = DEFAULT_PLAN.format(stages=stage_table(default_stages(networks=True)))
    return "\n".join([*parts, CLOSING, plan])


def _allow_comments(schema: Any) -> None:
    """Keys that begin with an underscore are allowed wherever unknown ones are not."""
    if isinstance(schema, dict):
        if "properties" in schema and "additionalProperties" in schema:
            schema["patternProperties"] = {"^_": {}}
        for value in list(schema.values()):
            _allow_comments(value)
    elif isinstance(schema, list):
        for value in schema:
            _allow_comments(value)


def _section(name: str, section: type[Section]) -> str:
    """A section and what stands in the objects of its keys; each kind of object once."""
    rows = [f"## {name}\n", f"{cleandoc(section.__doc__)}\n", *_table(section)]
    for where, nested in _nested(section):
        rows += [f"\n### {where}\n", f"{cleandoc(nested.__doc__)}\n", *_table(nested)]
    return "\n".join(rows) + "\n"


def _nested(section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """Sections in the values of a section, and where they stand."""
    named = get_type_hints(section).get("__pydantic_extra__")
    inner = [(name, field.annotation) for name, field in section.model_fields.items()]
    for name, annotation in [("NAME", named), *inner] if named else inner:
        for nested in sections_of(annotation):
            if nested.model_fields and nested not in ELSEWHERE:
                yield f"An object in `{name}`", nested
                yield from _nested(nested)


def _table(section: type[Section]) -> list[str]:
    head = ["| key | type | default | meaning | example |", "|---|---|---|---|---|"]
    return head + [_row(name, field) for name, field in section.model_fields.items()]


def _row(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra or {}
    meaning = f"{field.description}{_limits(field)}"
    if "unit" in extra:
        meaning += f" Unit: {extra['unit']}."
    cells = [f"`{name}`", _type(field.annotation), _default(field, extra), meaning]
    cells.append(f"`{json.dumps(field.examples[0], ensure_ascii=False)}`")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(field: FieldInfo, extra: dict[str, Any]) -> str:
    if field.is_required():
        return "must be given"
    value = json.dumps(field.default, ensure_ascii=False)
    if field.default is None:
        return extra["otherwise"]
    return f"`{value}`" + (f"; null: {extra['otherwise']}" if "otherwise" in extra else "")


def _limits(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return f" Must be {' and '.join(found)}." if found else ""


def _type(annotation: Any) -> str:
    """A type in words."""
    simple = {
        int: "integer",
        float: "number",
        str: "string",
        bool: "true or false",
        type(None): "null",
    }
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "object"
    if annotation in simple:
        return simple[annotation]
    inner = get_args(annotation)
    name = getattr(annotation, "__origin__", None)
    if name is list:
        return f"list of {_type(inner[0])}"
    if name is dict:
        return f"object of {_type(inner[1])}"
    if str(annotation).startswith("typing.Literal"):
        return ", ".join(f"`{value}`" for value in inner)
    if hasattr(annotation, "__metadata__"):
        return _type(inner[0])
    words = [_type(one) for one in inner]
    return words[0] if words[0].endswith(" or null") else " or ".join(words)


def write() -> None:
    """Bring docs/control.md and configs/control.schema.json up to date."""
    from pathlib import Path

    root = Path(__file__).parents[2]
    (root / "docs" / "control.md").write_text(markdown(), encoding="utf-8")
    (root / "configs" / "control.schema.json").write_text(json_schema(), encoding="utf-8")


if __name__ == "__main__":
    write()
