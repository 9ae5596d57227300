"""L-BFGS with the linear weights eliminated: they are solved for at every point.

With w*(c) the weights that minimise the loss L for the other parameters c, the function
c → L(c, w*(c)) is far easier to descend than L(c, w): a step in c that leaves w behind raises the
loss however good it is (Golub & Pereyra, SIAM J. Numer. Anal. 10, 413, 1973). Its gradient is the
derivative of L by c alone, its Gauss-Newton matrix the Schur complement of the whole one.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import Parameter

from stages.objective import Evaluation, Objective
from stages.optimisers.curvature import EXACT
from stages.optimisers.lbfgs import LBFGS, Point
from stages.optimisers.least_squares import solve
from stages.plan import Stage

RIDGE = 1e-12
DAMPING = 1e-3  # a larger trust in the Gauss-Newton matrix sends the first steps too far
REFRESH, REFRESH_SAMPLED = 5, 10  # iterations between matrices, exact ones and estimates


class VariableProjection(LBFGS):
    """One step is one accepted iteration; each of its evaluations solves the normal equations.

    All losses must be mean squares, and the stage must move the readouts of its tasks.
    """

    def __init__(self, groups: dict[str, list[Parameter]], stage: Stage) -> None:
        super().__init__(groups, stage)
        self.shifts = "shifts" in groups
        self.damping = DAMPING

    def step(self, objective: Objective, lr: float) -> Evaluation:
        """Move to a point of lower loss; returns the loss there."""
        if not self.solved:
            self._divide(objective)
        return super().step(objective, lr)

    def _divide(self, objective: Objective) -> None:
        """The parameters that are solved for, and those that are left to L-BFGS."""
        heads = [objective.potential.heads[task] for task in objective.shares]
        linear = {id(head.last.weight) for head in heads} | {id(head.shifts) for head in heads}
        self.solved = [p for p in self.parameters if id(p) in linear]
        self.parameters = [p for p in self.parameters if id(p) not in linear]

    def _evaluate(
        self, objective: Objective, x: Tensor, t: float, direction: Tensor | None
    ) -> Point:
        self._set(x)
        solve(objective, self.shifts, RIDGE, stay=True)  # else the gradient is not quite the loss's
        return super()._evaluate(objective, x, t, direction)

    def _stale(self) -> bool:
        exact = sum(p.numel() for p in self.parameters) <= EXACT
        return self.iterations % (REFRESH if exact else REFRESH_SAMPLED) == 0

    def _estimate(self, objective: Objective) -> None:
        super()._estimate(objective)
        self.steps, self.changes = [], []
