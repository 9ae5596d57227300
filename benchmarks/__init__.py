"""Measurements of speed, memory and accuracy; docs/benchmarks.md says how to run them."""

import os

# One thread unless a benchmark asks for more; read by numpy and torch when they are imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
