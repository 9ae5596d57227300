"""Descriptor and fitting nets → MTP and readouts."""

from __future__ import annotations

from typing import Any

from stages.deepmd_input.forms import Branch, Form
from stages.deepmd_input.keys import Keys

ACTIVATIONS = {
    "tanh": "tanh",
    "silu": "silu",
    "softplus": "softplus",
    "gelu": "gelu",
    "gelu_tf": "gelu",
    "sigmoid": "sigmoid",
}
SMALL = {"levmax": 8, "moment_init_cost": 2, "moment_mu_cost": 1, "moment_nu_cost": 1}
LARGE = {"levmax": 16, "moment_init_cost": 2, "moment_mu_cost": 4, "moment_nu_cost": 1}
WIDE = 1600
"""Outputs of an embedding net × axis neurons from which a descriptor counts as large."""
DEEP = ("dpa2", "dpa3")
"""Descriptors that pass messages: they count as large."""
WITH_EMBEDDING = ("se_atten", "se_atten_v2", "dpa1", "dpa2", "dpa3")
"""Descriptors that have a type embedding of their own."""
ONE_SEED = {"seed": "run_config.seed serves all"}


def mtp_config(form: Form) -> dict[str, Any]:
    """An MTP of the descriptor's cutoff, small or large as the descriptor is."""
    descriptor = form.descriptor
    if not descriptor.data:
        return {}
    cutoff = max(_cutoffs(descriptor.data), default=6.0)
    kind = descriptor.data.get("type", "se_e2_a")
    size = max(_sizes(descriptor.data), default=WIDE)
    large = size >= WIDE or kind in DEEP
    why = f"it is {kind}" if kind in DEEP else f"outputs × axis neurons are {size}"
    form.notes.add(
        descriptor.place,
        f"{kind} becomes an MTP of the same cutoff, {cutoff:g} Å, level {'16' if large else '8'} "
        f"({'LARGE' if large else 'SMALL'}: {why}; large from {WIDE}); its other keys have no "
        "counterpart",
    )
    return {"rc": float(cutoff), **(LARGE if large else SMALL)}


def _objects(data: Any):
    """An object and all objects in it."""
    if isinstance(data, dict):
        yield data
        data = list(data.values())
    if isinstance(data, list):
        for one in data:
            yield from _objects(one)


def _cutoffs(data: dict[str, Any]) -> list[float]:
    """Every cutoff in a descriptor, which may be a hybrid or have parts."""
    names = ("rcut", "e_rcut")
    return [one[name] for one in _objects(data) for name in names if name in one]


def _sizes(data: dict[str, Any]) -> list[int]:
    """Size of every embedding net in a descriptor."""
    return [
        one["neuron"][-1] * one.get("axis_neuron", 4)
        for one in _objects(data)
        if isinstance(one.get("neuron"), list) and one["neuron"]
    ]


def type_embedding(form: Form) -> dict[str, Any] | None:
    """The type embedding of the model or of its descriptor."""
    if "type_embedding" in form.model:
        section = form.model.section("type_embedding")
        found = {
            "neuron": section.take("neuron", default=[8]),
            "resnet_dt": section.take("resnet_dt", default=False),
        }
        section.close(ONE_SEED)
        return found
    dims = [one["tebd_dim"] for one in _objects(form.descriptor.data) if "tebd_dim" in one]
    if form.descriptor.data.get("type") in WITH_EMBEDDING or dims:
        return {"neuron": [dims[0] if dims else 8]}
    return None


def precision(form: Form) -> dict[str, Any]:
    """The precision that all nets ask for."""
    nets = [form.descriptor.data, *(branch.fitting.data for branch in form.branches)]
    asked = {net.get("precision", "default") for net in nets if net}
    return {"dtype": "float32"} if asked == {"float32"} else {}


def head(branch: Branch, form: Form, embedded: bool) -> dict[str, Any]:
    """The keys of a task that say what it predicts, and how."""
    net = branch.fitting
    if not net.data and not form.descriptor.data:  # completed from the loaded model
        return {}
    kind = {"global_polar": "polar"}.get(k := net.take("type", default="ener"), k)
    task: dict[str, Any] = {} if kind == "ener" else {"type": kind}
    task["readout"] = _readout(net, embedded)
    layers = net.take("layer_name")
    if layers is None and branch.shared is not None and _several(branch, form):
        layers = [f"{branch.shared}_{i}" for i in range(len(task["readout"]["neuron"]) + 1)]
    if layers is not None:
        task["layer_name"] = layers
    if branch.finetune_head:
        task["finetune_head"] = branch.finetune_head
    selected = _selected(net, branch.type_map)
    if selected and kind != "ener":
        task["sel_type"] = selected
    net.take("precision")
    net.close(
        ONE_SEED
        | {
            "fit_diag": "tensors are sums of whole symmetric tensors here",
            "shift_diag": "the isotropic shift of each species is always fitted",
            "dim_case_embd": "a shared readout does not know which task it serves",
        }
    )
    return task


def _readout(net: Keys, embedded: bool) -> dict[str, Any]:
    neuron = net.take("neuron", "n_neuron", default=[120, 120, 120])
    asked = net.take("activation_function", default="tanh")
    if asked not in ACTIVATIONS:
        net.note("activation_function", f"{asked!r} has no counterpart: tanh is taken")
    readout = {"neuron": neuron, "activation": ACTIVATIONS.get(asked, "tanh")}
    readout["resnet_dt"] = net.take("resnet_dt", default=True)
    if embedded and neuron:
        readout["embedding"] = True
    return readout


def _several(branch: Branch, form: Form) -> bool:
    return sum(other.shared == branch.shared for other in form.branches) > 1


def _selected(net: Keys, type_map: list[str]) -> list[str]:
    """Symbols of the atoms that carry a tensor; [] for all."""
    chosen, left_out = net.take("sel_type"), net.take("atom_exclude_types", default=[])
    chosen = [chosen] if isinstance(chosen, int) else chosen
    if chosen is None and not left_out:
        return []
    wanted = set(range(len(type_map)) if chosen is None else chosen) - set(left_out)
    return [symbol for i, symbol in enumerate(type_map) if i in wanted]


def energies_of_atoms(branch: Branch) -> dict[str, float] | None:
    """e0 of the data, where the input gives the energy of every type of atom."""
    values = branch.fitting.take("atom_ener")
    if not values:
        return None
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(branch.type_map) or len(values) != len(branch.type_map):
        branch.fitting.note("atom_ener", "energies of some types only: all are fitted here")
        return None
    return dict(zip(branch.type_map, map(float, numbers), strict=True))
