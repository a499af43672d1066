from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dyslctl_roboflamingo import RoboFlamingo
from dyslctl_roboflamingo.config import Files, settings_of
from dyslctl_roboflamingo.random_checkpoint import write_random_checkpoint

from dyslctl import methods
from dyslctl.baselines.flexidepth_tokens import require_token_skips
from dyslctl.baselines.mole import require_pictures
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.engine import FullSchedule, Jump, LayerSchedule, Step, forward
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.method_assets import Setup
from dyslctl.policy import full_policy
from dyslctl.testing import check_backbone
from dyslctl.types import LayerState, Observation, TokenKind

Observe = Callable[..., Observation]
INSTRUCTIONS = ("take the red block and rotate it to the right", "pull the handle to open the drawer", "open it")


class SkipMiddle(LayerSchedule):
    """Jumps over layers 2 to 4."""

    def before(self, layer: int, state: LayerState) -> Step:
        return Jump(5) if layer == 2 else super().before(layer, state)


def observations(observe: Observe) -> list[Observation]:
    return [observe(words, seed) for seed, words in enumerate(INSTRUCTIONS)]


def test_it_keeps_the_backbone_contract(backbone: RoboFlamingo, observe: Observe) -> None:
    assert not check_backbone(backbone, observations(observe)).failures


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("every", [1, 4])
def test_so_does_one_that_reads_the_final_norm(
    tmp_path: Path, observe: Observe, every: int, dtype: torch.dtype
) -> None:
    settings = settings_of("tiny", Files(policy="p"))
    language = settings.language_model.model_copy(update={"qk_norm": False})
    cross = settings.cross_attention.model_copy(update={"every": every})
    update = {
        "feature_tap": "after_last_block",
        "final_norm": True,
        "language_model": language,
        "cross_attention": cross,
    }
    write_random_checkpoint(tmp_path / "c", settings.model_copy(update=update))
    backbone = RoboFlamingo.load(tmp_path / "c", dtype=dtype)
    assert backbone.spec.num_layers == 8
    assert not check_backbone(backbone, observations(observe)).failures


def test_spec(backbone: RoboFlamingo) -> None:
    spec = backbone.spec
    assert (spec.num_layers, spec.hidden_size, spec.chunk_length, spec.action_dim) == (7, 32, 1, 7)
    assert (spec.last_live_layer, spec.gripper_dim, spec.visual_tokens) == (6, 6, False)
    assert len(spec.fingerprint) == 64


def test_what_the_layers_see(backbone: RoboFlamingo, observe: Observe) -> None:
    """Words only, all of them text to the head; both views are latents beside them."""
    inputs = backbone.encode([observe(INSTRUCTIONS[1])])
    assert set(inputs.kinds.flatten().tolist()) == {int(TokenKind.TEXT)}
    assert inputs.conditioning.shape == (1, 2 * 6, 24)
    assert inputs.mask is None


def test_each_view_has_its_latents(backbone: RoboFlamingo, observe: Observe) -> None:
    seen = observe()
    latents = backbone.encode([seen]).conditioning
    for view, own in (("static", slice(0, 6)), ("gripper", slice(6, 12))):
        changed = backbone.encode([Observation({**seen.images, view: 255 - seen.images[view]}, seen.instruction)])
        moved = (changed.conditioning != latents).any(-1)[0]
        assert moved.nonzero().flatten().tolist() == list(range(own.start, own.stop))


@pytest.mark.parametrize("past", [0, 3, 11, 12, 13, 20])
def test_verification_leaves_the_state_of_one_full_prediction(
    backbone: RoboFlamingo, observe: Observe, past: int
) -> None:
    """Predict with skips, rewind, resume from the first skip: action and memory of a model that never skipped."""
    states = [LayerState.of(backbone.encode([observe(seed=seed)])) for seed in range(past + 2)]

    def full(state: LayerState) -> torch.Tensor:
        again = state.fork()
        forward(backbone, again, FullSchedule())
        return backbone.predict(again)

    expected = [full(state) for state in states]
    backbone.reset()
    for state in states[:past]:
        full(state)
    kept, skipping = backbone.snapshot(), states[past].fork()
    trace = forward(backbone, skipping, SkipMiddle())
    assert not torch.equal(backbone.predict(skipping), expected[past])
    backbone.restore(kept)
    assert trace.resume_state is not None and trace.resume_layer == 2
    forward(backbone, trace.resume_state, FullSchedule(), first=2)
    assert torch.equal(backbone.predict(trace.resume_state), expected[past])
    assert torch.equal(full(states[past + 1]), expected[past + 1])


@pytest.mark.parametrize("steps", [range(2, 12), range(14, 30)], ids=["state carried on", "window replayed"])
def test_so_does_the_papers_policy(folder: Path, observe: Observe, steps: range) -> None:
    """Wherever it verifies by itself: the action and the memory of one full prediction from there."""
    ours, reference = RoboFlamingo.load(folder), RoboFlamingo.load(folder)
    torch.manual_seed(0)
    modules = SkipModules(LayerPartition(ours.spec.num_layers, (0, 4, 6)), SkipSizes.mini(ours.spec.hidden_size)).eval()
    for layer in modules.partition.dynamic_layers:
        torch.nn.init.normal_(modules.adapter(layer).up.weight, std=0.5)
    policy = DySLPolicy(ours, modules, GuidanceSettings(-1e-6, 0.0, k=1, tau=0.0), 1, pre_skip=False)
    full, verified = full_policy(reference, 1), 0
    policy.reset()
    for step in range(steps.stop):
        before, seen = ours.snapshot(), observe(INSTRUCTIONS[step % 3], step)
        chunk = policy.select_action(seen)
        if step in steps and policy.last.verified:
            reference.restore(before)
            assert np.array_equal(full.select_action(seen).actions, chunk.actions)
            torch.testing.assert_close(astuple(ours.snapshot()), astuple(reference.snapshot()), rtol=0, atol=0)
            verified += 1
    assert verified > 0


@pytest.mark.parametrize("name", [name for name in methods.names() if methods.method(name).prunes])
def test_token_pruning_is_refused(backbone: RoboFlamingo, name: str) -> None:
    refusal = re.escape(f"'{name}' prunes visual tokens, and the layers of RoboFlamingo see none")
    with pytest.raises(ConfigError, match=refusal):
        methods.build(name, Setup(backbone, 1))


def test_so_are_tokens_that_skip_layers_one_by_one(backbone: RoboFlamingo) -> None:
    with pytest.raises(ConfigError, match="RoboFlamingo makes no keys and values without running the layer"):
        require_token_skips(backbone)


def test_so_is_a_router_that_would_see_no_picture(backbone: RoboFlamingo) -> None:
    with pytest.raises(ConfigError, match="for RoboFlamingo that is words alone"):
        require_pictures(backbone)


def test_decoding_by_hand(backbone: RoboFlamingo) -> None:
    predicted = torch.tensor([[[0.5, -0.5, 0, 0, 0, 1, 0.5]], [[0, 0, 0, 0, 0, 0, 0.51]]])
    closes, opens = backbone.decode_action(predicted)
    assert closes.actions.tolist() == [[0.5, -0.5, 0, 0, 0, 1, -1]], "one half does not open"
    assert opens.actions.tolist() == [[0, 0, 0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(opens.normalized, opens.actions)


def test_targets_by_hand(backbone: RoboFlamingo) -> None:
    actions = np.array([[0.1, 0, 0, 0, 0, 0, 1], [0.2, 0, 0, 0, 0, 0, -1]])
    assert backbone.normalize(actions)[:, 6].tolist() == [1, 0]


def test_task_loss_by_hand(backbone: RoboFlamingo) -> None:
    """Huber with delta 1: half a square below, linear above; 0.01 of the cross-entropy."""
    target = torch.zeros(2, 1, 7)
    predicted = target.clone()
    predicted[0, 0, 0], predicted[0, 0, 1] = 0.6, 3.0
    predicted[1, 0, 6] = 0.5
    huber = (0.5 * 0.36 + (3 - 0.5)) / 6
    expected = torch.tensor([huber, 0.01 * float(np.log(2))])
    torch.testing.assert_close(backbone.task_loss(predicted, target), expected)


def test_a_saturated_gripper_has_a_finite_gradient(backbone: RoboFlamingo) -> None:
    predicted = torch.zeros(1, 1, 7, requires_grad=True)
    loss = backbone.task_loss(predicted, torch.ones(1, 1, 7)).sum()
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert loss.isfinite() and gradient.isfinite().all()


def test_a_batch_does_not_meet_another_ones_memory(backbone: RoboFlamingo, observe: Observe) -> None:
    one = LayerState.of(backbone.encode([observe()]))
    backbone.predict(one)
    two = LayerState.of(backbone.encode([observe(), observe(seed=1)]))
    with pytest.raises(ConfigError, match="remembers 1 episodes side by side, and is given 2"):
        backbone.predict(two)
    backbone.reset()
    backbone.predict(two)


def test_a_snapshot_of_something_else(backbone: RoboFlamingo) -> None:
    with pytest.raises(ConfigError, match="expected a snapshot of this backbone, found NoneType"):
        backbone.restore(None)


def test_workloads(backbone: RoboFlamingo) -> None:
    small, large = backbone.workloads().values()
    assert (small.num_layers, small.hidden_size, large.num_layers, large.hidden_size) == (23, 2048, 32, 4096)
    # Cross-attention and block of the 3B model; a quarter of the layers of the 9B model have the former.
    assert small.layer_params == 36_708_354 + 12 * 2048**2 + 4 * 2048
    assert large.layer_params == 139_476_994 // 4 + 12 * 4096**2 + 2 * 4096
    assert small.head_params == 41_194_759


@pytest.mark.parametrize(
    ("checkpoint", "arguments", "error", "message"),
    [
        (
            "nowhere",
            {},
            ArtifactError,
            "checkpoint nowhere: expected a folder, found nothing\n  hint: --checkpoint FOLDER",
        ),
        (__file__, {}, ArtifactError, "expected a folder, found a file"),
        (
            "owner/name",
            {"revision": "main"},
            ArtifactError,
            "expected a folder, which has no revision 'main'\n  hint: leave model.revision out",
        ),
        ("nowhere", {"options": {"window": 3}}, ConfigError, "roboflamingo has no options\n  window: unknown key"),
    ],
)
def test_what_cannot_be_loaded(checkpoint: str, arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        RoboFlamingo.load(checkpoint, **arguments)


def test_the_fingerprint_follows_every_file(write: Callable[[], Path]) -> None:
    folder = write()
    seen = {RoboFlamingo.load(folder).spec.fingerprint}
    for name in ("roboflamingo.yaml", "tokenizer.json"):
        path = write() / name
        path.write_text(path.read_text() + "\n")
        seen.add(RoboFlamingo.load(folder).spec.fingerprint)
    write_random_checkpoint(folder, seed=1)
    seen.add(RoboFlamingo.load(folder).spec.fingerprint)
    assert len(seen) == 4
