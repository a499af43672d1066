"""Both stages of both trainings on the tiny backbone, alone or as one of several processes.

python train_tiny.py FOLDER, with a launcher's RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.jobs import exit_data
from dyslctl.jobs.data import MAX_BYTES, collect, encoder
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.distill_exits import ExitTraining, distill_exits
from dyslctl.jobs.distill_paper import DistillSettings, distill_paper
from dyslctl.jobs.distributed import leads, rank, together, world_size
from dyslctl.jobs.exit_data import Rounds
from dyslctl.jobs.sharing import shared

STEPS: dict[str, Any] = {"steps": 12, "batch_size": 16, "adapter_lr": 5e-3, "precision": "fp32", "checkpoint_every": 5}


def train_all(folder: Path, *, keep_paper: bool = True, keep_exits: bool = True, **how: Any) -> dict[str, Any]:
    """The loss curves, by bundle; ``folder/profile.yaml`` must be there.

    What is not kept is encoded when it is drawn, and so are the states before the exits.
    """
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "tiny.py"))
    backbone, suite = tiny["TinyBackbone"](), tiny["TinyReach"]()
    profile, settings, curves = SkipProfile.load(folder / "profile.yaml"), {**STEPS, **how}, {}
    states = shared(lambda: room(keep_paper)(backbone, suite, episodes=4), folder / "s.safetensors", encoder(backbone))
    rounds = Rounds(backbone, [suite], episodes=4, lanes=4, folder=folder)
    with patch.object(exit_data, "collect", room(keep_exits)):
        for stage in (1, 2):
            paper = {"bundle": folder / f"paper{stage}", "init": folder / "paper1", "out": folder / f"paper-out{stage}"}
            found = distill_paper(backbone, profile, states, DistillSettings(stage=stage, **settings), **paper)
            curves[f"paper{stage}"] = found.curve
            exits = {"bundle": folder / f"exits{stage}", "init": folder / "exits1", "out": folder / f"exits-out{stage}"}
            training = ExitTraining(
                stage=stage, planner_batch=32, planner_steps=10, cache_gb=float(keep_exits), **settings
            )
            curves[f"exits{stage}"] = distill_exits(backbone, profile, rounds, training, **exits).curve
    return curves


def room(keep: bool) -> Callable[..., Dataset]:
    """Collects, in the leader only, with room for all embeddings or for none."""

    def collect_here(*what: Any, **how: Any) -> Dataset:
        assert leads(), "who follows collects nothing"
        return collect(*what, max_bytes=MAX_BYTES if keep else 0, **how)

    return collect_here


def main(folder: Path) -> None:
    with together("cpu"):
        assert world_size() == 2
        (folder / f"rank{rank()}.json").write_text(json.dumps(train_all(folder, keep_exits=False)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
