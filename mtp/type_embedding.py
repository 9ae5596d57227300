"""The type embedding: a vector for every species, from which all that depends on species is made.

Radial coefficients of a pair of species are bilinear in the two vectors, c_ij = Σ_ab x_ia x_jb
C_ab, so that the number of parameters grows with the species, not with their square. Vectors of as
many independent components as there are species give every table of coefficients.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

FIRST_TIMESTEP = 0.1


class TypeEmbedding(nn.Module):
    """One-hot species → tanh layers of the widths ``neuron`` → (n_species, width) vectors.

    A layer as wide as its input adds it, one twice as wide adds it twice side by side; with
    ``timestep`` what is added to is multiplied by a learned factor per component. Source: the type
    embedding of DeePMD-kit (Zhang et al., 2018, arXiv:1805.09003, for the residual layers).
    """

    def __init__(self, n_species: int, neuron: tuple[int, ...], timestep: bool = False) -> None:
        super().__init__()
        widths = (n_species, *neuron)
        self.layers = nn.ModuleList(
            nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(widths)
        )
        self.skips = [bool(k) and b in (a, 2 * a) for k, (a, b) in enumerate(pairwise(widths))]
        self.times = nn.ParameterList(
            nn.Parameter(torch.full((layer.out_features,), FIRST_TIMESTEP, dtype=torch.float64))
            for layer, skips in zip(self.layers, self.skips, strict=True)
            if timestep and skips
        )
        self.n_species, self.width = n_species, widths[-1]

    def forward(self) -> Tensor:
        """(n_species, width) the vectors."""
        weight = self.layers[0].weight
        x = torch.eye(self.n_species, dtype=weight.dtype, device=weight.device)
        times = iter(self.times)
        for layer, skips in zip(self.layers, self.skips, strict=True):
            y = torch.tanh(layer(x))
            if skips:
                y = y * next(times, 1.0) + x.repeat(1, y.shape[1] // x.shape[1])
            x = y
        return x

    def extended(self) -> Tensor:
        """(n_species, 1 + width) the vectors after a component that is 1 for all species."""
        x = self()
        return torch.cat([x.new_ones(len(x), 1), x], 1)

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Random vectors of components around ±1/2, different for every species."""
        for layer in self.layers:
            inputs = 1 if layer is self.layers[0] else layer.in_features  # one-hot: one at a time
            for parameter, size in ((layer.weight, inputs**-0.5), (layer.bias, 0.1)):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(size * noise)
        for time in self.times:
            time.fill_(FIRST_TIMESTEP)
