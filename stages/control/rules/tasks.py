"""Rules about the section `tasks`: names, readouts, shared layers, heads of a loaded model."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mtp.errors import InvalidInput
from stages.control.defaults import TENSOR_LEVEL
from stages.control.findings import Context, Finding, meant, rule
from stages.control.heads import from_file, head_plan, new_head, source_of
from stages.control.rules.data import no_element
from stages.control.rules.model import COSTS
from stages.control.sections.tasks import RANDOM, Task
from stages.plan import GROUPS, LINEAR, HeadPlan

NAME = re.compile(r"[A-Za-z0-9_-]+")
WORDS = (*GROUPS, LINEAR, RANDOM)
"""Names that mean something else."""
RANKS = {"dipole": 1, "polar": 2}
"""Type of a task → rank of what its atoms carry."""
SHAPE = {
    "type": ("kind",),
    "readout": ("hidden", "activation", "timestep", "embedded"),
    "layer_name": ("shared",),
    "level": ("level",),
    "sel_type": ("species",),
}
"""Keys of a task that a loaded head fixes → fields of its HeadPlan."""
START = ("common_config.reload_model", "mtp_config.pretrained_model", "tasks")


def loads(context: Context) -> bool:
    """Whether the file names a model to start from."""
    control = context.reading.control
    return bool(control.common_config.reload_model or control.mtp_config.pretrained_model)


@rule("tasks")
def _names(context: Context) -> Iterator[Finding]:
    """Names become keys of model files and words of `trainable`."""
    for name in context.reading.control.tasks.named:
        where = f"/tasks/{name}"
        if not NAME.fullmatch(name):
            message = f"a name has letters, digits, _ and -, got {name!r}"
            yield Finding(where, f"{message}; rename the task")
        elif name in WORDS:
            yield Finding(where, f"{name!r} is a reserved word; rename the task")


@rule(*START)
def _descriptor(context: Context) -> Iterator[Finding]:
    tasks = context.reading.control.tasks
    if tasks.descriptor is not None and not loads(context):
        message = "{} is the descriptor of a loaded model, but none is named"
        yield Finding(
            "/tasks/descriptor", f"{message}; set reload_model or pretrained_model, or remove it"
        )
    if tasks.type_embedding is None or context.loaded is None:
        return
    if not context.loaded.embedding:
        message = f"{context.loaded.path.name}, which is loaded, has no type embedding"
        yield Finding("/tasks/type_embedding", f"{message}; remove it")
    elif tasks.type_embedding.model_fields_set:
        message = "that of the loaded model holds; write {}"
        yield Finding("/tasks/type_embedding", message, "warning")


@rule(*START)
def _types(context: Context) -> Iterator[Finding]:
    """Keys that belong to other types of tasks."""
    for name, task in context.reading.control.tasks.named.items():
        for key in ("level", "sel_type"):
            if task.type == "ener" and getattr(task, key) is not None:
                message = "is for dipole and polar tasks, and this one is ener"
                yield Finding(f"/tasks/{name}/{key}", f"{message}; remove it, or set type")
        for i, symbol in enumerate(task.sel_type or ()):
            yield from no_element(f"/tasks/{name}/sel_type/{i}", symbol)


@rule(*START, *(f"mtp_config.{key}" for key in ("levmax", *COSTS)))
def _levels(context: Context) -> Iterator[Finding]:
    """The level of a new dipole or polarizability gives some tensors, and not too many."""
    section = context.reading.control.mtp_config
    costs = [getattr(section, key) for key in COSTS]
    for name, task in context.reading.control.tasks.named.items():
        if task.type == "ener" or loads(context) or costs[1] < 1 or costs[2] < 1:
            continue
        from mtp.basis.graphs import MomentSpec, graphs  # only here: it takes time to load

        level, rank = task.level or TENSOR_LEVEL, RANKS[task.type]
        where = f"/tasks/{name}/level"
        try:
            if level < costs[0] or not graphs(MomentSpec(level, *costs), rank):
                least = costs[0] + rank * costs[2]
                message = f"level {level} holds nothing for a {task.type} task"
                yield Finding(where, f"{message}; it begins at {least}")
        except InvalidInput as error:
            yield Finding(where, str(error))


@rule(*START)
def _embedding(context: Context) -> Iterator[Finding]:
    tasks = context.reading.control.tasks
    there = context.loaded.embedding if context.loaded else tasks.type_embedding is not None
    for name, task in tasks.named.items():
        if task.readout is None or not task.readout.embedding:
            continue
        where = f"/tasks/{name}/readout/embedding"
        if not there:
            message = "there is no type embedding"
            yield Finding(where, f'{message}; add "type_embedding": {{}} to tasks, or remove it')
        elif not task.readout.neuron:
            message = "the embedding enters a hidden layer, and the readout is linear"
            yield Finding(where, f"{message}; give neuron, or remove it")


@rule(*START)
def _loaded_heads(context: Context) -> Iterator[Finding]:
    """Heads of the loaded model are there, and what the file says of them is true."""
    for name, task in context.reading.control.tasks.named.items():
        where = f"/tasks/{name}"
        if not loads(context):
            if task.finetune_head is not None:
                message = "no model is loaded"
                yield Finding(
                    f"{where}/finetune_head",
                    f"{message}; set reload_model or pretrained_model, or remove it",
                )
            if task.adjust_shifts is False:
                message = "has no effect: no model is loaded, and shifts of a new head are fitted"
                yield Finding(f"{where}/adjust_shifts", f"{message}; remove it")
        elif context.loaded is not None:
            yield from _one_head(context, name, task)


def _one_head(context: Context, name: str, task: Task) -> Iterator[Finding]:
    where, control, loaded = f"/tasks/{name}", context.reading.control, context.loaded
    source = source_of(control, name, loaded)
    if source in loaded.heads:
        yield from _as_loaded(context, name, task, source)
    elif source != RANDOM:
        message = f"{loaded.path.name} has no head {source!r}"
        known = [*loaded.heads, RANDOM]
        yield Finding(f"{where}/finetune_head", f"{message}; {meant(source, known)}")
    elif task.finetune_head is None and len(control.tasks.named) == 1:
        message = f"{loaded.path.name} has the heads {', '.join(loaded.heads)}, not {name!r}"
        yield Finding(
            where, f'{message}; say which to start from by finetune_head, or "{RANDOM}" for none'
        )
    elif task.adjust_shifts is False:
        message = "has no effect: shifts of a new head are fitted"
        yield Finding(f"{where}/adjust_shifts", f"{message}; remove it")


def _as_loaded(context: Context, name: str, task: Task, source: str) -> Iterator[Finding]:
    """What a task says of a head that it takes over is true."""
    kept = from_file(name, context.loaded.heads[source])
    asked = new_head(context.reading.control, name, task)
    for key, fields in SHAPE.items():
        given = key in task.model_fields_set and getattr(task, key) is not None
        if given and any(getattr(asked, field) != getattr(kept, field) for field in fields):
            message = f"is not that of head {source!r} of {context.loaded.path.name}"
            yield Finding(
                f"/tasks/{name}/{key}",
                f'{message}; remove it, or set "finetune_head": "{RANDOM}"',
            )


@rule(*START, "mtp_config.nn_dim_list")
def _layers(context: Context) -> Iterator[Finding]:
    """Names of layers: as many as layers, and layers of one name have one shape."""
    control, seen = context.reading.control, {}
    for name, task in control.tasks.named.items():
        plan = head_plan(control, name, context.loaded)
        where, layers = f"/tasks/{name}/layer_name", len(plan.hidden) + 1
        given = plan.shared if task.layer_name is None else task.layer_name
        if given and len(given) != layers:
            message = f"must have {layers} names (hidden layers and output), got {len(given)}"
            yield Finding(where, f"{message}; null is a layer of its own")
            continue
        for i, layer in enumerate(plan.shared):
            if layer is None:
                continue
            if not NAME.fullmatch(layer):
                message = f"a name has letters, digits, _ and -, got {layer!r}"
                yield Finding(f"{where}/{i}", f"{message}; rename the layer")
            shape = _shape(plan, i)
            first, other = seen.setdefault(layer, (f"{name}/layer_name/{i}", shape))
            if other != shape:
                message = f"layer {layer!r} is {shape}, but {other} at /tasks/{first}"
                yield Finding(f"{where}/{i}", f"{message}; make them equal, or rename one")


def _shape(head: HeadPlan, layer: int) -> str:
    """What layers of one name must have in common, in words."""
    widths = ["invariants", *map(str, head.hidden)]
    if layer == len(head.hidden):
        level = "" if head.level is None else f" of level {head.level}"
        return f"{widths[-1]} × {head.kind}{level}"
    dt = ", resnet_dt" if head.timestep and widths[layer] == widths[layer + 1] else ""
    return f"{widths[layer]} × {widths[layer + 1]}, {head.activation}{dt}"
