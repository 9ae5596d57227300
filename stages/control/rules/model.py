"""Rules about the potential, the model that is loaded and the teacher."""

from __future__ import annotations

from collections.abc import Iterator

from mtp.errors import InvalidInput
from pretrained.registry import names, unknown
from stages.control.findings import Context, Finding, rule
from stages.control.reader import beside

COSTS = ("moment_init_cost", "moment_mu_cost", "moment_nu_cost")


@rule("mtp_config.pretrained_model", "common_config.reload_model", "tasks")
def _where_to_start(context: Context) -> Iterator[Finding]:
    control = context.reading.control
    name, reload = control.mtp_config.pretrained_model, control.common_config.reload_model
    if name and reload:
        yield Finding(
            "/mtp_config/pretrained_model",
            f"{name!r} and reload_model {reload!r} are both given; choose one",
        )
    if name and name not in names():
        yield Finding("/mtp_config/pretrained_model", unknown(name) + '; "" trains from scratch')
    if reload and not beside(context.reading.path, reload).is_file():
        yield Finding(
            "/common_config/reload_model", f"no such file {reload!r}; give the path of a model file"
        )
    start = "pretrained_model" if name else "reload_model" if reload else None
    ignored = control.mtp_config.model_fields_set - {"model_version", "pretrained_model"}
    if control.tasks.named or context.start is None:
        ignored -= {"nn_dim_list"}  # of new heads
    if start and ignored:
        keys = ", ".join(key for key in type(control.mtp_config).model_fields if key in ignored)
        yield Finding("/mtp_config", f"{start} is given: {keys} ignored; remove them", "warning")


@rule(*(f"mtp_config.{key}" for key in ("levmax", *COSTS)))
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


@rule("learn.teacher")
def _teacher(context: Context) -> Iterator[Finding]:
    name = context.reading.control.learn.teacher
    if name:
        from mtp.teachers import check  # only here: it takes time to load

        try:
            check(name)
        except InvalidInput as error:
            yield Finding("/learn/teacher", str(error))
