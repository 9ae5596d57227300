"""Data files to structures: read, check, weigh, filter, split; and write them again."""

from mtp.data.dataset import Dataset, fingerprint, load, prepare, split
from mtp.data.frame import DataError
from mtp.data.labels import LabelKeys
from mtp.data.reading import Stream, iread, read, write
from mtp.data.scan import Selection, select
from mtp.data.stress_sign import check_stress

__all__ = [
    "DataError",
    "Dataset",
    "LabelKeys",
    "Selection",
    "Stream",
    "check_stress",
    "fingerprint",
    "iread",
    "load",
    "prepare",
    "read",
    "select",
    "split",
    "write",
]
