"""Rules about the data, of data_config and of the tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mtp.mlip_file import MLIP_SUFFIXES
from stages.control.findings import Context, Finding, rule
from stages.control.heads import data_section, inherited_data, source_of, tasks_of
from stages.control.reader import beside
from stages.control.sections.data import DataConfig, FileEntry

OPTIONS = (("files", "data"), ("test_files", "test"))
"""Keys of files and the options of the command line that replace them."""
FILES = ("data_config.files", "data_config.test_files", "tasks")


@rule(*FILES)
def _files_given(context: Context) -> Iterator[Finding]:
    control = context.reading.control
    names = list(tasks_of(control))
    if len(names) > 1:
        yield from _files_of_several(context, names)
        return
    given = context.data or data_section(control, names[0]).files
    if context.need_data and not given and not inherited_data(control, names[0], context.loaded):
        yield Finding("/data_config/files", "no data; name files here or with --data")
    for place, section in _sections(context):
        for key, option in OPTIONS:
            written = len(getattr(section, key))
            if written and getattr(context, option):
                what = "this file" if written == 1 else f"these {written} files"
                message = f"--{option} replaces {what}; give one of the two"
                yield Finding(f"{place}/{key}", message, "warning")


def _files_of_several(context: Context, names: list[str]) -> Iterator[Finding]:
    control = context.reading.control
    for key, option in OPTIONS:
        if getattr(context, option):
            message = f"is for a single task, but there are {', '.join(names)}"
            yield Finding(f"--{option}", f"{message}; name files in tasks/NAME/data/{key}")
        if getattr(control.data_config, key):
            message = "files here are those of a single task, but there are several"
            yield Finding(f"/data_config/{key}", f"{message}; move them to tasks/NAME/data/{key}")
    for name in names:
        given = data_section(control, name).files or inherited_data(control, name, context.loaded)
        if context.need_data and not given:
            yield Finding(f"/tasks/{name}/data/files", f"no data of {name}; name files here")


@rule(*FILES)
def _files_exist(context: Context) -> Iterator[Finding]:
    """Every file is there, none counts twice in a task, nor is both trained and tested on."""
    for section in _file_sections(context):
        seen: dict[Path, str] = {}
        for where, written, path in section:
            if not path.exists():
                yield Finding(where, f"no such file {written!r}; correct the path")
            elif path in seen:
                yield Finding(where, f"{written!r} is also at {seen[path]}; name it once")
            seen.setdefault(path, where)


def _file_sections(context: Context) -> Iterator[list[tuple[str, str, Path]]]:
    """Place, path as written and path of every data file that counts, task by task."""
    control = context.reading.control
    names = list(tasks_of(control))
    if len(names) == 1:
        own = control.tasks.named[names[0]].data if control.tasks.named else None
        places = {
            key: f"/tasks/{names[0]}/data"
            if own and key in own.model_fields_set
            else "/data_config"
            for key, _ in OPTIONS
        }
        yield list(_paths(context, data_section(control, names[0]), places))
        return
    for name in names:
        places = {key: f"/tasks/{name}/data" for key, _ in OPTIONS}
        yield list(_paths(context, data_section(control, name), places))


def _paths(
    context: Context, section: DataConfig, places: dict[str, str]
) -> Iterator[tuple[str, str, Path]]:
    several = len(tasks_of(context.reading.control)) > 1
    for key, option in OPTIONS:
        given = () if several else getattr(context, option)
        for path in given:
            yield f"--{option}", path, Path(path).resolve()
        for i, entry in enumerate(() if given else getattr(section, key)):
            path = entry.path if isinstance(entry, FileEntry) else entry
            yield f"{places[key]}/{key}/{i}", path, beside(context.reading.path, path)


@rule("tasks", "common_config.reload_model", "mtp_config.pretrained_model")
def _inherited_files_exist(context: Context) -> Iterator[Finding]:
    control, loaded = context.reading.control, context.loaded
    for name in control.tasks.named if context.need_data else ():
        stored = inherited_data(control, name, loaded) or {}
        for key, option in OPTIONS:
            for file in () if getattr(context, option) else stored.get(key, ()):
                if loaded.find(context.reading.path, file["path"]) is None:
                    message = (
                        f"head {name} of {loaded.path.name} was trained on {file['path']}, which "
                        "is beside neither this file nor the model"
                    )
                    yield Finding(f"/tasks/{name}/data/{key}", f"{message}; name the files here")


@rule("data_config.e0", "tasks")
def _elements(context: Context) -> Iterator[Finding]:
    for place, section in _sections(context):
        if isinstance(section.e0, dict):
            from ase.data import atomic_numbers  # only here: it takes time to load

            for symbol in sorted(set(section.e0) - set(atomic_numbers)):
                message = f"{symbol!r} is no element; give its symbol"
                yield Finding(f"{place}/e0/{symbol}", message)


@rule("data_config.e0", "tasks", "common_config.reload_model", "mtp_config.pretrained_model")
def _e0_of_loaded_heads(context: Context) -> Iterator[Finding]:
    """New heads start from e0; a loaded head has shifts of its own."""
    control, loaded = context.reading.control, context.loaded
    reload = control.common_config.reload_model
    if reload and Path(reload).suffix in MLIP_SUFFIXES:  # it may be untrained
        return
    for name in tasks_of(control) if reload or control.mtp_config.pretrained_model else ():
        section = data_section(control, name)
        # a file without tasks goes on with the one head
        inherits = loaded is None or source_of(control, name, loaded) in loaded.heads
        if inherits and section.e0 != "lstsq" and section.max_energy_reference != "e0":
            own = tasks_of(control)[name].data
            place = (
                f"/tasks/{name}/data" if own and "e0" in own.model_fields_set else "/data_config"
            )
            message = f"has no effect on {name}, which starts with the shifts of a loaded head"
            yield Finding(f"{place}/e0", f"{message}; remove it", "warning")


@rule("data_config.type_map", "tasks")
def _types(context: Context) -> Iterator[Finding]:
    for place, section in _sections(context):
        for i, symbol in enumerate(section.type_map or ()):
            yield from no_element(f"{place}/type_map/{i}", symbol)


def no_element(where: str, symbol: str) -> Iterator[Finding]:
    """The finding that a symbol is not that of an element."""
    from ase.data import atomic_numbers  # only here: it takes time to load

    if atomic_numbers.get(symbol, 0) < 1:
        yield Finding(where, f"{symbol!r} is no element; give its symbol")


def _sections(context: Context) -> Iterator[tuple[str, DataConfig]]:
    """Place and content of every section about data."""
    control = context.reading.control
    yield "/data_config", control.data_config
    for name, task in control.tasks.named.items():
        if task.data is not None:
            yield f"/tasks/{name}/data", task.data
