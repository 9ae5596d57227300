"""L-BFGS from a Gauss-Newton start with a Wolfe line search; one step is one accepted iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from stages.objective import Evaluation, Objective
from stages.optimisers.curvature import Preconditioner, flat_gradient
from stages.optimisers.division import Division
from stages.optimisers.least_squares import solve
from stages.plan import Stage
from stages.say import say

HISTORY = 50  # pairs of steps and gradient changes that are remembered
NUMBERS = 4_000_000  # at most so many numbers in them: they are part of every checkpoint
REFRESH = 50  # iterations between estimates of the Gauss-Newton matrix; more often at the start
EARLY = (0, 10, 25)
DAMPING, LARGEST_DAMPING = 1e-5, 10.0  # of that matrix; raised where its step fails
# The same where linear weights are solved for: a larger trust sends the first steps too far.
REDUCED_REFRESH, REDUCED_REFRESH_EXACT, REDUCED_DAMPING = 10, 5, 1e-3
SOLVE_RIDGE = 1e-12
PATIENCE, ENOUGH = 10, 1e-3  # converged: so many iterations lower the loss by less than this share
SAME_NOISE = 0.05  # a change by less than this share is none: the loss stays the same one
TRIALS = 20  # evaluations of one line search at most
DECREASE, CURVATURE = 1e-4, 0.9  # the two constants of the Wolfe conditions


class LBFGS:
    """Full-batch quasi-Newton descent (Nocedal & Wright, Numerical Optimization, ch. 3 and 7).

    The memory of steps corrects a Gauss-Newton matrix that is estimated anew from time to time
    (`curvature.py`), so that no learning rate is needed. When no step lowers the loss the memory is
    dropped and the Gauss-Newton step tried with more and more damping; when that fails
    too, or when ten iterations win next to nothing, the stage has converged and further steps
    change nothing.

    The weights of linear readouts, and of the linear part beside a network, are no variables of the
    search: they are solved for at every point (variable projection; Golub & Pereyra, SIAM J. Numer.
    Anal. 10, 413, 1973). With w*(c) those that minimise the loss L for the other parameters c,
    c → L(c, w*(c)) is far easier to descend than L(c, w). Its gradient is the derivative of L by c
    alone, its Gauss-Newton matrix the Schur complement of the whole one.
    """

    full_batch = True

    def __init__(self, groups: dict[str, list[Parameter]], stage: Stage) -> None:
        self.parameters = [p for group in groups.values() for p in group]
        self.division: Division | None = None
        size = sum(p.numel() for p in self.parameters)
        self.history = max(5, min(HISTORY, NUMBERS // (2 * max(size, 1))))
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []
        self.inverse: Preconditioner | None = None
        self.name = stage.name
        self.iterations = 0
        self.damping = DAMPING
        self.here: Point | None = None  # loss and gradient where the parameters stand
        self.pull = stage.pull
        self.noise = math.nan  # of the pull, kept while the Gauss-Newton matrix is
        self.recent: list[float] = []  # losses of the last iterations
        self.converged = False

    def step(self, objective: Objective, lr: float) -> Evaluation:
        """Move to a point of lower loss; returns the loss there."""
        if self.division is None:
            self.division = objective.division(self.parameters)
            if self.division.solved:
                self.damping = max(self.damping, REDUCED_DAMPING)
        renews = not self.converged and self._stale()
        if self.pull:
            if renews and not math.isclose(objective.noise, self.noise, rel_tol=SAME_NOISE):
                self.noise = objective.noise
                self.here, self.recent = None, []  # it is another loss now
            objective = replace(objective, noise=self.noise)
        if self.here is None:
            self.here = self._evaluate(objective, self._get(), 0.0, None)
            if not self.here.finite:
                raise objective.not_finite()
        origin = self._get()
        if renews:
            self._estimate(objective)
        found = None if self.converged else self._search(objective, origin)
        if found is None:
            self._converge("no step lowers the loss")
            return objective.value()
        self.iterations += 1
        new = self._get()
        self._remember(new - origin, found.gradient - self.here.gradient)
        self.here = found
        self._watch(found.value)
        return found.evaluation

    def _watch(self, value: float) -> None:
        """Whether the last iterations were worth their while."""
        self.recent = [*self.recent, value][-PATIENCE - 1 :]
        if len(self.recent) > PATIENCE and self.recent[0] - value < ENOUGH * abs(value):
            self._converge(
                f"{PATIENCE} iterations lower the loss by less than {100 * ENOUGH:g} %"
            )

    def _converge(self, why: str) -> None:
        if not self.converged:
            done = f"{self.name}: converged after {self.iterations} iterations"
            say(f"{done}: {why}; its other epochs change nothing")
        self.converged = True

    def _stale(self) -> bool:
        """Whether the Gauss-Newton matrix is to be estimated before this iteration."""
        if self.division.solved:
            every = REDUCED_REFRESH_EXACT if self.division.exact else REDUCED_REFRESH
            return self.iterations % every == 0
        return self.iterations in EARLY or self.iterations % REFRESH == 0

    def _estimate(self, objective: Objective) -> None:
        self.inverse = objective.preconditioner(self.division, self.iterations, self.damping)
        if self.division.solved:
            self.steps, self.changes = [], []

    def _search(self, objective: Objective, origin: Tensor) -> Point | None:
        """Line search along the quasi-Newton direction, then along Gauss-Newton ones.

        Each Gauss-Newton step that fails raises the damping, towards the steepest descent. The
        parameters end at what is found, or where they were.
        """
        begin = self._state()
        while True:
            direction = self._direction()
            slope = float(direction @ self.here.gradient)
            if slope < 0:  # else the gradient is zero or the memory is spoilt
                along = _along(self, objective, origin, direction)
                found = wolfe(along, self.here.at(0.0, slope), 1.0)
                if found is not None:
                    self._restore(found.state)
                    return found
            self._restore(begin)
            if self.steps:
                self.steps, self.changes = [], []
            elif slope < 0 and self.damping < LARGEST_DAMPING:
                self.damping *= 100
                self._estimate(objective)
            else:
                return None

    def _direction(self) -> Tensor:
        """−H·gradient by the two-loop recursion."""
        q = -self.here.gradient
        inverse = [1.0 / (s @ y) for s, y in zip(self.steps, self.changes, strict=True)]
        alpha = [q.new_zeros(())] * len(inverse)
        for k in reversed(range(len(inverse))):
            alpha[k] = inverse[k] * (self.steps[k] @ q)
            q = q - alpha[k] * self.changes[k]
        q = self.inverse(q)
        if inverse:
            q = q / (inverse[-1] * (self.changes[-1] @ self.inverse(self.changes[-1])))
        for k in range(len(inverse)):
            q = q + (alpha[k] - inverse[k] * (self.changes[k] @ q)) * self.steps[k]
        return q

    def _remember(self, step: Tensor, change: Tensor) -> None:
        if step @ change > 1e-10 * step.norm() * change.norm():  # keeps H positive definite
            self.steps = [*self.steps, step][-self.history :]
            self.changes = [*self.changes, change][-self.history :]

    def _evaluate(
        self, objective: Objective, x: Tensor, t: float, direction: Tensor | None
    ) -> Point:
        self._set(x)
        if self.division.solved:
            # a ridge towards where they stand: else the gradient is not the loss's
            solve(objective, self.division.solved, SOLVE_RIDGE, eliminate=True)
        evaluation = objective.gradient()
        gradient = flat_gradient(self.parameters)[self.division.free]
        slope = 0.0 if direction is None else float(direction @ gradient)
        return Point(t, float(evaluation.value), slope, gradient, evaluation, self._state())

    def _state(self) -> Tensor:
        """What `_restore` needs to come back to where all parameters stand."""
        return flat(self.parameters)

    def _restore(self, state: Tensor) -> None:
        assign(self.parameters, state)

    def _get(self) -> Tensor:
        return flat(self.parameters)[self.division.free]

    def _set(self, x: Tensor) -> None:
        values = flat(self.parameters)
        values[self.division.free] = x
        assign(self.parameters, values)

    def state_dict(self) -> dict[str, Any]:
        here = self.here
        return {
            "steps": list(self.steps),
            "changes": list(self.changes),
            "value": None if here is None else here.value,
            "gradient": None if here is None else here.gradient,
            "converged": self.converged,
            "iterations": self.iterations,
            "recent": list(self.recent),
            "damping": self.damping,
            "noise": self.noise,
            "inverse": None if self.inverse is None else vars(self.inverse),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        def there(tensors: list[Tensor]) -> list[Tensor]:
            return [tensor.to(self.parameters[0].device) for tensor in tensors]

        self.steps, self.changes = there(state["steps"]), there(state["changes"])
        self.converged, self.iterations = state["converged"], state["iterations"]
        self.damping, self.recent = state["damping"], list(state["recent"])
        self.noise = state["noise"]
        if state["inverse"] is not None:
            names = list(state["inverse"])
            self.inverse = Preconditioner(*there([state["inverse"][name] for name in names]))
        if state["value"] is not None:
            gradient = there([state["gradient"]])[0]
            self.here = Point(0.0, state["value"], 0.0, gradient, None, None)


@dataclass(frozen=True)
class Point:
    """One evaluation on a line: where, value, derivative along the line, whole gradient.

    state: all parameters there.
    """

    t: float
    value: float
    slope: float
    gradient: Tensor | None
    evaluation: Evaluation | None
    state: Tensor | None

    @property
    def finite(self) -> bool:
        return (
            math.isfinite(self.value)
            and math.isfinite(self.slope)
            and bool(torch.isfinite(self.gradient).all())
        )

    def at(self, t: float, slope: float) -> Point:
        """The same evaluation, seen from another line."""
        return replace(self, t=t, slope=slope)


def flat(parameters: list[Parameter]) -> Tensor:
    """The parameters as one float64 vector."""
    return torch.cat([p.detach().reshape(-1).double() for p in parameters])


@torch.no_grad()
def assign(parameters: list[Parameter], values: Tensor) -> None:
    """Set the parameters from what `flat` gives."""
    sizes = [p.numel() for p in parameters]
    for parameter, part in zip(parameters, values.split(sizes), strict=True):
        parameter.copy_(part.view_as(parameter))


def _along(
    optimiser: LBFGS, objective: Objective, origin: Tensor, direction: Tensor
) -> Callable[[float], Point]:
    return lambda t: optimiser._evaluate(objective, origin + t * direction, t, direction)


def wolfe(along: Callable[[float], Any], start: Any, first: float) -> Any | None:
    """A point that satisfies the strong Wolfe conditions, else the lowest that decreases enough.

    along: t → point with ``t``, ``value``, ``slope``, ``finite``.  start: the point at t = 0 with a
    negative slope.  first: first t tried.  None when nothing decreases the value.
    """
    low, high, best, t = start, None, None, first
    for _ in range(TRIALS):
        point = along(t)
        decreases = point.finite and point.value <= start.value + DECREASE * t * start.slope
        if decreases and point.value < start.value and (best is None or point.value < best.value):
            best = point
        if not decreases or point.value >= low.value:
            high = point
        elif abs(point.slope) <= -CURVATURE * start.slope:
            return point
        else:
            # The minimum lies between two neighbours of the bracket; keep the lower one in `low`.
            rising = point.slope * (1.0 if high is None or high.t > low.t else -1.0) >= 0
            low, high = point, low if rising else high
        t = 2.5 * low.t if high is None else _between(low, high)
        if high is not None and abs(high.t - low.t) < 1e-12 * max(abs(low.t), abs(high.t)):
            break
    return best


def _between(low: Any, high: Any) -> float:
    """Minimum of the cubic through both points, kept off the ends; the middle if there is none."""
    width = high.t - low.t
    if high.finite:
        a = low.slope + high.slope - 3.0 * (low.value - high.value) / (low.t - high.t)
        root = a * a - low.slope * high.slope
        if root >= 0:
            b = math.copysign(math.sqrt(root), width)
            divisor = high.slope - low.slope + 2.0 * b
            if divisor:
                fraction = 1.0 - (high.slope + b - a) / divisor
                return low.t + width * min(max(fraction, 0.1), 0.9)
    return low.t + 0.5 * width if high.finite else low.t + 0.1 * width
