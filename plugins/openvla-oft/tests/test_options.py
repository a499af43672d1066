from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.actions import decode, normalize
from dyslctl_openvla_oft.config import ActionConfig, OFTConfig
from dyslctl_openvla_oft.options import OFTOptions, parse_options
from dyslctl_openvla_oft.random_checkpoint import published_config, random_statistics, write_random_checkpoint

from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.types import Observation

Write = Callable[[], Path]


def applied(**options: Any) -> ActionConfig:
    return parse_options(options, OFTOptions).applied_to(OFTConfig()).oft


def test_defaults_are_liberos() -> None:
    constants = {"chunk_length": 8, "action_dim": 7, "proprio_dim": 8, "normalization": "bounds_q99"}
    assert applied().model_dump().items() >= {**constants, "num_images": 2, "center_crop": True}.items()


@pytest.mark.parametrize("words", ["libero", "aloha", "bridge"])
def test_constants_do_not_come_from_the_command_line(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """The released code takes them from words in ``sys.argv``."""
    monkeypatch.setattr(sys, "argv", ["finetune.py", f"--{words}", f"{words}_data"])
    assert applied() == ActionConfig()


@pytest.mark.parametrize(
    ("platform", "constants"),
    [
        ("libero", (8, 7, 8, "bounds_q99", "libero")),
        ("aloha", (25, 14, 14, "bounds", "none")),
        ("bridge", (5, 7, 7, "bounds_q99", "none")),
    ],
)
def test_platforms(platform: str, constants: tuple[object, ...]) -> None:
    oft = applied(platform=platform)
    assert (oft.chunk_length, oft.action_dim, oft.proprio_dim, oft.normalization, oft.gripper) == constants
    assert applied(platform=platform, chunk_length=3).chunk_length == 3


@pytest.mark.parametrize(("name", "value"), [("num_images", 5), ("num_images", 0), ("chunk_length", 0)])
def test_values_out_of_range(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"model\.options\.{name}: Input should be"):
        applied(**{name: value})


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.options\.use_film: Extra inputs") as error:
        parse_options({"use_film": True}, OFTOptions)
    assert error.value.hint is not None and "use_proprio" in error.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platform": "aloha"}, "action dimensions: 14 in config.json, 7 in statistics of 'tabletop'"),
        ({"proprio_dim": 8}, "proprio dimensions: 8 in config.json, 5 in statistics of 'tabletop'"),
        ({"use_proprio": False}, "proprioception: off in config.json or options, but there is proprio_projector--7_"),
    ],
)
def test_options_that_contradict_the_checkpoint(write: Write, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        OpenVLAOFT.load(write(), options=options)


def test_proprio_must_be_switched_off_by_name(write: Write) -> None:
    """A missing file may be a broken download: it switches nothing off."""
    folder = write()
    (folder / "proprio_projector--7_checkpoint.pt").unlink()
    with pytest.raises(ArtifactError, match=r"--set model\.options\.use_proprio=false"):
        OpenVLAOFT.load(folder)
    backbone = OpenVLAOFT.load(folder, options={"use_proprio": False})
    images = {view: np.zeros((28, 28, 3), np.uint8) for view in ("agent", "wrist")}
    with_state, without = (Observation(images, "lift it", state) for state in (np.ones(5, np.float32), None))
    assert torch.equal(backbone.encode([with_state]).hidden, backbone.encode([without]).hidden)


def test_statistics_without_proprio(write: Write) -> None:
    folder = write()
    path = folder / "dataset_statistics.json"
    entry = json.loads(path.read_text())
    del entry["tabletop"]["proprio"]
    path.write_text(json.dumps(entry))
    with pytest.raises(ArtifactError, match=r"proprio dimensions: 5 in config\.json, 0 in statistics of 'tabletop'"):
        OpenVLAOFT.load(folder)
    (folder / "proprio_projector--7_checkpoint.pt").unlink()
    OpenVLAOFT.load(folder, options={"use_proprio": False})


def test_four_suites_in_one_checkpoint(tmp_path: Path) -> None:
    suites = [f"libero_{suite}_no_noops" for suite in ("spatial", "object", "goal", "10")]
    write_random_checkpoint(tmp_path / "c", published_config("tiny"), keys=suites)
    expected = json.loads((tmp_path / "c" / "dataset_statistics.json").read_text())
    for name in ("libero_10", "libero_goal_no_noops"):
        loaded = OpenVLAOFT.load(tmp_path / "c", options={"unnorm_key": name})
        full = name if name in expected else f"{name}_no_noops"
        assert list(loaded.statistics.action.q99) == expected[full]["action"]["q99"]
    with pytest.raises(ConfigError, match="has several data sets: libero_spatial_no_noops, libero_object_no_noops, "):
        OpenVLAOFT.load(tmp_path / "c")
    with pytest.raises(ConfigError, match="has no data set 'libero_90': libero_spatial_no_noops"):
        OpenVLAOFT.load(tmp_path / "c", options={"unnorm_key": "libero_90"})


def test_bounds_are_minimum_and_maximum() -> None:
    """ALOHA's normalisation."""
    config = applied(platform="aloha")
    statistics = random_statistics(config, 0).action
    low, high = np.array(statistics.min), np.array(statistics.max)
    assert (low < np.array(statistics.q01)).all()
    bounds = np.stack([low, (low + high) / 2, high])
    unit = np.array([[-1], [0], [1]]) * np.ones(14, np.float32)
    np.testing.assert_allclose(normalize(bounds, statistics, config), unit, atol=1e-6)
    np.testing.assert_allclose(decode(unit, statistics, config).actions, bounds, atol=1e-6)
