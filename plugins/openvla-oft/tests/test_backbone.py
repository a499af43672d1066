from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft import backbone as module
from dyslctl_openvla_oft.checkpoint import fingerprint

from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.types import LayerState, Observation

Observe = Callable[..., Observation]


def rename_statistics(folder: Path, *names: str) -> None:
    path = folder / "dataset_statistics.json"
    (entry,) = json.loads(path.read_text()).values()
    path.write_text(json.dumps(dict.fromkeys(names, entry)))


def test_spec(backbone: OpenVLAOFT, folder: Path) -> None:
    spec = backbone.spec
    assert (spec.num_layers, spec.hidden_size, spec.chunk_length, spec.action_dim) == (4, 32, 3, 7)
    assert (spec.last_live_layer, spec.gripper_dim) == (3, 6)
    assert spec.fingerprint == fingerprint(folder)
    assert (backbone.device, backbone.dtype) == (torch.device("cpu"), torch.float32)


def test_one_control_step(backbone: OpenVLAOFT, observe: Observe) -> None:
    state = LayerState.of(backbone.encode([observe(), observe("lift it", 1)]))
    trace = forward(backbone, state, FullSchedule())
    predicted = backbone.predict(state)
    chunks = backbone.decode_action(predicted)
    assert trace.layers_run == [0, 1, 2, 3]
    assert predicted.shape == (2, 3, 7)
    assert [chunk.actions.shape for chunk in chunks] == [(3, 7), (3, 7)]
    np.testing.assert_array_equal(chunks[0].normalized[:, :6], predicted[0, :, :6].numpy())
    assert set(np.unique(chunks[0].actions[:, 6])) <= {-1.0, 1.0}


def test_encode_reads_every_part_of_the_observation(backbone: OpenVLAOFT, observe: Observe) -> None:
    base = observe()
    assert base.proprio is not None
    agent, wrist = base.images["agent"], base.images["wrist"]
    hidden = backbone.encode([base]).hidden[0]

    def changed(observation: Observation) -> set[int]:
        difference = (backbone.encode([observation]).hidden[0] - hidden).abs().amax(dim=-1)
        return set(difference.nonzero().flatten().tolist())

    assert changed(base) == set()
    assert changed(Observation({"agent": 255 - agent, "wrist": wrist}, base.instruction, base.proprio)) == {1, 2, 3, 4}
    assert changed(Observation({"agent": agent, "wrist": 255 - wrist}, base.instruction, base.proprio)) == {5, 6, 7, 8}
    assert changed(Observation(base.images, base.instruction, -base.proprio)) == {9}
    other = base.instruction.replace("red", "blue")
    assert changed(Observation(base.images, other, base.proprio)) == {13}
    assert changed(Observation(base.images, base.instruction.upper(), base.proprio)) == set()


def test_a_resumed_pass_is_the_full_pass(backbone: OpenVLAOFT, observe: Observe) -> None:
    inputs = backbone.encode([observe()])
    full = LayerState.of(inputs)
    forward(backbone, full, FullSchedule())
    half = LayerState.of(inputs)
    for layer in (0, 1):
        half.hidden = backbone.run_layer(layer, half)
    forward(backbone, half, FullSchedule(), first=2)
    assert torch.equal(half.hidden, full.hidden)


def test_gradients_reach_the_hidden_state_only(backbone: OpenVLAOFT, observe: Observe) -> None:
    state = LayerState.of(backbone.encode([observe()]))
    leaf = state.hidden.clone().requires_grad_()
    state.hidden = leaf
    forward(backbone, state, FullSchedule())
    torch.autograd.backward(backbone.predict(state).sum())
    assert leaf.grad is not None
    assert bool(leaf.grad.isfinite().all())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_task_loss_is_mean_l1_per_sample(backbone: OpenVLAOFT) -> None:
    target = torch.zeros(2, 3, 7)
    predicted = target.clone()
    predicted[0, 0, 0] = 2.1
    predicted[1] = -0.5
    torch.testing.assert_close(backbone.task_loss(predicted, target), torch.tensor([0.1, 0.5]))


def test_normalize_inverts_decode_action(backbone: OpenVLAOFT) -> None:
    predicted = torch.rand(1, 3, 7) * 2 - 1
    predicted[..., 6] = torch.tensor([0.0, 1.0, 0.0])
    (chunk,) = backbone.decode_action(predicted)
    np.testing.assert_allclose(backbone.normalize(chunk.actions), predicted[0].numpy(), atol=1e-5)


def test_center_crop_can_be_overridden(folder: Path, backbone: OpenVLAOFT, observe: Observe) -> None:
    cropped = OpenVLAOFT.load(folder, options={"center_crop": True})
    assert (backbone.config.center_crop, cropped.config.center_crop) == (False, True)
    assert not torch.equal(cropped.encode([observe()]).hidden, backbone.encode([observe()]).hidden)


@pytest.mark.parametrize("key", ["libero_goal", "libero_goal_no_noops"])
def test_unnorm_key_with_and_without_its_suffix(write: Callable[[], Path], backbone: OpenVLAOFT, key: str) -> None:
    folder = write()
    rename_statistics(folder, "libero_10_no_noops", "libero_goal_no_noops")
    loaded = OpenVLAOFT.load(folder, options={"unnorm_key": key})
    assert loaded.statistics == backbone.statistics


@pytest.mark.parametrize(
    ("options", "message"), [({}, "has several data sets: a, b"), ({"unnorm_key": "c"}, "has no data set 'c': a, b")]
)
def test_unnorm_key_is_never_guessed(write: Callable[[], Path], options: dict[str, Any], message: str) -> None:
    folder = write()
    rename_statistics(folder, "a", "b")
    with pytest.raises(ConfigError, match=message):
        OpenVLAOFT.load(folder, options=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unnormkey": "a"}, "model.options.unnormkey: Extra inputs are not permitted"),
        ({"center_crop": "perhaps"}, "model.options.center_crop: Input should be a valid boolean"),
    ],
)
def test_bad_options(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OpenVLAOFT.load(folder, options=options)


def test_no_checkpoint_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        OpenVLAOFT.load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"config\.json: cannot be read"):
        OpenVLAOFT.load(tmp_path)


def test_a_missing_embedded_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT", tmp_path / "mini-tabletop")
    with pytest.raises(ArtifactError, match="mini-tabletop is missing"):
        OpenVLAOFT.default_checkpoint()
    (tmp_path / "mini-tabletop").mkdir()
    assert OpenVLAOFT.default_checkpoint() == tmp_path / "mini-tabletop"
