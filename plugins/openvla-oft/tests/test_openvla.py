"""OpenVLA generates its action: against a decoder without cache, written in plain torch from the weights up.

That decoder, :class:`Greedy`, computes the whole sequence anew for each token. Given a plan it is the network that has
only the plan's layers and adapters: what generation with a frozen plan must equal, token for token. Its images are
those of ``encode``, which OpenVLA shares with OpenVLA-OFT (``test_published_layout.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dyslctl_openvla_oft import OpenVLA
from dyslctl_openvla_oft.autoregressive import OpenVLAModel
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.models import new_model
from dyslctl_openvla_oft.random_checkpoint import INSTRUCTIONS, published_config, random_statistics
from dyslctl_openvla_oft.tokenizer import build_tokenizer
from dyslctl_openvla_oft.writer import write_checkpoint
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from dyslctl.engine import RUN, ForwardTrace, FullSchedule, Jump, LayerSchedule, Step, forward
from dyslctl.errors import ConfigError
from dyslctl.jobs.lockstep import answer_together
from dyslctl.policy import Predict, Prediction
from dyslctl.testing import check_backbone
from dyslctl.types import LayerInputs, LayerState, Observation, Ran

LAYERS, HEADS, WIDTH = 4, 2, 16
Plan = list[int | Callable[[Tensor], Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lively model: its tokens differ from frame to frame, and within an action."""
    values = published_config("tiny", "tokens").model_dump()
    values["text_config"]["num_hidden_layers"] = LAYERS
    config = OFTConfig.model_validate(values)
    model, generator = new_model(config), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = center + 0.2 * torch.randn(parameter.shape, generator=generator)
    assert isinstance(model, OpenVLAModel)
    model.lm_head.weight.data[model.action_tokens.slice] *= 8  # or most tokens would not be actions
    tokenizer = build_tokenizer(INSTRUCTIONS, published_ids=True)
    path = tmp_path_factory.mktemp("openvla") / "checkpoint"
    write_checkpoint(path, model, tokenizer, {"a": random_statistics(config.oft, 0)}, 1, dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def backbone(folder: Path) -> OpenVLA:
    return OpenVLA.load(folder)


@dataclass(frozen=True)
class Greedy:
    """The language model of a checkpoint."""

    folder: Path

    def tokens(self, inputs: LayerInputs, instruction: str, plan: Iterable[int | Callable[[Tensor], Tensor]]) -> Tensor:
        """``[7]``: what is most likely behind the prompt, again and again."""
        weights = load_file(self.folder / "model-00001-of-00001.safetensors")
        text = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
        words = Tokenizer.from_file(str(self.folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        table = weights["language_model.model.embed_tokens.weight"]
        ids, found = [*words, 29871], list[int]()
        for _ in range(7):
            x = torch.cat([table[1][None], inputs.hidden[0, 1:5], table[[*ids, *found]]])
            for step in plan:
                x = decoder_layer(weights, step, x) if isinstance(step, int) else step(x)
            last = rms_norm(x[-1], weights["language_model.model.norm.weight"])
            found.append(int((weights["language_model.lm_head.weight"] @ last).argmax()))
        return torch.tensor(found)


def decoder_layer(weights: dict[str, Tensor], index: int, x: Tensor) -> Tensor:
    """``[T, H]``; attention with the mask written out."""
    w = {
        key.split(".", 4)[4]: v for key, v in weights.items() if key.startswith(f"language_model.model.layers.{index}.")
    }
    normed = rms_norm(x, w["input_layernorm.weight"])
    q, k, v = (F.linear(normed, w[f"self_attn.{part}_proj.weight"]).view(-1, HEADS, WIDTH) for part in "qkv")
    angles = torch.arange(len(x)).float()[:, None] / 10_000.0 ** (torch.arange(0, WIDTH, 2).float() / WIDTH)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    q, k = (
        torch.view_as_real(torch.complex(*part.chunk(2, -1)) * turn).transpose(-1, -2).flatten(-2) for part in (q, k)
    )
    scores = torch.einsum("qhd,khd->hqk", q, k) / WIDTH**0.5
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    mixed = torch.einsum("hqk,khd->qhd", scores.masked_fill(future, -torch.inf).softmax(-1), v).flatten(1)
    x = x + F.linear(mixed, w["self_attn.o_proj.weight"])
    normed = rms_norm(x, w["post_attention_layernorm.weight"])
    inner = F.silu(F.linear(normed, w["mlp.gate_proj.weight"])) * F.linear(normed, w["mlp.up_proj.weight"])
    return x + F.linear(inner, w["mlp.down_proj.weight"])


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def observe(seed: int = 0, instruction: str = INSTRUCTIONS[2], views: int = 1) -> Observation:
    rng = np.random.default_rng(seed)
    return Observation({f"v{n}": rng.integers(0, 256, (28, 28, 3), dtype=np.uint8) for n in range(views)}, instruction)


class Planned(LayerSchedule):
    """Jumps as it is told."""

    def __init__(self, jumps: dict[int, Jump]) -> None:
        self.jumps = jumps

    def before(self, layer: int, state: LayerState) -> Step:
        return self.jumps.get(layer, RUN)


def run(
    backbone: OpenVLA, inputs: LayerInputs, jumps: dict[int, Jump] | None = None
) -> tuple[LayerState, ForwardTrace]:
    state = LayerState.of(inputs)
    return state, forward(backbone, state, Planned(jumps or {}))


def adapter(hidden: Tensor) -> Tensor:
    """Not linear, and nothing like the layers it stands in for."""
    return 0.7 * hidden + hidden.flip(-1).tanh()


def ran(state: LayerState) -> list[int]:
    return [step.layer for step in state.past if isinstance(step, Ran)]


PLANS: dict[str, tuple[dict[int, Jump], Plan]] = {
    "every layer": ({}, [0, 1, 2, 3]),
    "plain skip": ({1: Jump(3)}, [0, 3]),
    "adapter": ({1: Jump(2, adapter)}, [0, adapter, 2, 3]),
    "adapters one after another": ({1: Jump(2, adapter), 2: Jump(3, torch.tanh)}, [0, adapter, torch.tanh, 3]),
    "adapter to the head": ({2: Jump(4, adapter)}, [0, 1, adapter]),
    "first layer": ({0: Jump(1, adapter)}, [adapter, 1, 2, 3]),
}


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_without_skips_it_is_greedy_decoding(backbone: OpenVLA, folder: Path, seed: int, instruction: str) -> None:
    inputs = backbone.encode([observe(seed, instruction)])
    ids, _ = backbone.model.generate(run(backbone, inputs)[0])
    assert ids[0].tolist() == Greedy(folder).tokens(inputs, instruction, range(LAYERS)).tolist()


def test_the_comparison_can_tell(backbone: OpenVLA) -> None:
    """Tokens differ within an action, from image to image and from plan to plan."""
    inputs = [backbone.encode([observe(seed)]) for seed in range(3)]
    states = [run(backbone, entry)[0] for entry in inputs]
    states += [run(backbone, inputs[0], jumps)[0] for jumps, _ in PLANS.values()]
    found = [tuple(backbone.model.generate(state)[0][0].tolist()) for state in states]
    assert len(set(found)) == len(PLANS) + 2
    assert min(len(set(tokens)) for tokens in found) > 2


@pytest.mark.parametrize("name", PLANS)
def test_with_skips_it_is_the_network_of_the_plan(backbone: OpenVLA, folder: Path, name: str) -> None:
    jumps, plan = PLANS[name]
    for seed in range(3):
        inputs = backbone.encode([observe(seed)])
        ids, _ = backbone.model.generate(run(backbone, inputs, jumps)[0])
        assert ids[0].tolist() == Greedy(folder).tokens(inputs, INSTRUCTIONS[2], plan).tolist()


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_is_frozen_at_the_prefill(backbone: OpenVLA, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each later token, alone, runs the layers that the prefill ran; a skipped one has no cache and never runs."""
    state, trace = run(backbone, backbone.encode([observe()]), PLANS[name][0])
    assert ran(state) == trace.layers_run
    calls, attend = list[tuple[int, int, int]](), OpenVLAModel.attend

    def spy(model: OpenVLAModel, index: int, hidden: Tensor, *rest: object) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, kept = attend(model, index, hidden, *rest)  # type: ignore[arg-type]
        calls.append((index, hidden.shape[1], kept[0].shape[2]))
        return output, kept

    monkeypatch.setattr(OpenVLAModel, "attend", spy)
    backbone.predict(state)
    tokens = state.hidden.shape[1]
    assert calls == [(layer, 1, tokens + step) for step in range(1, 7) for layer in trace.layers_run]


def test_predicting_changes_nothing(backbone: OpenVLA) -> None:
    state, _ = run(backbone, backbone.encode([observe()]))
    kept = [tensor.clone() for step in state.past if isinstance(step, Ran) for tensor in step.kept]
    first = backbone.predict(state)
    assert torch.equal(backbone.predict(state), first)
    after = [tensor for step in state.past if isinstance(step, Ran) for tensor in step.kept]
    assert all(map(torch.equal, kept, after))


def test_a_resumed_pass_generates_what_the_full_one_does(backbone: OpenVLA) -> None:
    """And the pass that skipped still generates what it did: forks share a past, and neither changes it."""
    inputs = backbone.encode([observe()])
    full, _ = run(backbone, inputs)
    skipped, trace = run(backbone, inputs, {1: Jump(3, adapter)})
    before = backbone.predict(skipped)
    assert trace.resume_state is not None
    resumed = trace.resume_state
    forward(backbone, resumed, FullSchedule(), first=1)
    assert ran(resumed) == [0, 1, 2, 3]
    assert torch.equal(backbone.predict(resumed), backbone.predict(full))
    assert torch.equal(backbone.predict(skipped), before)
    assert not torch.equal(before, backbone.predict(full))


def test_side_by_side_each_keeps_its_own_plan(backbone: OpenVLA) -> None:
    """As if alone, whether samples share a batch or not: prompts differ in length, plans in layers."""
    cases = [
        (observe(n, INSTRUCTIONS[n % 2]), jumps) for n, (jumps, _) in enumerate([*PLANS.values(), *PLANS.values()])
    ]
    inputs = [backbone.encode([observation]) for observation, _ in cases]
    requests = [
        Predict(backbone, LayerState.of(entry), Planned(jumps)) for entry, (_, jumps) in zip(inputs, cases, strict=True)
    ]
    for answer, entry, (_, jumps) in zip(answer_together(requests), inputs, cases, strict=True):
        alone, trace = run(backbone, entry, jumps)
        assert isinstance(answer, Prediction)
        assert answer.trace.layers_run == trace.layers_run
        torch.testing.assert_close(answer.predicted[None], backbone.predict(alone))


def test_contract(backbone: OpenVLA) -> None:
    check_backbone(backbone, [observe(seed, text) for seed, text in enumerate(INSTRUCTIONS)])


def test_spec(backbone: OpenVLA) -> None:
    spec = backbone.spec
    assert (spec.num_layers, spec.chunk_length, spec.action_dim, spec.gripper_dim) == (4, 1, 7, 6)
    assert spec.generates


def test_values_come_from_the_tokens(backbone: OpenVLA) -> None:
    state, _ = run(backbone, backbone.encode([observe(), observe(1, INSTRUCTIONS[0])]))
    ids, _ = backbone.model.generate(state)
    predicted = backbone.predict(state)
    assert (predicted.shape, predicted.dtype) == ((2, 1, 7), torch.float32)
    torch.testing.assert_close(predicted[:, 0], backbone.model.action_tokens.values(ids))


def test_the_first_view_is_read(backbone: OpenVLA) -> None:
    """Of as many as the suite shows."""
    one, two = (backbone.encode([observe(views=views)]) for views in (1, 2))
    assert torch.equal(one.hidden, two.hidden)
    with pytest.raises(ConfigError, match=r"reads 1 camera views \(third person\), the observation has 0"):
        backbone.encode([observe(views=0)])


def test_a_state_without_a_past_is_refused(backbone: OpenVLA) -> None:
    with pytest.raises(ConfigError, match="no keys and values"):
        backbone.predict(LayerState.of(backbone.encode([observe()])))


def test_bfloat16_generates(folder: Path) -> None:
    backbone = OpenVLA.load(folder, dtype=torch.bfloat16)
    predicted = backbone.predict(run(backbone, backbone.encode([observe()]))[0])
    assert predicted.dtype == torch.float32
    assert bool((predicted.abs() < 1).all())
