"""What all tests share: seeds, markers and the demo data."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

DEMO = Path(__file__).parents[1] / "configs" / "demo"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine or this call does not run."""
    slow = pytest.mark.skip(reason="slow: run with --slow")
    cuda = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(cuda)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same generators, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator for the test's own numbers."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def demo() -> Path:
    """Folder with the silicon data: train.xyz.gz, test.xyz.gz, control.json."""
    return DEMO
