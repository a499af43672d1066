"""A checkpoint's own answer to one known observation, kept beside its files and asked for again by ``doctor``.

Weights that load are not yet a model that acts as it did: another library version may compute something else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dyslctl.artifacts.files import read_json, write_json
from dyslctl.backbone import Backbone
from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ArtifactError
from dyslctl.plugins import load_suite
from dyslctl.suite import TaskSuite
from dyslctl.types import LayerState

FILE = "behaviour.json"
SCHEMA = "dyslctl.behaviour/1"
TOLERANCE = 1e-2
"""Largest accepted difference of a normalised action: what another CPU's rounding may do, and no more."""


@torch.inference_mode()
def answer(backbone: Backbone, suite: TaskSuite) -> np.ndarray:
    """``[N, A]`` normalised, the full model's actions for the first observation of the suite's ``tune`` split."""
    environment = suite.make()
    observation = environment.reset(suite.episodes("tune", 1)[0])
    backbone.reset()
    state = LayerState.of(backbone.encode([observation]))
    environment.close()
    forward(backbone, state, FullSchedule())
    predicted: np.ndarray = backbone.predict(state)[0].float().cpu().numpy()
    backbone.reset()
    return predicted


def save(folder: Path, backbone: Backbone, suite: TaskSuite) -> Path:
    """Write the answer into the checkpoint's ``folder``.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    path = folder / FILE
    write_json(path, {"schema": SCHEMA, "suite": suite.name, "actions": answer(backbone, suite).tolist()})
    return path


def deviation(folder: Path, backbone: Backbone) -> float:
    """Largest difference between the backbone's answer now and the one kept in ``folder``.

    Raises:
        ArtifactError: If the file is missing, or not of this shape.
    """
    kept = read_json(folder / FILE)
    now = answer(backbone, load_suite(str(kept.get("suite"))))
    then = np.asarray(kept.get("actions"), np.float32)
    if kept.get("schema") != SCHEMA or then.shape != now.shape:
        raise ArtifactError(f"{folder / FILE}: expected {SCHEMA} with actions {list(now.shape)}, found {then.shape}")
    return float(np.abs(now - then).max())
