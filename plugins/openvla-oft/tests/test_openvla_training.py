"""Stage 2 through a generating head, and the commands from profile to bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dyslctl_openvla_oft import OpenVLA
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.models import new_model
from dyslctl_openvla_oft.random_checkpoint import INSTRUCTIONS, published_config, random_statistics
from dyslctl_openvla_oft.tokenizer import build_tokenizer
from dyslctl_openvla_oft.writer import write_checkpoint
from torch import Tensor
from typer.testing import CliRunner, Result

from dyslctl.baselines.mole import StraightThrough
from dyslctl.cli import app
from dyslctl.dysl.distillation import MixSchedule, Stage2Settings, stage2_loss
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.engine import RUN, Jump, LayerSchedule, Step, forward
from dyslctl.types import LayerInputs, LayerState, Observation

PARTITION = LayerPartition(6, (0, 3, 5))
EXITS = (1, 4)
QUICK = (
    "profile.samples=8", "distill.episodes=1", "distill.batch_size=4", "distill.steps=3", "guidance.episodes=2",
    "eval.episodes=1", "bench.warmup=0", "bench.iterations=2", "bench.min_seconds=0", "bench.episodes=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers; random enough to act differently from frame to frame."""
    values = published_config("tiny", "tokens").model_dump()
    values["text_config"]["num_hidden_layers"] = 6
    config, generator = OFTConfig.model_validate(values), torch.Generator().manual_seed(0)
    model = new_model(config)
    for name, parameter in model.named_parameters():
        center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = center + 0.2 * torch.randn(parameter.shape, generator=generator)
    model.get_parameter("lm_head.weight").data[31_744:32_000] *= 8
    tokenizer = build_tokenizer(INSTRUCTIONS, published_ids=True)
    path = tmp_path_factory.mktemp("openvla") / "checkpoint"
    write_checkpoint(path, model, tokenizer, {"a": random_statistics(config.oft, 0)}, 1, dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def backbone(folder: Path) -> OpenVLA:
    return OpenVLA.load(folder)


@pytest.fixture
def inputs(backbone: OpenVLA) -> LayerInputs:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    return backbone.encode([Observation({"scene": image}, INSTRUCTIONS[0]) for image in images])


@pytest.fixture
def modules() -> SkipModules:
    torch.manual_seed(0)
    modules = SkipModules(PARTITION, SkipSizes(32, 8, 4))
    for parameter in modules.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape)
    return modules


def set_gates(modules: SkipModules, logit: float) -> None:
    for layer in PARTITION.dynamic_layers:
        modules.controller(layer).out.weight.data.zero_()
        modules.controller(layer).out.bias.data.fill_(logit)


def tokens(backbone: OpenVLA, inputs: LayerInputs, schedule: LayerSchedule) -> Tensor:
    state = LayerState.of(inputs)
    forward(backbone, state, schedule)
    return backbone.model.generate(state)[0]


class Skips(LayerSchedule):
    def __init__(self, modules: SkipModules) -> None:
        self.jumps = {layer: Jump(PARTITION.next_static(layer), modules.adapter(layer)) for layer in EXITS}

    def before(self, layer: int, state: LayerState) -> Step:
        return self.jumps.get(layer, RUN)


@torch.no_grad()
def test_generated_tokens_are_mixed_as_the_prompt_was(
    backbone: OpenVLA, inputs: LayerInputs, modules: SkipModules
) -> None:
    """Eq. 5 with open gates is the jump, and with closed ones the full model, for every token of the action."""
    skipped, full = tokens(backbone, inputs, Skips(modules)), tokens(backbone, inputs, LayerSchedule())
    assert bool((skipped != full).any(1).all())
    set_gates(modules, 1e4)
    assert torch.equal(tokens(backbone, inputs, MixSchedule(modules, EXITS)), skipped)
    set_gates(modules, -1e4)
    assert torch.equal(tokens(backbone, inputs, MixSchedule(modules, EXITS)), full)


@torch.no_grad()
def test_generated_tokens_go_through_the_layers_that_mole_picked(backbone: OpenVLA, inputs: LayerInputs) -> None:
    """The way around a layer is that of the token, not that of the prompt."""

    class Router:
        def of(self, state: LayerState) -> Tensor:
            return torch.tensor([9.0, 0, 0, 9, 9, 9]).expand(len(state.hidden), -1)

    class Around(LayerSchedule):
        def before(self, layer: int, state: LayerState) -> Step:
            return Jump(layer + 1) if layer in (1, 2) else RUN

    trained: Any = Router()
    found = tokens(backbone, inputs, StraightThrough(trained, 4))
    assert torch.equal(found, tokens(backbone, inputs, Around()))
    assert not torch.equal(found, tokens(backbone, inputs, LayerSchedule()))


@pytest.mark.parametrize("recompute", [False, True])
def test_stage_2_has_a_gradient(backbone: OpenVLA, inputs: LayerInputs, modules: SkipModules, recompute: bool) -> None:
    """For adapters and controllers of all segments; the same with gradient checkpointing, and none for the backbone."""
    gradients = []
    for again in (False, recompute):
        modules.zero_grad()
        settings = Stage2Settings(penalty_weight=0.0, recompute=again)
        loss = stage2_loss(backbone, modules, inputs, torch.zeros(2, 1, 7), EXITS, settings)
        loss.total.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad.clone() for name, p in modules.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    for layer in EXITS:
        for part in (modules.adapter(layer).up.weight.grad, modules.controller(layer).out.bias.grad):
            assert part is not None and bool(part.any())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def run(*arguments: str) -> Result:
    quick = [flag for setting in QUICK for flag in ("--set", setting)]
    return CliRunner().invoke(app, [*arguments, *quick, "--json", "--quiet"])


@pytest.mark.slow
def test_the_commands_in_a_row(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile = json.loads(run("profile", "openvla", "--checkpoint", str(folder)).stdout)
    assert len(profile["similarity"]) == 6
    refusal = run("distill")
    assert refusal.exit_code == 2
    assert "generates its actions token by token" in refusal.stderr and "--method dysl-paper" in refusal.stderr
    distilled = json.loads(run("distill", "--method", "dysl-paper").stdout)
    assert [row["stage"] for row in distilled["stages"]] == [1, 2]
    found = json.loads(run("eval", "--method", "full,dysl-paper").stdout)["methods"]
    assert [(name, row["errors"]) for name, row in found.items()] == [("full", 0), ("dysl-paper", 0)]
    measured = json.loads(run("bench", "--method", "full,dysl-paper", "--device", "cpu").stdout)
    assert {row["method"] for row in measured["rows"]} >= {"full", "dysl-paper"}
