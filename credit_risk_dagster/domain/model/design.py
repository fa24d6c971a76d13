"""The features of loans as models see them.

Imports pandas when it works, not before: the stream scores without it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from credit_risk_dagster.domain.features import Feature

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]


def design(rows: pa.Table, features: Sequence[Feature]) -> "pd.DataFrame":
    """The features as a model sees them: numbers with NaN where missing, categories as strings
    with None where missing."""
    import pandas as pd

    return pd.DataFrame(
        {
            f.name: _labels(rows[f.name]) if is_category(f) else _numbers(rows[f.name])
            for f in features
        }
    )


def is_category(feature: Feature) -> bool:
    return feature.risk_rises == 0


def _numbers(column: pa.ChunkedArray) -> Floats:
    values: Floats = column.to_numpy()
    return values


def _labels(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    if pa.types.is_floating(column.type):
        column = column.cast(pa.int64(), safe=False).cast(pa.string())
    labels: npt.NDArray[np.object_] = column.to_pandas().to_numpy(dtype=object)
    return labels
