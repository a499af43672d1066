"""The tutorial plugin: keeps its contract, installs as its README says, and goes through the real command line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.plugins import load_suite
from dyslctl.testing import check_backbone

if TYPE_CHECKING:
    from examples.custom_backbone.nano_gpt import NanoGPT

EXAMPLE = Path(__file__).parents[1] / "examples" / "custom_backbone"
LAYERS = 8

Dyslctl = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def nano_gpt() -> type[NanoGPT]:
    spec = importlib.util.spec_from_file_location("nano_gpt", EXAMPLE / "nano_gpt.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    backbone: type[NanoGPT] = module.NanoGPT
    return backbone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_the_contract(nano_gpt: type[NanoGPT], dtype: torch.dtype) -> None:
    suite = load_suite(nano_gpt.default_suite)
    observations = [suite.make().reset(spec) for spec in suite.episodes("train", 2)]
    backbone = nano_gpt.load(nano_gpt.default_checkpoint(), dtype=dtype)
    assert check_backbone(backbone, observations).failures == ()


def test_the_seed_makes_the_weights(nano_gpt: type[NanoGPT]) -> None:
    prints = [nano_gpt.load(checkpoint).spec.fingerprint for checkpoint in ("random:0", "random:0", "random:1")]
    assert prints[0] == prints[1] != prints[2]


def test_options_are_strict(nano_gpt: type[NanoGPT]) -> None:
    assert nano_gpt.load("random:0", options={"num_layers": 3}).spec.num_layers == 3
    with pytest.raises(ConfigError, match="num_layer\n"):
        nano_gpt.load("random:0", options={"num_layer": 3})


def test_a_checkpoint_is_loaded_strictly(nano_gpt: type[NanoGPT], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = nano_gpt.load("random:1").model.state_dict()
    good, bad, broken = tmp_path / "good.safetensors", tmp_path / "bad.safetensors", tmp_path / "broken.safetensors"
    save_file(weights, good)
    save_file({**weights, "head.bias": torch.zeros(3), "tail.bias": torch.zeros(3)}, bad)
    broken.write_bytes(good.read_bytes()[:1000])
    assert nano_gpt.load(good).spec.fingerprint == nano_gpt.load("random:1").spec.fingerprint
    with pytest.raises(ArtifactError, match=r"tail\.bias(.|\n)*head\.bias"):
        nano_gpt.load(bad)
    for path in (broken, tmp_path / "missing.safetensors"):
        with pytest.raises(ArtifactError, match=path.name):
            nano_gpt.load(path)


@pytest.fixture(scope="module")
def dyslctl(tmp_path_factory: pytest.TempPathFactory) -> Dyslctl:
    """``dyslctl("eval", ...)``: the JSON that the command prints, with the plugin installed, in an empty folder."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *offline, "-e", str(EXAMPLE)], check=True, capture_output=True)
    # A --target folder is no site directory, so python does not read the .pth file that an editable install leaves.
    path = os.pathsep.join([str(site), *(file.read_text().strip() for file in site.glob("*.pth"))])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "dyslctl", *arguments, "--json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    return run


def test_installing_it_makes_it_known(dyslctl: Dyslctl) -> None:
    rows = {row["name"]: row for row in dyslctl("plugins")["backbones"]}
    assert rows["nano-gpt"]["distribution"] == "dyslctl-nano-gpt"
    assert rows["nano-gpt"]["status"] == "ok"


def test_it_goes_the_whole_way(dyslctl: Dyslctl) -> None:
    profile = dyslctl("profile", "nano-gpt", "--samples", "16")
    assert (profile["backbone"], profile["num_layers"], len(profile["similarity"])) == ("nano-gpt", LAYERS, LAYERS)
    assert {0, LAYERS - 1} <= set(profile["static_layers"])

    small = ("--set", "distill.episodes=2", "--set", "calibrate.episodes=2")
    for stage in ("1", "2"):
        trained = dyslctl("distill", "--stage", stage, "--steps", "3", *small)
        assert (str(trained["stage"]), trained["steps"]) == (stage, 3)
        assert trained["trainable_parameters"] > 0

    result = dyslctl("eval", "--episodes", "2", "--method", "full,dysl")
    assert result["suite"] == "tabletop_object"
    assert list(result["methods"]) == ["full", "dysl"]
    assert result["methods"]["full"]["mean_layers_run"] == LAYERS
    assert [row["errors"] for row in result["methods"].values()] == [0, 0]
