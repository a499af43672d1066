"""``dataset_statistics.json``: the bounds that actions and proprioception are normalised with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

from dyslctl_openvla_oft.config import Normalization

_EPSILON = 1e-8


class FeatureStatistics(BaseModel):
    """Statistics of one quantity, one number a dimension.

    Attributes:
        mask: Dimensions that are normalised; the others pass unchanged. ``None``: all are.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    mean: tuple[float, ...]
    std: tuple[float, ...]
    max: tuple[float, ...]
    min: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...] | None = None

    @model_validator(mode="after")
    def _equal_lengths(self) -> Self:
        lengths = {name: len(value) for name, value in self if value is not None}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"every statistic needs one number a dimension, found {lengths}")
        return self

    @classmethod
    def of(cls, values: np.ndarray, mask: tuple[bool, ...] | None = None) -> FeatureStatistics:
        """The statistics of ``[M, D]`` values."""
        q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
        rows = {
            "mean": values.mean(0), "std": values.std(0), "max": values.max(0), "min": values.min(0),
            "q01": q01, "q99": q99,
        }  # fmt: skip
        return cls(**{name: tuple(map(float, row)) for name, row in rows.items()}, mask=mask)

    @property
    def normalized(self) -> np.ndarray:
        """``[D]`` bool, the dimensions that are normalised."""
        return np.ones(len(self.q01), bool) if self.mask is None else np.array(self.mask)

    def normalize(self, values: np.ndarray, by: Normalization = "bounds_q99") -> np.ndarray:
        """``clip(2 (x - low) / (high - low + 1e-8) - 1, -1, 1)`` of ``[..., D]``, float32."""
        low, high = self.bounds(by)
        scaled = np.clip(2 * (values - low) / (high - low + _EPSILON) - 1, -1, 1)
        return np.where(self.normalized, scaled, values).astype(np.float32)

    def unnormalize(self, values: np.ndarray, by: Normalization = "bounds_q99") -> np.ndarray:
        """``0.5 (a + 1) (high - low + 1e-8) + low`` of ``[..., D]``, float32."""
        low, high = self.bounds(by)
        return np.where(self.normalized, 0.5 * (values + 1) * (high - low + _EPSILON) + low, values).astype(np.float32)

    def bounds(self, by: Normalization) -> tuple[np.ndarray, np.ndarray]:
        """``low`` and ``high``, ``[D]`` each: quantiles, or minimum and maximum."""
        low, high = (self.q01, self.q99) if by == "bounds_q99" else (self.min, self.max)
        return np.array(low), np.array(high)


class DatasetStatistics(BaseModel):
    """One data set's entry; its key is the ``unnorm_key``. ``proprio`` is there if the robot reports any."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    action: FeatureStatistics
    proprio: FeatureStatistics | None = None
    num_transitions: int
    num_trajectories: int


Statistics = Mapping[str, DatasetStatistics]
STATISTICS: TypeAdapter[dict[str, DatasetStatistics]] = TypeAdapter(dict[str, DatasetStatistics])
"""The whole file."""
