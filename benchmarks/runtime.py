"""The whole table of what the runtime reaches on this machine: ratios inside one process, as JSON and as Markdown.

    python benchmarks/runtime.py --out results                   # about ten minutes on two idle cores
    python benchmarks/runtime.py --only layers --shape 1024x12x256 --dtype bfloat16

Random weights. One thread, CPU time of that thread; every way runs once a round, in an order that rotates, and a ratio
is the median of the rounds' ratios. README.md explains the figures.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import stage1_one_pass as stage1
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from figures import Figure, markdown
from skip_efficiency import even_partition, leaving, random_backbone, skipping

from dyslctl.artifacts.bundle import TrainingInfo
from dyslctl.artifacts.files import atomic_write, write_json
from dyslctl.artifacts.fingerprint import environment
from dyslctl.backbone import Backbone
from dyslctl.devices.power import power_state
from dyslctl.dysl.similarity import SimilarityAccumulator
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.engine import EXIT, RUN, FullSchedule, LayerSchedule, Step, forward
from dyslctl.jobs.latency import Series
from dyslctl.jobs.layer_rivals import interleaved
from dyslctl.jobs.profile import profile
from dyslctl.jobs.trained_paper import load_modules, new_modules, save_modules
from dyslctl.plugins import load_suite
from dyslctl.runtime.packed import PACKED, with_backend
from dyslctl.types import LayerInputs, LayerState, TokenKind

Seconds = Mapping[str, np.ndarray]
PARTS = ("layers", "steps", "memory", "bundle", "profile", "stage1", "growth", "gpu")
DTYPES = ("float32", "bfloat16")
SHAPES = ("128x12x126", "1024x12x256", "1024x12x605", "2048x6x256")
GPU_FIGURES = (
    ("skip efficiency, 7B shape", "605 tokens", ">= 0.96"),
    ("skip efficiency, 7B shape", "256 tokens", ">= 0.92"),
    ("skip efficiency, MPT-1B shape", "64 tokens", ">= 0.90"),
    ("full pass against transformers, eager", "7B, 605 tokens, bfloat16", ">= 1.15"),
    ("full pass against transformers, eager", "7B, 256 tokens, bfloat16", ">= 1.5"),
    ("full pass against transformers, compiled", "7B, bfloat16", ">= 1.0"),
    ("share of the measured matmul peak", "7B, 605 tokens, bfloat16", ">= 0.70"),
    ("share of the measured matmul peak", "7B, 256 tokens, bfloat16", ">= 0.55"),
)
PROBE = 1536
"""Rows, inputs and outputs of the product whose speed counts as the machine's peak."""


@dataclass(frozen=True)
class Shape:
    """Random weights of one size, and how many tokens they see."""

    hidden: int
    layers: int
    tokens: int
    dtype: str

    @classmethod
    def parse(cls, text: str, dtype: str) -> Shape:
        """``WIDTHxLAYERSxTOKENS``."""
        return cls(*map(int, text.split("x")), dtype)

    def __str__(self) -> str:
        return f"{self.hidden} x {self.layers} x {self.tokens}, {self.dtype}"

    def backbone(self) -> OpenVLAOFT:
        with tempfile.TemporaryDirectory() as folder:
            return random_backbone(Path(folder) / "random", self.hidden, self.layers, getattr(torch, self.dtype))


class UpTo(LayerSchedule):
    """The first layers alone."""

    def __init__(self, layers: int) -> None:
        self._layers = layers

    def before(self, layer: int, state: LayerState) -> Step:
        return EXIT if layer == self._layers else RUN


def seen(backbone: Backbone, tokens: int, batch: int = 1) -> LayerInputs:
    """A frame of the built-in suite, with more vision tokens, or fewer, behind the first token."""
    suite = load_suite("tabletop_object")
    inputs = backbone.encode([suite.make().reset(suite.episodes("tune", 1)[0])] * batch)
    hidden, kinds = inputs.hidden, inputs.kinds
    more = tokens - hidden.shape[1]
    if more < 0:
        hidden, kinds = (torch.cat([part[:, :1], part[:, 1 - more :]], 1) for part in (hidden, kinds))
    elif more:
        vision = torch.randn(batch, more, hidden.shape[2]) * hidden.float().std()
        hidden = torch.cat([hidden[:, :1], vision.to(hidden.dtype), hidden[:, 1:]], 1)
        kinds = torch.cat([kinds[:, :1], torch.full((batch, more), int(TokenKind.VISION)), kinds[:, 1:]], 1)
    return LayerInputs(hidden, torch.arange(tokens).expand(batch, -1), kinds)


def through(backbone: Backbone, schedule: LayerSchedule) -> Callable[[LayerInputs], object]:
    """One pass as ``schedule`` says."""
    return lambda inputs: forward(backbone, LayerState.of(inputs), schedule)


def timed(ways: Mapping[str, Callable[[LayerInputs], object]], inputs: LayerInputs, seconds: float) -> Seconds:
    """CPU seconds of each way and round."""
    return interleaved(ways, [inputs], Series(2, 5, seconds), time.thread_time)


def flop(shape: Shape, backbone: Backbone) -> float:
    """Of the matrix products of a full pass: ``L (2 p n + 4 n^2 d)``."""
    size = backbone.workload()
    layer = 2 * size.layer_params * shape.tokens + 4 * shape.tokens**2 * shape.hidden
    return float(shape.layers * layer)


@torch.inference_mode()
def layers(shape: Shape, seconds: float, *, compiled: bool) -> list[Figure]:
    """The full pass beside the stock model, what skipping saves, what deciding costs, and how near the peak it is."""
    upstream = shape.backbone()
    ours = with_backend(upstream, PACKED, keep=True)
    inputs = seen(ours, shape.tokens)
    skips = skip_plans(ours)
    factor, probe = torch.randn(PROBE, PROBE).to(ours.dtype), torch.randn(1, PROBE, PROBE).to(ours.dtype)
    product = ours.pack(factor)
    ways: dict[str, Callable[[LayerInputs], object]] = {
        "ours": through(ours, FullSchedule()),
        "eager": through(upstream, FullSchedule()),
        "transformers": upstream.stock_layers(),
        "peak": lambda _: product(probe),
        **{name: through(ours, plan) for name, plan in skips.items()},
    }
    if compiled:
        ways["compiled"] = torch.compile(upstream.stock_layers())
    ran = {name: len(forward(ours, LayerState.of(inputs), plan).layers_run) for name, plan in skips.items()}
    took = timed(ways, inputs, seconds)
    return [
        *ratios(shape, took),
        *savings(shape, took, ran),
        *deciding(shape, ours, inputs, seconds),
        share(shape, upstream, took),
    ]


def skip_plans(ours: Backbone) -> dict[str, LayerSchedule]:
    """The first controller of every segment says yes, the one two layers on does, and the exit in the middle."""
    partition = even_partition(ours.spec.num_layers)
    exits = len(leaving(ours, None).ladder.exits)
    return {
        "jumps over whole segments": skipping(ours, partition, 0),
        "jumps from the third layer of a segment": skipping(ours, partition, 2),
        "the middle exit": leaving(ours, exits // 2),
    }


def ratios(shape: Shape, took: Seconds) -> list[Figure]:
    """Theirs over ours."""
    ours, note = took["ours"], f"ours {np.median(took['ours']) * 1e3:.1f} ms, {len(took['ours'])} rounds"
    against = {
        "transformers": "transformers, eager",
        "compiled": "transformers, compiled",
        "eager": "the plugin's layers",
    }
    stock = ">= 2.0" if shape.dtype == "float32" and "AMD" in environment().cpu else ">= 1.0"
    return [
        Figure(
            f"full pass against {name}",
            str(shape),
            float(np.median(took[key] / ours)),
            "" if key == "eager" else stock,
            note,
        )
        for key, name in against.items()
        if key in took
    ]


def savings(shape: Shape, took: Seconds, ran: Mapping[str, int]) -> list[Figure]:
    """Skip efficiency ``(T_full - T) / (T_full * share skipped)``."""
    full = took["ours"]
    found = []
    for name, count in ran.items():
        value = float(np.median((full - took[name]) / (full * (1 - count / shape.layers))))
        note = f"{count} of {shape.layers} layers run"
        found.append(Figure(f"skip efficiency, {name}", str(shape), value, ">= 0.97", note))
    return found


def deciding(shape: Shape, ours: Backbone, inputs: LayerInputs, seconds: float) -> list[Figure]:
    """Decisions without effect, beside a second full pass, which shows the noise; and those decisions by themselves."""
    plans = {
        "controllers": skipping(ours, even_partition(shape.layers), shape.layers),
        "planner": leaving(ours, None),
    }
    full = through(ours, FullSchedule())
    whole = timed({"ours": full, "again": full, **{n: through(ours, p) for n, p in plans.items()}}, inputs, seconds)
    alone = timed({name: asked(plan, shape.layers) for name, plan in plans.items()}, inputs, seconds / 10)
    noise = np.median(whole["again"] / whole["ours"] - 1)
    found = []
    for name in plans:
        added = float(np.median(whole[name] / whole["ours"] - 1))
        share = float(np.median(alone[name]) / np.median(whole["ours"]))
        by = f"the same pass again: {noise:+.2%}, {len(whole['ours'])} rounds"
        found.append(Figure(f"{name} always on, never skipping: added time", str(shape), added, "<= 0.01", by))
        found.append(Figure(f"{name} by themselves, of the full pass", str(shape), share, "<= 0.01"))
    return found


def asked(plan: LayerSchedule, layers: int) -> Callable[[LayerInputs], object]:
    """Every decision of a pass, without the layers."""

    def ask(inputs: LayerInputs) -> object:
        state = LayerState.of(inputs)
        plan.start(state)
        return [plan.before(layer, state) for layer in range(layers)]

    return ask


def share(shape: Shape, backbone: Backbone, took: Seconds) -> Figure:
    """Of the fastest rounds: this is about what the machine can do."""
    peak, ours = 2 * PROBE**3 / took["peak"].min(), flop(shape, backbone) / took["ours"].min()
    note = f"{ours / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s"
    return Figure("share of the measured matmul peak", str(shape), float(ours / peak), "", note)


@torch.inference_mode()
def steps(count: int) -> list[Figure]:
    """The embedded model's full pass, over and over: how long the tail is, and whether memory grows."""
    backbone = with_backend(OpenVLAOFT.load(OpenVLAOFT.default_checkpoint()), PACKED)
    inputs = seen(backbone, 106)
    run, shape = through(backbone, FullSchedule()), f"embedded, {count} steps"
    clocks = {"CPU time": time.thread_time, "wall clock": time.perf_counter}
    took = {name: np.full(count, np.nan) for name in clocks}
    before = 0
    for step in range(-50, count):
        before = anonymous() if step == 0 else before
        start = [now() for now in clocks.values()]
        run(inputs)
        for (name, now), begin in zip(clocks.items(), start, strict=True):
            took[name][max(step, 0)] = now() - begin
    grown = (anonymous() - before) / 2**10
    tails = [
        Figure(f"p99 / p50, {name}", shape, float(np.percentile(values, 99) / np.median(values)), "<= 1.05")
        for name, values in took.items()
    ]
    return [*tails, Figure("memory that the steps add, KiB", shape, grown, "<= 0")]


def anonymous() -> int:
    """Bytes of memory that no file backs; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return 0
    _, resident, shared = map(int, statm.read_text().split()[:3])
    return (resident - shared) * resource.getpagesize()


def memory(shape: Shape) -> list[Figure]:
    """Peak of a process of its own that loads, packs and runs, over the bytes of weights and adapters."""
    if anonymous() == 0:
        return [Figure("peak memory over weights and adapters", str(shape), None, "<= 1.06", "needs /proc")]
    with tempfile.TemporaryDirectory() as folder:
        random_backbone(Path(folder) / "random", shape.hidden, shape.layers, getattr(torch, shape.dtype))
        command = [sys.executable, str(Path(__file__).with_name("peak_memory.py")), f"{folder}/random", shape.dtype]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
    weights, peak = map(int, ran.stdout.split()[-2:])
    note = f"{weights / 2**20:.0f} MiB of weights and adapters"
    return [Figure("peak memory over weights and adapters", str(shape), peak / weights, "<= 1.06", note)]


def bundle(shape: Shape, rounds: int = 9) -> list[Figure]:
    """Loading a bundle, its hash, self-test and all, over reading its bytes."""
    backbone, suite = shape.backbone(), load_suite("tabletop_object")
    found = profile(backbone, suite, plugin_name="openvla-oft", checkpoint="random", samples=2).profile
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "bundle"
        trained = TrainingInfo(stage=2, steps=0, seed=0, method="dysl-paper")
        weights = save_modules(where, new_modules(found, shape.hidden, seed=0), found, trained, "benchmark")
        for _ in range(rounds):
            start = time.thread_time()
            weights.read_bytes()
            middle = time.thread_time()
            load_modules(where, found, backbone)
            ratios.append((time.thread_time() - middle) / (middle - start))
        size = weights.stat().st_size / 2**20
    return [Figure("bundle load over raw read", str(shape), float(np.median(ratios)), "<= 1.25", f"{size:.1f} MiB")]


@torch.inference_mode()
def profiling(shape: Shape, seconds: float) -> list[Figure]:
    """One sample of ``profile`` over one plain pass."""
    backbone = shape.backbone()
    ways: dict[str, Callable[[LayerInputs], object]] = {
        "plain": through(backbone, FullSchedule()),
        "profile": lambda inputs: SimilarityAccumulator().add(backbone, inputs, [0]),
    }
    took = timed(ways, seen(backbone, shape.tokens), seconds)
    value = float(np.median(took["profile"] / took["plain"]))
    return [Figure("profile against a plain pass", str(shape), value, "<= 1.05")]


def one_pass(rounds: int = 4) -> list[Figure]:
    """``stage1_one_pass.py`` at its own size."""
    shape = Shape(512, 24, 126, "float32")
    backbone, partition = shape.backbone(), even_partition(shape.layers)
    torch.manual_seed(0)
    modules = SkipModules(partition, SkipSizes.mini(shape.hidden))
    inputs = seen(backbone, shape.tokens, batch=2)
    stage1.check_equal(backbone, modules, inputs)
    found = stage1.summarize(stage1.measure(backbone, modules, inputs, rounds), stage1.layers_run(partition))
    return [Figure("stage 1 against naive re-running", f"{shape}, 2 samples", found["speedup_median"], ">= 2.5")]


@torch.inference_mode()
def growth(shape: Shape, seconds: float) -> list[Figure]:
    """How time grows with tokens, layers and batch, each doubled from ``shape``."""
    ours = with_backend(shape.backbone(), PACKED)
    half, full = shape.tokens // 2, FullSchedule()
    some = {(tokens, batch): seen(ours, tokens, batch) for tokens, batch in ((half, 1), (shape.tokens, 1), (half, 2))}
    ways = {
        "one": lambda _: through(ours, full)(some[half, 1]),
        "tokens": lambda _: through(ours, full)(some[shape.tokens, 1]),
        "batch": lambda _: through(ours, full)(some[half, 2]),
        "layers": lambda _: through(ours, UpTo(shape.layers // 2))(some[half, 1]),
    }
    took = timed(ways, some[half, 1], seconds)
    at = f"{shape.hidden} x {shape.layers} x {half}, {shape.dtype}"
    return [
        Figure("time with twice the tokens", at, float(np.median(took["tokens"] / took["one"]))),
        Figure("time with twice the batch", at, float(np.median(took["batch"] / took["one"]))),
        Figure(
            "time with twice the layers", at, float(np.median(took["one"] / took["layers"])), "", "from half of them"
        ),
    ]


def gpu() -> list[Figure]:
    """What a GPU would have to show."""
    why = "no backend for it yet" if torch.cuda.is_available() else "not measured: no GPU"
    return [Figure(name, shape, None, target, why) for name, shape, target in GPU_FIGURES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated; default: all")
    parser.add_argument("--shape", action="append", metavar="WIDTHxLAYERSxTOKENS", help=f"default: {' '.join(SHAPES)}")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: both")
    parser.add_argument("--seconds", type=float, default=15.0, help="CPU time of one series, at least 5 rounds")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--compile", action="store_true", help="compare with the compiled stock model too")
    parser.add_argument("--out", type=Path, help="folder for runtime.json and runtime.md")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    rows: list[Figure] = []
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment().as_dict(),
        "power": power_state().as_dict(),
    }
    for measure in planned(arguments):
        found = measure()
        print(markdown(found), flush=True)
        rows += found
        if arguments.out is not None:  # after every part: a long run that is stopped has not been for nothing
            load = os.getloadavg()
            document = {**about, "load": load, "figures": [row.as_dict() for row in rows]}
            write_json(arguments.out / "runtime.json", document)
            atomic_write(arguments.out / "runtime.md", markdown(rows))


def planned(arguments: argparse.Namespace) -> Iterator[Callable[[], list[Figure]]]:
    """What is to be measured, in order."""
    seconds, only = arguments.seconds, arguments.only or PARTS
    shapes = [Shape.parse(text, dtype) for text in arguments.shape or SHAPES for dtype in arguments.dtype or DTYPES]
    wide, middle = Shape.parse("1024x12x256", "float32"), Shape.parse("512x12x252", "float32")
    parts: dict[str, list[Callable[[], list[Figure]]]] = {
        "layers": [partial(layers, shape, seconds, compiled=arguments.compile) for shape in shapes],
        "steps": [partial(steps, arguments.steps)],
        "memory": [partial(memory, Shape.parse("1024x32x126", "bfloat16"))],
        "bundle": [partial(bundle, Shape.parse("1024x12x126", "float32"))],
        "profile": [partial(profiling, wide, seconds)],
        "stage1": [one_pass],
        "growth": [partial(growth, middle, seconds)],
        "gpu": [gpu],
    }
    for part in PARTS:
        yield from parts[part] if part in only else ()


if __name__ == "__main__":
    main()
