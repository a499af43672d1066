"""Stage 1 of ``dysl-paper``: one frozen pass serves every adapter. How much faster than a pass for each?

    python benchmarks/stage1_one_pass.py                        # random weights, 24 layers, hidden 512
    python benchmarks/stage1_one_pass.py --checkpoint embedded  # the mini backbone that comes with the plugin
    python benchmarks/stage1_one_pass.py --json result.json

Eq. 4 asks every adapter ``a_i`` for the input of the next static layer ``s``. The literal way runs the model up to
``s`` for each ``i``; ours runs it once and keeps all states. Both compute the same losses and gradients, which is
checked before anything is timed. README.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from rich.console import Console
from rich.table import Table
from skip_efficiency import even_partition, random_backbone
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.dysl.distillation import EPS, stage1_loss
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.dysl.states import RecordStates, residual_states
from dyslctl.engine import EXIT, RUN, Step, forward
from dyslctl.jobs.latency import rotated
from dyslctl.plugins import load_suite
from dyslctl.types import LayerInputs, LayerState

ONE_PASS, PER_ADAPTER = "one pass", "a pass for each adapter"
TARGET = 2.5


class RecordUpTo(RecordStates):
    """Leaves before layer ``last``, whose input is the last state that is needed."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last

    def before(self, layer: int, state: LayerState) -> Step:
        return EXIT if layer == self._last else RUN


def one_pass(backbone: Backbone, modules: SkipModules, inputs: LayerInputs) -> Tensor:
    """Loss and gradients of all adapters from one pass."""
    loss = torch.stack(list(stage1_loss(modules, residual_states(backbone, inputs)[0]).values())).sum()
    loss.backward()
    return loss.detach()


def pass_for_each(backbone: Backbone, modules: SkipModules, inputs: LayerInputs) -> Tensor:
    """The same, adapter by adapter; each pass ends at the adapter's target."""
    total = torch.zeros(())
    for layer in modules.partition.dynamic_layers:
        record = RecordUpTo(modules.partition.next_static(layer))
        with torch.no_grad():
            forward(backbone, LayerState.of(inputs), record)
        error = modules.adapter(layer)(record.states[layer]) - record.states[-1]
        loss = (error.float().square().mean((1, 2)) + EPS).sqrt().mean()
        loss.backward()
        total += loss.detach()
    return total


WAYS: dict[str, Callable[[Backbone, SkipModules, LayerInputs], Tensor]] = {
    ONE_PASS: one_pass,
    PER_ADAPTER: pass_for_each,
}


def check_equal(backbone: Backbone, modules: SkipModules, inputs: LayerInputs) -> None:
    """Both ways learn the same, or the ratio would mean nothing."""
    found = []
    for way in WAYS.values():
        modules.zero_grad()
        loss = way(backbone, modules, inputs)
        found.append([loss, *(p.grad.clone() for p in modules.adapters.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def measure(backbone: Backbone, modules: SkipModules, inputs: LayerInputs, rounds: int) -> dict[str, np.ndarray]:
    """CPU seconds ``[rounds]`` of each way; each runs once a round, in an order that rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds):
        for name in rotated(tuple(WAYS), number):
            modules.zero_grad()
            begin = time.thread_time()
            WAYS[name](backbone, modules, inputs)
            seconds[name].append(time.thread_time() - begin)
    return {name: np.array(values) for name, values in seconds.items()}


def summarize(seconds: dict[str, np.ndarray], layers: dict[str, int]) -> dict[str, Any]:
    """Layers and CPU time of a step's gradients, and how much faster one pass is."""
    slow, fast = seconds[PER_ADAPTER], seconds[ONE_PASS]
    return {
        "layers_run": layers,
        "step_cpu_ms_min": {name: float(values.min() * 1e3) for name, values in seconds.items()},
        "speedup_min": float(slow.min() / fast.min()),
        "speedup_median": float(np.median(slow / fast)),
        "target": TARGET,
    }


def show(summary: dict[str, Any], title: str) -> None:
    table = Table("way", "layers a step", "CPU ms (min)", title=title)
    for name in WAYS:
        table.add_row(name, str(summary["layers_run"][name]), f"{summary['step_cpu_ms_min'][name]:.1f}")
    console = Console()
    console.print(table)
    verdict = f"{summary['speedup_min']:.2f} times faster (min), {summary['speedup_median']:.2f} (median round)"
    console.print(f"One pass is {verdict}; target: at least {TARGET}.")


def layers_run(partition: LayerPartition) -> dict[str, int]:
    """Decoder layers that each way executes a step."""
    return {
        ONE_PASS: partition.num_layers,
        PER_ADAPTER: sum(partition.next_static(layer) for layer in partition.dynamic_layers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="'embedded', or a folder; default: random weights")
    parser.add_argument("--hidden-size", type=int, default=512, help="of the random weights; a multiple of 64")
    parser.add_argument("--layers", type=int, default=24, help="of the random weights")
    parser.add_argument("--batch", type=int, default=2, help="samples of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result there too")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.checkpoint is None:
            random = Path(folder) / "random"
            backbone = random_backbone(random, arguments.hidden_size, arguments.layers, torch.float32)
        else:
            embedded = arguments.checkpoint == "embedded"
            backbone = OpenVLAOFT.load(OpenVLAOFT.default_checkpoint() if embedded else arguments.checkpoint)
        suite = load_suite("tabletop_object")
        world, specs = suite.make(), suite.episodes("tune", arguments.batch)
        inputs = backbone.encode([world.reset(spec) for spec in specs])
        partition = even_partition(backbone.spec.num_layers)
        torch.manual_seed(0)
        modules = SkipModules(partition, SkipSizes.mini(backbone.spec.hidden_size))
        check_equal(backbone, modules, inputs)
        seconds = measure(backbone, modules, inputs, arguments.rounds)
    summary = summarize(seconds, layers_run(partition))
    size = f"{partition.num_layers} layers, hidden {backbone.spec.hidden_size}, {arguments.batch} samples a step"
    show(summary, f"{size}, {arguments.rounds} rounds")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"size": size, **summary}, indent=2) + "\n")


if __name__ == "__main__":
    main()
