"""What keys of a control file must satisfy together; each rule yields mistakes or warnings.

A rule is left out when one of the keys it looks at was already refused, so that one slip of the pen
gives one line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from mtp.errors import InvalidInput
from pretrained.registry import names as installed_models
from stages.control.defaults import LISTS
from stages.control.reader import Reading, beside
from stages.control.schema import FileEntry, StageOptions
from stages.control.sequence import given_lists, stage_count, stage_sequence
from stages.plan import WITH_RATE, Stage

COEFFICIENTS = ("energy_loss_coeff_list", "forces_loss_coeff_list", "stress_loss_coeff_list")
STAGES = "/multistage_config"
OPTIONS = "/stage_options"
COSTS = ("moment_init_cost", "moment_mu_cost", "moment_nu_cost")
ADAM_ONLY = ("weight_decay", "gradient_clip", "ema")
RATE_KEYS = (
    ("common_config", "lr_scheduling"),
    ("common_config", "scheduler_step_size"),
    ("multistage_config", "lr_list"),
    ("multistage_config", "calibration_lr"),
    ("run_config", "scheduler_gamma"),
    ("run_config", "lr_min_ratio"),
)


class Finding(NamedTuple):
    """One line about a place of the file."""

    where: str
    message: str
    warning: bool = False


class Context(NamedTuple):
    """What the rules look at: the file and the data files of the command line."""

    reading: Reading
    data: Sequence[str] = ()
    test: Sequence[str] = ()
    need_data: bool = True


Rule = Callable[[Context], Iterator[Finding]]
_RULES: list[tuple[Rule, tuple[str, ...]]] = []


def conflicts(
    reading: Reading, data: Sequence[str], test: Sequence[str], need_data: bool
) -> tuple[list[str], list[str]]:
    """Lines of mistakes and lines of warnings."""
    context = Context(reading, data, test, need_data)
    found = [finding for rule, keys in _RULES if reading.sound(*keys) for finding in rule(context)]
    errors = [reading.line(f.where, f.message) for f in found if not f.warning]
    return errors, [reading.line(f.where, f.message) for f in found if f.warning]


def _rule(*keys: str) -> Callable[[Rule], Rule]:
    """Make a function a rule; keys: the "section.key" names it needs to be sound."""

    def register(rule: Rule) -> Rule:
        _RULES.append((rule, keys))
        return rule

    return register


_LIST_KEYS = tuple(f"multistage_config.{name}" for name in LISTS)
_COUNT_KEYS = (*_LIST_KEYS, "multistage_config.use_calib_stage")
_OPTION_KEYS = tuple(f"stage_options.{name}" for name in StageOptions.model_fields)
_STAGE_KEYS = (*_COUNT_KEYS, *_OPTION_KEYS, "common_config.total_epoch")


@_rule(*_LIST_KEYS)
def _lists_agree(context: Context) -> Iterator[Finding]:
    given = given_lists(context.reading.control.multistage_config)
    lengths = {len(values) for values in given.values()}
    if len(lengths) > 1:
        every = ", ".join(f"{n} {len(given[n]) if n in given else 'not given'}" for n in LISTS)
        yield Finding(
            STAGES, f"the stage lists must have equal length, got {every}; make them equal"
        )
    elif given and 0 not in lengths:
        missing = [name for name in LISTS if name not in given]
        length, default = lengths.pop(), len(LISTS["lr_list"])
        if missing and length != default:
            yield Finding(
                STAGES,
                f"{length} stages, but the defaults of the missing {', '.join(missing)} have "
                f"{default} entries; add {'it' if len(missing) == 1 else 'them'}",
            )


@_rule(*_COUNT_KEYS)
def _some_stage(context: Context) -> Iterator[Finding]:
    section = context.reading.control.multistage_config
    given = given_lists(section)
    if given and not any(given.values()):
        needs = (
            "calibration needs the log of a previous stage"
            if section.use_calib_stage
            else ("there is nothing to train")
        )
        yield Finding(STAGES, f"the stage lists are empty: {needs}; add a stage or leave them out")


@_rule(*(f"multistage_config.{name}" for name in COEFFICIENTS))
def _some_term(context: Context) -> Iterator[Finding]:
    given = given_lists(context.reading.control.multistage_config)
    if not given:
        return
    columns = zip(*((LISTS | given)[name] for name in COEFFICIENTS), strict=False)
    for i, stage in enumerate(columns):
        if not any(stage):
            message = f"energy, forces and stress coefficients of stage {i + 1} are all 0"
            yield Finding(STAGES, f"{message}; make one positive")


@_rule(*_COUNT_KEYS, "common_config.total_epoch", "multistage_config.calibration_epoch")
def _total_epoch(context: Context) -> Iterator[Finding]:
    total = context.reading.control.common_config.total_epoch
    section = context.reading.control.multistage_config
    count = stage_count(section)
    if total is None or not count:
        return
    active = count + section.use_calib_stage
    if total < active:
        yield Finding(
            "/common_config/total_epoch",
            f"must be at least the number of stages, {active}, got {total}; raise it",
        )
        return
    explicit = [
        name for name in ("epoch_list", "calibration_epoch") if getattr(section, name) is not None
    ]
    if explicit:
        epochs = [stage.epochs for _, stage in _planned(context)]
        yield Finding(
            "/common_config/total_epoch",
            f"replaces {' and '.join(explicit)}: the stages have {epochs} epochs; give one of the "
            "two",
            warning=True,
        )


@_rule("mtp_config.pretrained_model", "common_config.reload_model")
def _where_to_start(context: Context) -> Iterator[Finding]:
    control = context.reading.control
    name, reload = control.mtp_config.pretrained_model, control.common_config.reload_model
    if name and reload:
        yield Finding(
            "/mtp_config/pretrained_model",
            f"{name!r} and reload_model {reload!r} are both given; choose one",
        )
    if name and name not in installed_models():
        yield Finding("/mtp_config/pretrained_model", _not_installed(name))
    if reload and not beside(context.reading.path, reload).is_file():
        yield Finding(
            "/common_config/reload_model", f"no such file {reload!r}; give the path of a model file"
        )
    start = "pretrained_model" if name else "reload_model" if reload else None
    ignored = control.mtp_config.model_fields_set - {"model_version", "pretrained_model"}
    if start and ignored:
        keys = ", ".join(key for key in type(control.mtp_config).model_fields if key in ignored)
        yield Finding("/mtp_config", f"{start} is given: {keys} ignored; remove them", warning=True)


def _not_installed(name: str) -> str:
    installed = installed_models()
    near = get_close_matches(name, installed, n=1)
    advice = f"did you mean {near[0]!r}?" if near else 'train from scratch with ""'
    return (
        f"model {name!r} is not installed (installed: {', '.join(installed) or 'none'}); {advice}"
    )


@_rule(*(f"mtp_config.{key}" for key in ("levmax", *COSTS)))
def _basis(context: Context) -> Iterator[Finding]:
    """The basis is neither empty nor infinite, and not absurdly large."""
    section = context.reading.control.mtp_config
    if section.levmax < section.moment_init_cost:
        yield Finding(
            "/mtp_config/levmax",
            f"must be at least moment_init_cost, {section.moment_init_cost}, got {section.levmax}: "
            "the basis would be empty; raise it",
        )
        return
    endless = [name for name in ("moment_mu_cost", "moment_nu_cost") if getattr(section, name) < 1]
    for name in endless:
        message = f"must be ≥ 1, got {getattr(section, name)}: the basis would be infinite"
        yield Finding(f"/mtp_config/{name}", f"{message}; raise it")
    if not endless:
        from mtp.basis.graphs import MomentSpec, graphs  # only here: it takes time to load

        try:
            graphs(MomentSpec(section.levmax, *(getattr(section, name) for name in COSTS)))
        except InvalidInput as error:
            yield Finding("/mtp_config/levmax", str(error))


@_rule("data_config.files", "data_config.test_files")
def _files_given(context: Context) -> Iterator[Finding]:
    section = context.reading.control.data_config
    if context.need_data and not section.files and not context.data:
        yield Finding("/data_config/files", "no data; name files here or with --data")
    for key, option in (("files", "data"), ("test_files", "test")):
        written = len(getattr(section, key))
        if written and getattr(context, option):
            what = "this file" if written == 1 else f"these {written} files"
            message = f"--{option} replaces {what}; give one of the two"
            yield Finding(f"/data_config/{key}", message, warning=True)


@_rule("data_config.files", "data_config.test_files")
def _files_exist(context: Context) -> Iterator[Finding]:
    """Every file is there, none counts twice, none is both trained and tested on."""
    seen: dict[Path, str] = {}
    for where, written, path in _data_paths(context):
        if not path.exists():
            yield Finding(where, f"no such file {written!r}; correct the path")
        elif path in seen:
            yield Finding(where, f"{written!r} is also at {seen[path]}; name it once")
        seen.setdefault(path, where)


def _data_paths(context: Context) -> Iterator[tuple[str, str, Path]]:
    """Place, path as written and path of every data file that counts."""
    for key, option in (("files", "data"), ("test_files", "test")):
        given = getattr(context, option)
        for path in given:
            yield f"--{option}", path, Path(path).resolve()
        for i, entry in enumerate(getattr(context.reading.control.data_config, key)):
            if not given:
                path = entry.path if isinstance(entry, FileEntry) else entry
                yield f"/data_config/{key}/{i}", path, beside(context.reading.path, path)


@_rule("data_config.e0")
def _elements(context: Context) -> Iterator[Finding]:
    e0 = context.reading.control.data_config.e0
    if isinstance(e0, dict):
        from ase.data import atomic_numbers  # only here: it takes time to load

        for symbol in sorted(set(e0) - set(atomic_numbers)):
            yield Finding(f"/data_config/e0/{symbol}", f"{symbol!r} is no element; give its symbol")


@_rule("data_config.type_map")
def _types(context: Context) -> Iterator[Finding]:
    for i, symbol in enumerate(context.reading.control.data_config.type_map or ()):
        from ase.data import atomic_numbers  # only here: it takes time to load

        if atomic_numbers.get(symbol, 0) < 1:
            where = f"/data_config/type_map/{i}"
            yield Finding(where, f"{symbol!r} is no element; give its symbol")


@_rule(*_OPTION_KEYS)
def _options_agree(context: Context) -> Iterator[Finding]:
    """Lists of stage_options: one length, that of the stages with or without calibration."""
    reading = context.reading
    lists = _option_lists(reading)
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        every = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        yield Finding(OPTIONS, f"the lists must have equal length, got {every}; make them equal")
    section = reading.control.multistage_config
    count = stage_count(section) if reading.sound(*_COUNT_KEYS) else None
    if len(lengths) != 1 or not count:
        return
    allowed = [count, count + 1] if section.use_calib_stage else [count]
    if lengths.isdisjoint(allowed):
        numbers = " or ".join(map(str, allowed)) + (" (with calibration)" if allowed[1:] else "")
        message = f"the lists must have {numbers} entries, got {lengths.pop()}"
        yield Finding(OPTIONS, f"{message}; one for each stage")


def _option_lists(reading: Reading) -> dict[str, list]:
    """The lists that stage_options gives, by name."""
    options = reading.control.stage_options
    lists = {name: getattr(options, name) for name in type(options).model_fields}
    return {name: values for name, values in lists.items() if isinstance(values, list)}


def _planned(context: Context) -> Sequence[tuple[int, Stage]]:
    """The stages with their index, empty while mistakes elsewhere keep them from being built."""
    reading, section = context.reading, context.reading.control.multistage_config
    count, total = stage_count(section), reading.control.common_config.total_epoch
    if not count or (total is not None and total < count + section.use_calib_stage):
        return []
    if any(True for _ in _options_agree(context)):
        return []
    return list(enumerate(stage_sequence(reading.control)))


@_rule(*_STAGE_KEYS)
def _lstsq(context: Context) -> Iterator[Finding]:
    for i, stage in _planned(context):
        if stage.optimizer != "lstsq":
            continue
        where = f"{OPTIONS}/optimizer/{i}"
        if any(task.loss == "l1" for task in stage.tasks.values()):
            message = f"lstsq minimises squares, but the loss of {stage.name} is l1"
            yield Finding(where, f"{message}; use mse or another optimizer")
        if "readout" not in stage.trainable or "descriptor" in stage.trainable:
            yield Finding(
                f"{OPTIONS}/trainable/{i}",
                f"lstsq moves readout, with or without shifts, got {list(stage.trainable)}; "
                "change it or leave it null",
            )


@_rule(*_STAGE_KEYS)
def _trainable(context: Context) -> Iterator[Finding]:
    for i, groups in enumerate(_option_lists(context.reading).get("trainable", ())):
        if groups is not None and (not groups or len(set(groups)) < len(groups)):
            message = f"must name groups, each once, got {json.dumps(groups)}"
            yield Finding(f"{OPTIONS}/trainable/{i}", f"{message}; null means all")


@_rule(*_STAGE_KEYS)
def _option_has_effect(context: Context) -> Iterator[Finding]:
    lists = _option_lists(context.reading)
    for i, stage in _planned(context):
        entry = {name: values[i] for name, values in lists.items() if i < len(values)}
        for name in (*ADAM_ONLY, "ridge"):
            needed = "lstsq" if name == "ridge" else "adam"
            if entry.get(name) and stage.optimizer != needed:
                message = f"has no effect with {stage.optimizer}, only with {needed}"
                yield Finding(f"{OPTIONS}/{name}/{i}", f"{message}; write null")
        weighting = entry.get("energy_weighting") or "per_atom_squared"
        if stage.name == "calibration" and weighting != "per_atom_squared":
            message = f"calibration balances errors per atom squared, got {weighting!r}"
            yield Finding(f"{OPTIONS}/energy_weighting/{i}", f"{message}; write null")


@_rule(*_STAGE_KEYS, *(f"{section}.{name}" for section, name in RATE_KEYS))
def _learning_rate_has_effect(context: Context) -> Iterator[Finding]:
    """Learning rates that were written although no stage has one."""
    stages = [stage for _, stage in _planned(context)]
    if not stages or any(stage.optimizer in WITH_RATE for stage in stages):
        return
    used = "/".join(sorted({stage.optimizer for stage in stages}))
    for section, name in RATE_KEYS:
        part = getattr(context.reading.control, section)
        value = getattr(part, name)
        needed = name == "lr_list" and value and len(value) != len(LISTS[name])  # says how many
        if name in part.model_fields_set and value is not None and not needed:
            message = f"has no effect: every stage is {used}, which has no learning rate"
            yield Finding(
                f"/{section}/{name}", f"{message}; remove it, or set optimizer to adam", True
            )


@_rule("multistage_config.use_calib_stage", "stage_options.calibration_target")
def _target(context: Context) -> Iterator[Finding]:
    control = context.reading.control
    target = control.stage_options.calibration_target
    where = f"{OPTIONS}/calibration_target"
    if target is None:
        return
    if not any((target.energy, target.forces, target.stress)):
        yield Finding(where, "all shares are 0; make one positive")
    if not control.multistage_config.use_calib_stage:
        yield Finding(where, "there is no calibration stage; remove it", warning=True)
