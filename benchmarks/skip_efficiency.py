"""Does skipped work become saved time? The full model against exits and jumps, interleaved in one process.

    python benchmarks/skip_efficiency.py                        # random weights, 24 layers, hidden 512
    python benchmarks/skip_efficiency.py --checkpoint embedded  # the mini backbone that comes with the plugin
    python benchmarks/skip_efficiency.py --backend packed --json result.json

One thread, CPU time of that thread: other load on the machine hardly counts. Each round runs every schedule once, in
an order that rotates. README.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.actions import statistics_of
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.tokenizer import build_tokenizer
from dyslctl_openvla_oft.writer import write_checkpoint
from rich.console import Console
from rich.table import Table

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_schedule import ExitLadder, PlannedExit
from dyslctl.dysl.exits import ExitModules, ExitSizes, default_exits
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition, static_count, tail
from dyslctl.dysl.schedule import DySLSchedule
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.engine import FullSchedule, LayerSchedule, forward
from dyslctl.jobs.latency import controller_overhead, rotated, skip_efficiency
from dyslctl.plugins import load_suite
from dyslctl.runtime.packed import BACKENDS, EAGER, with_backend
from dyslctl.types import LayerInputs, LayerState

FULL, NO_SKIP, NO_EXIT = "full", "controllers, no skip", "planner, no exit"
Row = dict[str, float | str]
COLUMNS = {
    "schedule": "schedule",
    "layers_run": "layers",
    "llm_cpu_ms_min": "CPU ms (min)",
    "skip_efficiency_min": "SE (min)",
    "skip_efficiency_median": "SE (median)",
    "overhead_min": "overhead (min)",
    "overhead_median": "overhead (median)",
}
SETTINGS = GuidanceSettings(eta_1=-1.0, eta_2=1.0)


@dataclass(frozen=True)
class Timed:
    """One schedule: layers it ran, and CPU seconds of every round."""

    layers: int
    seconds: tuple[float, ...]


def random_backbone(folder: Path, hidden_size: int, layers: int, dtype: torch.dtype, image_size: int = 56) -> Backbone:
    """OpenVLA-OFT with random weights: LLaMA proportions (MLP 2.75 H, heads of 64), towers of 64 channels.

    A view of ``image_size`` pixels has a visual token for every square of 14.
    """
    tokenizer = build_tokenizer(["put the red cube in the purple bin"])
    tower = {"width": 64, "depth": 3, "heads": 2, "mlp": 256}
    llama = {
        "vocab_size": 64 * -(-tokenizer.vocab_size // 64),
        "hidden_size": hidden_size,
        "intermediate_size": hidden_size * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // 64,
        "num_key_value_heads": hidden_size // 64,
        "pad_token_id": tokenizer.pad_id,
    }
    values = {
        "image_sizes": [image_size, image_size],
        "pad_token_id": tokenizer.pad_id,
        "text_config": llama,
        "vision_config": {"dino": tower, "siglip": tower},
        "oft": {"center_crop": False},
    }
    config = OFTConfig.model_validate(values)
    bounds = np.stack([np.full(8, -1.0, np.float32), np.full(8, 1.0, np.float32)])
    statistics = {"random": statistics_of(bounds[:, :7], bounds, 1, config.oft)}
    torch.manual_seed(0)
    write_checkpoint(folder, OFTModel(config), tokenizer, statistics, step=0, dtype=torch.bfloat16)
    return OpenVLAOFT.load(folder, dtype=dtype)


def even_partition(layers: int) -> LayerPartition:
    """20 % static layers, first and last among them, evenly spread."""
    return LayerPartition(layers, tuple(np.linspace(0, layers - 1, static_count(layers, 0.2)).round().astype(int)))


def skipping(backbone: Backbone, partition: LayerPartition, offset: int) -> LayerSchedule:
    """Real controllers and adapters; in each segment the controller ``offset`` layers in says yes, no other does."""
    torch.manual_seed(offset)
    modules = SkipModules(partition, SkipSizes.mini(backbone.spec.hidden_size)).eval().requires_grad_(False)
    for segment in partition.segments:
        for layer in segment.layers:
            torch.nn.init.constant_(
                modules.controller(layer).out.bias, 50.0 if layer == segment.start + offset else -50.0
            )
    return DySLSchedule(modules.to(backbone.dtype), SETTINGS, pack=backbone.pack)


def leaving(backbone: Backbone, chosen: int | None) -> PlannedExit:
    """Real exits behind a static fifth, and a planner that names the exit number ``chosen``, or none."""
    num_layers = backbone.spec.num_layers
    partition = tail(LayerPartition(num_layers, tuple(range(static_count(num_layers, 0.2)))))
    torch.manual_seed(0)
    modules = ExitModules(partition, default_exits(partition), ExitSizes.of(backbone.spec))
    torch.nn.init.zeros_(modules.planner.out.weight)
    modules.planner.out.bias.data = torch.tensor([-1.0 if n == chosen else 1.0 for n in range(len(modules.exits))])
    modules.eval().requires_grad_(False).to(backbone.dtype)
    schedule = PlannedExit(ExitLadder(modules, backbone.pack), modules.planner.bind(), tolerance=0.0)
    schedule.memory = torch.zeros(1, modules.sizes.memory, dtype=backbone.dtype)
    return schedule


def exits(backbone: Backbone) -> dict[str, LayerSchedule]:
    """A planner that names no exit, and one for the first exit, the last, and the one between them."""
    every = leaving(backbone, None).ladder.exits
    chosen = {f"exit before {every[n]}": leaving(backbone, n) for n in (0, len(every) // 2, len(every) - 1)}
    return {NO_EXIT: leaving(backbone, None), **chosen}


def jumps(backbone: Backbone) -> dict[str, LayerSchedule]:
    """Controllers that never skip, and jumps from each place of the segments."""
    partition = even_partition(backbone.spec.num_layers)
    longest = max(len(segment) for segment in partition.segments)
    shortest = min(len(segment) for segment in partition.segments)
    named = {f"skip from {j}": skipping(backbone, partition, j) for j in range(shortest)}
    return {NO_SKIP: skipping(backbone, partition, longest), **named}


@torch.inference_mode()
def measure(
    backbone: Backbone, plans: Mapping[str, LayerSchedule], inputs: LayerInputs, rounds: int
) -> dict[str, Timed]:
    """CPU seconds of each schedule in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    layers = {name: len(forward(backbone, LayerState.of(inputs), plan).layers_run) for name, plan in plans.items()}
    for number in range(rounds):
        for name in rotated(tuple(plans), number):
            state = LayerState.of(inputs)
            begin = time.thread_time()
            forward(backbone, state, plans[name])
            seconds[name].append(time.thread_time() - begin)
    return {name: Timed(layers[name], tuple(values)) for name, values in seconds.items()}


def summarize(timed: Mapping[str, Timed], num_layers: int) -> list[Row]:
    """One row a schedule, against ``full``: of the fastest rounds, and the median over the rounds, round by round."""
    full = np.array(timed[FULL].seconds)
    rows: list[Row] = []
    for name, one in timed.items():
        own, skipped = np.array(one.seconds), 1 - one.layers / num_layers
        row: Row = {"schedule": name, "layers_run": one.layers, "llm_cpu_ms_min": own.min() * 1e3}
        if name in (NO_SKIP, NO_EXIT):
            row["overhead_min"] = controller_overhead(full.min(), own.min())
            row["overhead_median"] = float(np.median(own / full - 1))
        elif skipped > 0:
            row["skip_efficiency_min"] = skip_efficiency(full.min(), own.min(), skipped)
            row["skip_efficiency_median"] = float(np.median((full - own) / (full * skipped)))
        rows.append(row)
    return rows


def show(rows: list[Row], title: str) -> None:
    table = Table(title=title)
    for key, header in COLUMNS.items():
        table.add_column(header, justify="left" if key == "schedule" else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in COLUMNS))
    Console().print(table)


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="'embedded', or a folder; default: random weights")
    parser.add_argument("--hidden-size", type=int, default=512, help="of the random weights; a multiple of 64")
    parser.add_argument("--layers", type=int, default=24, help="of the random weights")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--backend", choices=BACKENDS, default=EAGER, help="what runs the layers")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    dtype = torch.float32 if arguments.dtype == "float32" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        if arguments.checkpoint is None:
            backbone = random_backbone(Path(folder) / "random", arguments.hidden_size, arguments.layers, dtype)
        else:
            embedded = arguments.checkpoint == "embedded"
            backbone = OpenVLAOFT.load(
                OpenVLAOFT.default_checkpoint() if embedded else arguments.checkpoint, dtype=dtype
            )
        backbone = with_backend(backbone, arguments.backend)
        suite = load_suite("tabletop_object")
        inputs = backbone.encode([suite.make().reset(suite.episodes("tune", 1)[0])])
        plans = {FULL: FullSchedule(), **exits(backbone), **jumps(backbone)}
        timed = measure(backbone, plans, inputs, arguments.rounds)
    rows = summarize(timed, backbone.spec.num_layers)
    size = f"{backbone.spec.num_layers} layers, hidden {backbone.spec.hidden_size}, {inputs.hidden.shape[1]} tokens"
    show(rows, f"{size}, {arguments.dtype}, {arguments.backend}, {arguments.rounds} rounds")
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({"size": size, "dtype": arguments.dtype, "backend": arguments.backend, "rows": rows}, indent=2)
            + "\n"
        )


if __name__ == "__main__":
    main()
