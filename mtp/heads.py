"""Readouts: from the invariants of an atom to its energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtp.type_embedding import TypeEmbedding

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "silu": functional.silu,
    "softplus": partial(functional.softplus, threshold=40.0),  # exact in float64 up to there
    "gelu": partial(functional.gelu, approximate="tanh"),
    "sigmoid": torch.sigmoid,
}
"""What a hidden layer can apply to its sums."""

FIRST_TIMESTEP = 0.1


@dataclass(frozen=True, eq=False)
class Readout:
    """An energy readout as numbers, for kernels that evaluate it themselves.

    x = (B - mean)·inverse_std, then layers y = t·act(W x + b), added to their input where the
    widths are equal, then the last weights on [y, x], without bias, times scale.

    weights: flat. For each layer W (out, in); the biases b (out,); and, with `timestep` and where
    the widths are equal, the timesteps t (out,), which are 1 elsewhere. Then the last weights. The
    first layer has `n_biases` rows of biases: 1, or one for each species of the central atom.
    """

    hidden: tuple[int, ...]
    weights: Tensor
    mean: Tensor
    inverse_std: Tensor
    scale: float
    activation: str = "tanh"
    timestep: bool = False
    n_biases: int = 1


class Layer(nn.Linear):
    """y = t·act(W x + b), added to x where the widths are equal.

    The timesteps t (out,) are there only where they are asked for and the widths are equal.
    """

    def __init__(self, n_in: int, n_out: int, activation: str, timestep: bool) -> None:
        super().__init__(n_in, n_out, dtype=torch.float64)
        self.activation = ACTIVATIONS[activation]
        self.skips = n_in == n_out
        first = torch.full((n_out,), FIRST_TIMESTEP, dtype=torch.float64)
        self.timestep = nn.Parameter(first) if timestep and self.skips else None

    def forward(self, x: Tensor, step: Tensor, more_bias: Tensor | None = None) -> Tensor:
        """All parameters, and more_bias (…, out), are multiplied by step."""
        sums = super().forward(x)
        y = self.activation((sums if more_bias is None else sums + more_bias) * step)
        if self.timestep is not None:
            y = y * (self.timestep * step)
        return x + y if self.skips else y


class Head(nn.Module):
    """What all heads have: standardised invariants and hidden layers on them.

    A network of `Layer`s on (B − mean)/std; with an embedding the vector of the atom's species
    enters the first layer beside B. The last weights see the last layer and (B − mean)/std itself:
    a network is a correction to a linear readout, whose first weights can be solved for. mean, std
    and scale are set once from data.
    All weights, biases and timesteps are ``step`` times their parameters: the size of an
    optimiser's unit step.

    silent: the network counts for nothing yet (its last weights are zero) and is not evaluated.
    """

    silent = False

    def __init__(
        self,
        n_species: int,
        n_scalars: int,
        hidden: tuple[int, ...],
        activation: str,
        timestep: bool,
        embedding: TypeEmbedding | None,
    ) -> None:
        super().__init__()
        self.n_species = n_species
        self.hidden, self.activation, self.timestep = hidden, activation, timestep
        widths = pairwise((n_scalars, *hidden))
        self.layers = nn.ModuleList(Layer(a, b, activation, timestep) for a, b in widths)
        self._embedding = (embedding,)  # in a tuple: the potential's, not a module of the head
        self.by_species = None
        if embedding is not None and hidden:
            self.by_species = nn.Linear(embedding.width, hidden[0], False, dtype=torch.float64)
        for name, value in (
            ("mean", torch.zeros(n_scalars)),
            ("std", torch.ones(n_scalars)),
            ("scale", torch.ones(())),
            ("step", torch.ones(())),
        ):
            self.register_buffer(name, value.double())

    @property
    def species_bias(self) -> Tensor | None:
        """(n_species, width) what the species adds to the biases of the first layer."""
        return None if self.by_species is None else self.by_species(self._embedding[0]())

    @property
    def n_features(self) -> int:
        """How many numbers the last weights are applied to."""
        return len(self.mean) + sum(self.hidden[-1:])

    @property
    def linear(self) -> bool:
        """Whether there is no hidden layer, or none that counts."""
        return not self.hidden or self.silent

    @property
    def untrained(self) -> bool:
        """Whether there is a network whose last weights are all zero."""
        return False

    def _hidden(self, b: Tensor, species: Tensor) -> Tensor:
        x = inputs = (b - self.mean) / self.std
        bias = self.species_bias
        first = None if bias is None else bias[species]
        for k, layer in enumerate(self.layers):
            x = layer(x, self.step, None if k else first)
        return torch.cat([x, inputs], -1) if self.layers else x

    def _isolated(self) -> Tensor:
        """(n_species, n) what the last weights see for B = 0."""
        species = torch.arange(self.n_species, device=self.mean.device)
        return self._hidden(self.mean.new_zeros(len(species), len(self.mean)), species)


class EnergyHead(Head):
    """Energies of atoms: species shift plus a linear or neural readout of standardised invariants.

    ``hidden`` empty: e = shift(z) + scale · w·(B/std), a classic MTP. Otherwise the network of
    `Head` minus its value for B = 0: an isolated atom has its shift.
    """

    def __init__(
        self,
        n_species: int,
        n_scalars: int,
        hidden: tuple[int, ...] = (),
        activation: str = "tanh",
        timestep: bool = False,
        embedding: TypeEmbedding | None = None,
    ) -> None:
        super().__init__(n_species, n_scalars, hidden, activation, timestep, embedding)
        self.last = nn.Linear(self.n_features, 1, bias=False, dtype=torch.float64)
        self.shifts = nn.Parameter(torch.zeros(n_species, dtype=torch.float64))

    @property
    def untrained(self) -> bool:
        hidden = self.last.weight[:, : -len(self.mean)]
        return bool(self.hidden) and not bool(hidden.any())

    @property
    def linear_weights(self) -> Tensor:
        """(1, n_scalars) those of the last weights that the invariants are multiplied by."""
        return self.last.weight[:, -len(self.mean) :]

    @property
    def weights(self) -> Tensor:
        """(1, n) what `features` are multiplied by."""
        return self.linear_weights if self.linear else self.last.weight

    def linear_unit(self) -> Tensor:
        """(n_scalars,) derivatives of the energy by `linear_weights`, over the invariants."""
        return self.scale * self.step / self.std

    def forward(self, b: Tensor, species: Tensor) -> Tensor:
        """(atoms,) energies without the shifts, in eV."""
        return (self.features(b, species) @ self.weights.T).squeeze(-1)

    def features(self, b: Tensor, species: Tensor) -> Tensor:
        """(atoms, n) what the last weights are applied to, in eV: e = features·w."""
        if self.linear:
            return b * self.linear_unit()
        species = species.long()
        return (self._hidden(b, species) - self._isolated()[species]) * (self.scale * self.step)

    # --- for kernels that read out themselves ---------------------------------------------------

    def offset(self) -> Tensor:
        """(n_species,) what `readout` gives for B = 0, in eV; not part of the energy."""
        if self.linear:
            return torch.zeros_like(self.shifts)
        return self.last(self._isolated())[:, 0] * (self.scale * self.step)

    def readout(self) -> Readout:
        """The readout as numbers; it does not know of `offset`."""
        mean = torch.zeros_like(self.mean) if self.linear else self.mean
        return Readout(
            **{"hidden": () if self.linear else self.hidden},
            **{"weights": self._flat().detach(), "mean": mean},
            **{"inverse_std": 1 / self.std, "scale": float(self.scale)},
            **{"activation": self.activation, "timestep": self.timestep},
            n_biases=1 if self.by_species is None or self.linear else len(self.shifts),
        )

    def add_gradient(self, weights_bar: Tensor, energy_weight: Tensor) -> None:
        """Add to the parameters' .grad.

        weights_bar: gradient by the flat weights of `readout`.  energy_weight: (n_species,) sum
        over the atoms of the derivative by their energies, each of which lacks `offset`.
        """
        with torch.enable_grad():
            weights = self._flat()
            if not weights.requires_grad:
                return
            loss = (weights.double() * weights_bar).sum()
            if not self.linear:
                loss = loss - (self.offset().double() * energy_weight).sum()
        loss.backward()

    def _flat(self) -> Tensor:
        """The weights of `Readout` as a function of the parameters."""
        if self.linear:
            return self.weights.reshape(-1) * self.step
        parts, by_species = [], self.species_bias
        for layer in self.layers:
            bias = layer.bias
            if not parts and by_species is not None:
                bias = bias + by_species
            parts += [layer.weight, bias, *([] if layer.timestep is None else [layer.timestep])]
        return torch.cat([part.reshape(-1) for part in (*parts, self.last.weight)]) * self.step


def add_to_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """parameter.grad += gradient, unless the parameter is frozen."""
    if not parameter.requires_grad:
        return
    gradient = gradient.to(parameter.dtype)
    parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
