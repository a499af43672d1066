"""Between executed actions and the action head's space."""

from __future__ import annotations

import numpy as np

from dyslctl.types import ActionChunk
from dyslctl_openvla_oft.config import ActionConfig
from dyslctl_openvla_oft.statistics import DatasetStatistics, FeatureStatistics


def statistics_of(
    actions: np.ndarray, proprio: np.ndarray, trajectories: int, config: ActionConfig
) -> DatasetStatistics:
    """The entry of ``dataset_statistics.json`` for a training set.

    Args:
        actions: ``[M, A]`` executed actions.
        proprio: ``[M, P]``.
        trajectories: Episodes they come from.
        config: Decides whether the last action dimension is a gripper, which is never normalised.
    """
    mask = (True,) * (config.action_dim - 1) + (config.gripper == "none",)
    return DatasetStatistics(
        action=FeatureStatistics.of(_raw(actions, config), mask),
        proprio=FeatureStatistics.of(proprio),
        num_transitions=len(actions),
        num_trajectories=trajectories,
    )


def normalize(actions: np.ndarray, statistics: FeatureStatistics, config: ActionConfig) -> np.ndarray:
    """Executed actions ``[..., A]`` -> targets of the head, float32.

    A dimension that never moved in the training data is 0, as in the released data pipeline.
    """
    constant = statistics.normalized & (np.array(statistics.min) == np.array(statistics.max))
    return np.where(constant, np.float32(0), statistics.normalize(_raw(actions, config), config.normalization))


def decode(predicted: np.ndarray, statistics: FeatureStatistics, config: ActionConfig) -> ActionChunk:
    """The head's ``[N, A]`` -> what the robot executes; the inverse of :func:`normalize`."""
    executed = statistics.unnormalize(predicted, config.normalization)
    normalized = predicted.astype(np.float32)
    if config.gripper == "libero":
        # Released post-processing: [0, 1] -> [-1, 1], sign, and the other way round. Here 0.5 itself closes.
        normalized = normalized.copy()
        executed[:, -1] = normalized[:, -1] = np.where(executed[:, -1] > 0.5, -1.0, 1.0)
    return ActionChunk(executed, normalized)


def _raw(actions: np.ndarray, config: ActionConfig) -> np.ndarray:
    """Executed actions with the gripper as the model was trained on it: -1 (open) -> 1, +1 (close) -> 0."""
    if config.gripper == "none":
        return actions
    gripper = (1 - np.clip(actions[..., -1:], -1, 1)) / 2
    return np.concatenate([actions[..., :-1], gripper], axis=-1)
