"""Losses: prefactors by term, with DeePMD-kit's division by the number of atoms.

Its energy and virial losses are squares divided by N once (here energy_weighting per_atom), or
twice with intensive_ener_virial, mean absolute and Huber errors once (here per_atom_squared).
"""

from __future__ import annotations

from typing import Any

from stages.deepmd_input.forms import Branch
from stages.deepmd_input.keys import Keys

ENERGY = (("e", "energy", 0.02, 1.0), ("f", "forces", 1000.0, 1.0), ("v", "virial", 0.0, 0.0))
"""Letter of a prefactor, our term, default at the start and in the limit."""
TENSORS = {"dipole": "dipole", "polar": "polarizability"}
VIRIAL = (
    "the error of the virial is a mean over nine components there and over six here: off-diagonal "
    "ones count half as much"
)


def loss_of(branch: Branch, kind: str, version: int) -> dict[str, Any]:
    """The loss of a task of the type ``kind``, for tasks.NAME.loss."""
    return _energy(branch.loss) if kind == "ener" else _tensor(branch.loss, kind, version)


def _energy(loss: Keys) -> dict[str, Any]:
    loss.take("type")
    found: dict[str, Any] = {"prefactors": {}}
    for letter, term, start, limit in ENERGY:
        ends = [
            float(loss.take(f"{end}_pref_{letter}", default=default))
            for end, default in (("start", start), ("limit", limit))
        ]
        if any(ends):
            found["prefactors"][term] = ends
    if "virial" in found["prefactors"]:
        loss.note("start_pref_v", VIRIAL)
    found |= _kind(loss)
    for letter in ("ae", "pf", "gf"):
        ends = [loss.take(f"{end}_pref_{letter}", default=0.0) for end in ("start", "limit")]
        if any(ends):
            loss.note(f"start_pref_{letter}", f"this term has no counterpart ({ends})")
    loss.close()
    return found


def _kind(loss: Keys) -> dict[str, Any]:
    """Squared, absolute or Huber's error, and what errors of energies are divided by."""
    intensive = loss.take("intensive_ener_virial", default=False)
    delta = loss.take("huber_delta", default=0.01)
    function = loss.take("loss_func", default="mse")
    if loss.take("use_l1_all", default=False):
        loss.note("use_l1_all", "absolute errors are sums there and means here")
        function = "mae"
    if loss.take("use_huber", default=False):
        deltas = delta if isinstance(delta, list) else [delta] * 3
        given = dict(zip(("energy", "forces", "stress"), map(float, deltas), strict=False))
        return {"loss_func": "huber", "huber_delta": given}
    if function == "mae":
        return {"loss_func": "l1"}
    return {} if intensive else {"energy_weighting": "per_atom"}


def _tensor(loss: Keys, kind: str, version: int) -> dict[str, Any]:
    loss.take("type")
    term = TENSORS[kind]
    found: dict[str, Any] = {
        f"{term}_coeff": float(loss.take("pref", "pref_weight", default=0.0)),
        f"atomic_{term}_coeff": float(loss.take("pref_atomic", "pref_atomic_weight", default=0.0)),
    }
    if not any(found.values()):
        found = {f"{term}_coeff": 1.0, f"atomic_{term}_coeff": 1.0}
        loss.note("pref", "is not given: 1 for structures and atoms is taken")
    found["energy_weighting"] = "total"
    if version < 3:
        found["energy_weighting"] = "per_atom"
        loss.note("pref", "squares are divided by the number of selected atoms there, of all here")
    loss.close()
    return found
