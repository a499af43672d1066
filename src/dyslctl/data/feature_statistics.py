"""Statistics of a data set's columns, as LeRobot keeps them: of each episode, and of all.

Those of all are put together from those of the episodes, so that no more than one episode is ever looked at:

    mean = sum n_i mean_i / n        std^2 = sum n_i (std_i^2 + (mean_i - mean)^2) / n        n = sum n_i

Its quantiles are the mean of the episodes' quantiles, which is LeRobot's own approximation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Statistics = Mapping[str, np.ndarray]
"""``min max mean std count`` and :data:`QUANTILES`, each ``[D]``, of an image ``[3, 1, 1]``; ``count`` is ``[1]``."""


def of_numbers(values: np.ndarray) -> Statistics:
    """Of ``values`` ``[T, D]`` or ``[T]``."""
    rows = values.reshape(len(values), -1)
    return {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0, np.float64),
        "std": rows.std(0, np.float64),
        "count": np.array([len(rows)]),
        **{name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()},
    }


def of_images(levels: np.ndarray, count: int) -> Statistics:
    """Of ``count`` images, from how often each level occurs in each colour, ``[3, 256]``; in units of 255."""
    scale, pixels = np.arange(256) / 255, levels.sum(1)
    mean = levels @ scale / pixels
    present = [np.flatnonzero(colour) for colour in levels]
    cumulated = np.cumsum(levels, axis=1)
    found = {
        "min": np.array([scale[level[0]] for level in present]),
        "max": np.array([scale[level[-1]] for level in present]),
        "mean": mean,
        "std": np.sqrt(np.maximum(levels @ scale**2 / pixels - mean**2, 0)),
        **{name: scale[(cumulated < share * pixels[:, None]).sum(1)] for name, share in QUANTILES.items()},
    }
    return {name: value.reshape(3, 1, 1) for name, value in found.items()} | {"count": np.array([count])}


def together(parts: Sequence[Statistics]) -> Statistics:
    """Of all that ``parts`` are the statistics of."""
    counts = np.array([part["count"][0] for part in parts])
    weights = counts / counts.sum()

    def mean(name: str) -> np.ndarray:
        return np.asarray(np.tensordot(weights, np.stack([part[name] for part in parts]), 1))

    total = mean("mean")
    spread = [part["std"] ** 2 + (part["mean"] - total) ** 2 for part in parts]
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": total,
        "std": np.sqrt(np.tensordot(weights, np.stack(spread), 1)),
        "count": np.array([counts.sum()]),
        **{name: mean(name) for name in QUANTILES},
    }
