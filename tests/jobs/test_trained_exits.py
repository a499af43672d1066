from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.artifacts.bundle import WEIGHTS, TrainingInfo, load_bundle
from dyslctl.artifacts.fingerprint import made_with
from dyslctl.artifacts.skip_profile import BackboneRef, ModuleSizes, Similarity, SkipProfile
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.errors import ArtifactError
from dyslctl.jobs.trained_exits import load_exits, new_exits, probe, save_exits

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def profile(backbone: TinyBackbone) -> SkipProfile:
    """Layers 0, 1 and 7 are static: the tail begins at layer 2."""
    return SkipProfile(
        backbone=BackboneRef(
            plugin="tiny",
            checkpoint="here",
            fingerprint=backbone.spec.fingerprint,
            num_layers=8,
            last_live_layer=7,
        ),
        suite="tiny_reach",
        samples=8,
        static_layers=(0, 1, 7),
        ratio=0.5,
        criterion="similarity",
        similarity=Similarity(cosine=(0.9,) * 8, standard_error=(0.1,) * 8),
        modules=ModuleSizes(adapter_width=2, controller_width=2, pool="mean"),
        made_with=made_with("dyslctl profile tiny", 0),
    )


def exits_for(backbone: TinyBackbone, profile: SkipProfile, *, remembers: bool = True) -> ExitModules:
    modules = new_exits(profile, (2, 5), ExitSizes.of(backbone.spec, 4, 6, remembers=remembers), seed=3)
    for layer in modules.exits:
        torch.nn.init.normal_(modules.adapter(layer).up.weight)
    return modules.eval()


def save(folder: Path, modules: ExitModules, profile: SkipProfile) -> Path:
    training = TrainingInfo(stage=2, steps=1, seed=3, method="dysl")
    return save_exits(folder, modules, 3, profile, training, "dyslctl distill")


@pytest.mark.parametrize("remembers", [True, False])
def test_saved_and_loaded_is_the_same(
    backbone: TinyBackbone, profile: SkipProfile, tmp_path: Path, remembers: bool
) -> None:
    saved = exits_for(backbone, profile, remembers=remembers)
    save(tmp_path / "bundle", saved, profile)
    found = load_exits(tmp_path / "bundle", profile, backbone)
    loaded = found.modules
    assert found.execute_horizon == 3
    assert (loaded.exits, loaded.sizes, loaded.training) == ((2, 5), saved.sizes, False)
    assert loaded.sizes == ExitSizes(16, 4, 3, 4, 6, remembers=remembers)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_same_seed_gives_the_same_untrained_exits(backbone: TinyBackbone, profile: SkipProfile) -> None:
    sizes, state = ExitSizes.of(backbone.spec), torch.random.get_rng_state()
    one, same, other = (new_exits(profile, (2, 5), sizes, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["adapters.2.recall.weight"], other["adapters.2.recall.weight"])
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's draws move"


@pytest.mark.parametrize("part", ["adapters.5.recall.weight", "adapters.2.down.bias", "planner.down.weight"])
def test_the_self_test_feels_every_module_and_what_it_makes_of_the_memory(
    backbone: TinyBackbone, profile: SkipProfile, tmp_path: Path, part: str
) -> None:
    modules = exits_for(backbone, profile)
    save(tmp_path / "bundle", modules, profile)
    self_test = load_bundle(tmp_path / "bundle").self_test
    self_test.replay(lambda hidden: probe(modules, hidden), "x")
    with torch.no_grad():
        dict(modules.named_parameters())[part].mul_(1.1)
    with pytest.raises(ArtifactError, match="self-test failed"):
        self_test.replay(lambda hidden: probe(modules, hidden), "x")


def test_a_backbone_with_other_chunks_is_refused(
    tiny_backbone: type[TinyBackbone], backbone: TinyBackbone, profile: SkipProfile, tmp_path: Path
) -> None:
    """The memory holds a chunk, so its length is part of the weights' shapes."""
    save(tmp_path / "bundle", exits_for(backbone, profile), profile)
    assert load_file(tmp_path / "bundle" / WEIGHTS)["adapters.2.recall.weight"].shape == (4 * 4, 13)
    with pytest.raises(ArtifactError, match=r"misshapen: adapters\.2\.recall\.weight: expected \(20, 16\)"):
        load_exits(tmp_path / "bundle", profile, tiny_backbone(chunk_length=5))
