"""Krippendorff's α, in so many lines because the package of that name is under the GPL (the tests compare both)."""

from __future__ import annotations

import numpy as np


def ordinal_alpha(values: np.ndarray) -> float | None:
    """α = 1 − observed / expected disagreement, of ordinal values.

    With n_c the number of values c that can be paired, o_ck the coincidences (each pair of values of one unit counts
    1 / (values of the unit − 1)) and the ordinal difference δ_ck = Σ_{g=c..k} n_g − (n_c + n_k) / 2:
    α = 1 − (n − 1) · Σ o_ck δ²_ck / Σ n_c n_k δ²_ck. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011),
    section D with the ordinal metric.

    Args:
        values: [raters, units]; NaN where a rater said nothing of a unit.

    Returns None where no unit has two values, or all values are the same.
    """
    said = ~np.isnan(values)
    values = values[:, said.sum(axis=0) >= 2]
    said = ~np.isnan(values)
    levels = np.unique(values[said])
    if len(levels) < 2:
        return None
    counts = np.stack([(values == level).sum(axis=0) for level in levels], axis=1).astype(
        float
    )  # [units, levels]
    pairable = counts.sum(axis=1, keepdims=True)
    coincidences = (counts / (pairable - 1)).T @ counts - np.diag((counts / (pairable - 1)).sum(axis=0))
    n_c = counts.sum(axis=0)
    # The middle of each level on the scale of how many values lie below: their difference is δ.
    middle = np.cumsum(n_c) - n_c / 2
    squared = (middle[:, None] - middle[None, :]) ** 2
    observed = (coincidences * squared).sum()
    expected = (np.outer(n_c, n_c) * squared).sum()
    return float(1 - (n_c.sum() - 1) * observed / expected)
