"""The section of seed, precision and resources."""

from __future__ import annotations

from typing import Literal

from stages.control.sections.keys import Section, key


class RunConfig(Section):
    """The run itself."""

    seed: int = key(
        0, "Seed of the split, the first parameters and the batches.", example=1, ge=0, le=2**32 - 1
    )
    dtype: Literal["float64", "float32"] = key(
        "float64", "Precision of the training.", example="float32"
    )
    threads: int | None = key(
        None, "Threads of the computation.", example=4, otherwise="what torch chooses", ge=1
    )
    scheduler_gamma: float = key(
        0.85, "Factor of the learning rate in lr_scheduling `step`.", example=0.5, gt=0, le=1
    )
    lr_min_ratio: float = key(
        0.0,
        "Where lr_scheduling `linear_warmup` ends, as a share of the stage's learning rate.",
        example=0.01,
        ge=0,
        le=1,
    )
    memory: float = key(
        4.0,
        "Memory for neighbour pairs that are kept; what exceeds it is computed anew.",
        example=16.0,
        unit="GiB",
        gt=0,
    )
    grade: bool = key(
        True,
        "Put active sets of the training data into the best model, so that it knows extrapolation "
        "grades.",
        example=False,
    )
    task_draw: Literal["shares", "random"] = key(
        "shares",
        "How steps go to the tasks: dealt exactly by task_weight and shuffled (`shares`), or drawn "
        "with these probabilities at every step (`random`, as DeePMD-kit does).",
        example="random",
    )
