"""Do pruned tokens become saved time? SpecPrune-VLA against the full model, at the token counts of the 7B model.

    python benchmarks/token_pruning.py                              # random weights, 8 layers of width 4096
    python benchmarks/token_pruning.py --layers 32 --hidden-size 1024
    python benchmarks/token_pruning.py --json result.json

One thread, CPU time of that thread: other load on the machine hardly counts. Each round runs both once, in an order
that rotates. README.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from skip_efficiency import random_backbone
from torch import Tensor

from dyslctl.backbone import Backbone, Workload
from dyslctl.devices.roofline import layer_flop
from dyslctl.engine import FullSchedule, LayerSchedule, Step, forward
from dyslctl.jobs.latency import rotated
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.specprune import SpecPruneSchedule
from dyslctl.pruning.specprune_policy import SpecPrunePolicy
from dyslctl.pruning.tokens import retain
from dyslctl.types import LayerState, Observation

TOKENS, IMAGE, HORIZON = 605, 224, 8
"""Of the released model on LIBERO: two views of 256, a prompt, 56 actions and three more."""


@dataclass(frozen=True)
class Timed:
    """One round of a schedule: CPU seconds, and the tokens that each layer saw."""

    seconds: float
    tokens: tuple[int, ...]


class Replay(LayerSchedule):
    """Nothing chooses: after each layer the tokens stay that are known to. What SpecPrune-VLA's layers cost alone.

    Attributes:
        kept: Original positions, by layer.
    """

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        self.kept = kept

    def after(self, layer: int, state: LayerState) -> None:
        """Drop what is not known."""
        if layer in self.kept:
            retain(state, [self.kept[layer]])


class Noting(LayerSchedule):
    """Another schedule; notes what stays where something goes."""

    def __init__(self, schedule: LayerSchedule) -> None:
        self._schedule, self.kept = schedule, dict[int, Tensor]()

    def start(self, state: LayerState) -> None:
        """Start the wrapped schedule."""
        self._schedule.start(state)

    def before(self, layer: int, state: LayerState) -> Step:
        """The wrapped decision."""
        return self._schedule.before(layer, state)

    def after(self, layer: int, state: LayerState) -> None:
        """Tell the wrapped schedule, then note."""
        before = state.positions.shape[1]
        self._schedule.after(layer, state)
        if state.positions.shape[1] < before:
            self.kept[layer] = state.positions[0]


def observations(backbone: Backbone, seed: int = 0) -> list[Observation]:
    """Three frames of a still scene of noise with a spot that moves; a prompt of as many words as make 605 tokens."""
    rng = np.random.default_rng(seed)
    scenes = {view: rng.integers(0, 256, (IMAGE, IMAGE, 3)).astype(np.uint8) for view in ("front", "wrist")}
    frames = [Observation(scenes, "put the red cube in the purple bin", np.zeros(8, np.float32))]
    while backbone.encode(frames).hidden.shape[1] < TOKENS:
        frames = [replace(frames[0], instruction=f"{frames[0].instruction} red")]
    return [replace(frames[0], images={v: _spot(image, step) for v, image in scenes.items()}) for step in range(3)]


def _spot(image: np.ndarray, step: int) -> np.ndarray:
    moved = image.copy()
    moved[80:122, 60 + 28 * step : 116 + 28 * step] = 255 - moved[80:122, 60 + 28 * step : 116 + 28 * step]
    return moved


@torch.inference_mode()
def measure(
    backbone: Backbone, settings: PruningSettings, rounds: int, *, project_again: bool = False
) -> tuple[dict[str, list[Timed]], float]:
    """Rounds of the schedules on the third frame, and the CPU seconds of looking at the pictures before a pass."""
    policy, frames = SpecPrunePolicy(backbone, settings, HORIZON), observations(backbone)
    if project_again:
        policy.schedule = SpecPruneSchedule(backbone.attention_rows, settings, policy.schedule.depths)
    policy.reset()
    for frame in frames[:2]:
        policy.select_action(frame)
    before, begin = policy.history, time.thread_time()
    plan = policy.plan(frames[2])
    next(plan)
    looking = time.thread_time() - begin
    plan.close()
    policy.history = before
    outlook = policy.schedule.outlook
    inputs, noting = backbone.encode(frames[2:]), Noting(policy.schedule)
    forward(backbone, LayerState.of(inputs), noting)
    plans = {"full": FullSchedule(), "specprune": policy.schedule, "replay": Replay(noting.kept)}
    timed: dict[str, list[Timed]] = {name: [] for name in plans}
    for number in range(rounds + 1):
        for name in rotated(tuple(plans), number):
            policy.schedule.outlook = outlook
            one = _timed(backbone, LayerState.of(inputs), plans[name])
            timed[name] += [one] if number else []  # the first round warms up
    return timed, looking


def _timed(backbone: Backbone, state: LayerState, schedule: LayerSchedule) -> Timed:
    begin = time.thread_time()
    trace = forward(backbone, state, schedule)
    return Timed(time.thread_time() - begin, tuple(trace.tokens))


def ideal_saving(workload: Workload, tokens: tuple[int, ...]) -> float:
    """Of the FLOPs of ``len(tokens)`` layers on all tokens, how many those layers do not execute on ``tokens``."""
    full = len(tokens) * layer_flop(workload)
    return 1 - sum(layer_flop(replace(workload, tokens=seen)) for seen in tokens) / full


def summarize(workload: Workload, timed: dict[str, list[Timed]], looking: float) -> dict[str, float]:
    """Medians over rounds, ratios round by round; ``_min`` compares the fastest rounds."""
    full, pruned, replay = (
        np.array([each.seconds for each in timed[name]]) for name in ("full", "specprune", "replay")
    )
    choosing = float(np.median(pruned - replay))
    ideal = ideal_saving(workload, timed["specprune"][0].tokens)
    charged = pruned + looking
    return {
        "full_cpu_ms": float(np.median(full) * 1e3),
        "specprune_cpu_ms": float(np.median(pruned) * 1e3),
        "mean_tokens": float(np.mean(timed["specprune"][0].tokens)),
        "ideal_saving": ideal,
        "realised_saving": float(np.median(1 - charged / full)),
        "efficiency": float(np.median((1 - charged / full) / ideal)),
        "efficiency_min": float((1 - charged.min() / full.min()) / ideal),
        "efficiency_of_replay": float(np.median((1 - replay / full) / ideal)),
        "choosing_cpu_ms": choosing * 1e3,
        "looking_cpu_ms": looking * 1e3,
        "overhead_of_full": float((choosing + looking) / np.median(full)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=4096, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=0.8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--project-again", action="store_true", help="rows do not take the keys that a layer made")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    dtype = torch.float32 if arguments.dtype == "float32" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        backbone = random_backbone(Path(folder) / "random", arguments.hidden_size, arguments.layers, dtype, IMAGE)
        settings = PruningSettings(alpha=arguments.alpha)
        timed, looking = measure(backbone, settings, arguments.rounds, project_again=arguments.project_again)
    workload = replace(backbone.workload(), tokens=timed["full"][0].tokens[0])
    found = summarize(workload, timed, looking)
    seen = timed["specprune"][0].tokens
    size = f"{arguments.layers} layers, hidden {arguments.hidden_size}, {workload.tokens} tokens, {arguments.dtype}"
    table = Table("", "value", title=f"{size}, alpha {arguments.alpha:g}, {arguments.rounds} rounds")
    table.add_row("tokens by layer", " ".join(map(str, seen)))
    for key, value in found.items():
        table.add_row(key.replace("_", " "), f"{value:.3f}" if value < 10 else f"{value:.1f}")
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"size": size, "tokens": seen, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
