from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dyslctl.artifacts.bundle import (
    WEIGHTS,
    Bundle,
    BundleHeader,
    ExitModuleSizes,
    TrainingInfo,
    check_belongs,
    check_tensors,
    load_bundle,
    save_bundle,
    save_settings,
    weights_digest,
)
from dyslctl.artifacts.bundle_settings import Calibration, Exits
from dyslctl.artifacts.files import sha256
from dyslctl.artifacts.fingerprint import made_with
from dyslctl.artifacts.model_card import CardMetric, model_card
from dyslctl.artifacts.self_test import SelfTest
from dyslctl.artifacts.skip_profile import BackboneRef, Guidance, ModuleSizes, Similarity, SkipProfile
from dyslctl.errors import ArtifactError, EnvironmentMismatch

PROFILE = SkipProfile(
    backbone=BackboneRef(plugin="tiny", checkpoint="tiny-1", fingerprint="f00d", num_layers=3, last_live_layer=2),
    suite="tiny_reach",
    samples=8,
    static_layers=(0, 2),
    ratio=0.5,
    criterion="similarity",
    similarity=Similarity(cosine=(0.5, 0.9, 0.6), standard_error=(0.1, 0.1, 0.1)),
    modules=ModuleSizes(adapter_width=2, controller_width=2, pool="mean"),
    made_with=made_with("dyslctl profile tiny", 0),
)


class Modules(nn.Module):
    """Stands for the skip modules: one adapter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.adapter = nn.Linear(4, 4)

    def probe(self, hidden: Tensor) -> Mapping[str, Tensor]:
        return {"adapter": self.adapter(hidden)}


def answer(answers: Mapping[str, Tensor], hidden: Tensor) -> Mapping[str, Tensor]:
    return answers


def make(modules: Modules | None = None, profile: SkipProfile = PROFILE) -> Bundle:
    modules = modules or Modules()
    training = TrainingInfo(stage=2, steps=10, seed=0, method="dysl-paper", samples=64)
    header = BundleHeader.of(profile, training, made_with("dyslctl distill --stage 2", 0))
    return Bundle(header, modules.state_dict(), SelfTest.record(modules.probe, 4), Guidance())


def save(folder: Path, bundle: Bundle | None = None) -> Path:
    bundle = bundle or make()
    return save_bundle(folder, bundle, model_card(bundle, "tiny_reach"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rewrite(weights: Path, **changes: Tensor) -> None:
    """Change tensors on disk, and the digest with them, as a careless tool would."""
    header = {"header": _metadata(weights)}
    save_file({**load_file(weights), **changes}, weights, metadata=header)
    settings = weights.with_name("bundle.yaml")
    lines = settings.read_text().splitlines(keepends=True)
    settings.write_text(
        "".join(f"weights_sha256: {sha256(weights)}\n" if "weights_sha256" in line else line for line in lines)
    )


def _metadata(weights: Path) -> str:
    with safe_open(weights, "pt") as file:
        return str(file.metadata()["header"])


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    saved, modules = make(), Modules()
    assert save(tmp_path / "bundle", saved) == tmp_path / "bundle" / "bundle.safetensors"
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.header == saved.header and loaded.settings == saved.settings
    assert loaded.tensors.keys() == modules.state_dict().keys()
    for name, tensor in modules.state_dict().items():
        assert torch.equal(loaded.tensors[name], tensor)
    check_belongs(loaded.header, PROFILE, "x")
    check_tensors(loaded.tensors, modules.state_dict(), "x")
    loaded.self_test.replay(modules.probe, "x")


def test_saving_again_replaces_all_three_files(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    (tmp_path / "bundle" / "stray").write_text("")
    save(tmp_path / "bundle")
    assert names(tmp_path / "bundle") == ["README.md", "bundle.safetensors", "bundle.yaml"]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    weights = save(tmp_path / "bundle")
    os.truncate(weights, int(weights.stat().st_size * share))
    with pytest.raises(ArtifactError, match="truncated or damaged") as caught:
        load_bundle(tmp_path / "bundle")
    assert caught.value.exit_code == 4


def test_a_changed_bit_in_the_weights(tmp_path: Path) -> None:
    weights = save(tmp_path / "bundle")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match="belongs to other weights"):
        load_bundle(tmp_path / "bundle")


def test_the_self_test_notices_weights_that_were_not_saved_with_it(tmp_path: Path) -> None:
    weights = save(tmp_path / "bundle")
    rewrite(weights, **{"adapter.bias": Modules().adapter.bias.detach() + 1e-3})
    bundle, modules = load_bundle(tmp_path / "bundle"), Modules()
    modules.load_state_dict(dict(bundle.tensors))
    with pytest.raises(ArtifactError, match=r"self-test failed.*adapter"):
        bundle.self_test.replay(modules.probe, "x")


def test_the_self_test_forgives_another_order_of_summation(tmp_path: Path) -> None:
    self_test = SelfTest.record(lambda hidden: {"a": hidden}, hidden_size=4)
    self_test.replay(lambda hidden: {"a": hidden * (1 + 5e-6)}, "x")
    hidden = self_test.hidden
    wrong: list[dict[str, Tensor]] = [{"a": hidden * 1.0001}, {"a": hidden[:, :1]}, {}, {"b": hidden}]
    for answers in wrong:
        with pytest.raises(ArtifactError, match="self-test failed"):
            self_test.replay(partial(answer, answers), "x")


def test_not_finite_tensors_are_listed(tmp_path: Path) -> None:
    weights = save(tmp_path / "bundle")
    rewrite(
        weights, **{"adapter.bias": torch.full((4,), float("nan")), "adapter.weight": torch.full((4, 4), torch.inf)}
    )
    with pytest.raises(ArtifactError, match=r"2 wrong tensors\n.*adapter.bias\n.*adapter.weight"):
        load_bundle(tmp_path / "bundle")


def test_missing_unexpected_and_misshapen_tensors_are_listed_at_once() -> None:
    found = {"a": torch.zeros(2), "extra": torch.zeros(1)}
    expected = {"a": torch.zeros(3), "b": torch.zeros(4, 5)}
    with pytest.raises(ArtifactError) as caught:
        check_tensors(found, expected, "bundle.safetensors")
    assert caught.value.message == (
        "bundle.safetensors: 3 wrong tensors\n"
        "  missing: b (4, 5)\n"
        "  unexpected: extra\n"
        "  misshapen: a: expected (3,), found (2,)"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"backbone": PROFILE.backbone.model_copy(update={"fingerprint": "beef"})},
            r"other backbone weights: bundle f00d \(tiny-1\), profile beef \(tiny-1\)",
        ),
        ({"static_layers": (1, 2)}, r"another skip profile.*static layers \[0, 2\].*static layers \[1, 2\]"),
        (
            {"modules": PROFILE.modules.model_copy(update={"adapter_width": 3})},
            "another skip profile.*adapter_width=2.*adapter_width=3",
        ),
    ],
)
def test_a_bundle_of_another_profile_names_both_sides_and_the_fix(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        check_belongs(make().header, PROFILE.model_copy(update=change), "bundle")
    assert caught.value.hint is not None and "dyslctl distill" in caught.value.hint


def test_a_newer_bundle_is_refused(tmp_path: Path) -> None:
    weights = save(tmp_path / "bundle")
    newer = _metadata(weights).replace("dyslctl.bundle/3", "dyslctl.bundle/4")
    save_file(load_file(weights), weights, metadata={"header": newer})
    with pytest.raises(ArtifactError, match="made by a newer dyslctl"):
        load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("metadata", [None, {"header": "{"}, {"header": "3"}])
def test_any_other_safetensors_file_is_no_bundle(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    weights = save(tmp_path / "bundle")
    save_file(load_file(weights), weights, metadata=metadata)
    with pytest.raises(ArtifactError, match=r"no dyslctl header|expected schema dyslctl\.bundle/3"):
        load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["bundle.safetensors", "bundle.yaml"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    save(tmp_path / "bundle")
    (tmp_path / "bundle" / name).unlink()
    with pytest.raises(ArtifactError, match=f"no such file: .*{name}"):
        load_bundle(tmp_path / "bundle")


def test_calibration_changes_the_settings_alone(tmp_path: Path) -> None:
    weights = save(tmp_path / "bundle")
    before = weights.read_bytes()
    guidance = Guidance(eta_1=-0.02, eta_2=0.01)
    calibration = Calibration(rule="quantile", suite="tiny", split="tune", episodes=5, numbers={"p1": 0.05})
    save_settings(tmp_path / "bundle", guidance, calibration)
    loaded = load_bundle(tmp_path / "bundle")
    assert (loaded.settings, loaded.calibration) == (guidance, calibration)
    assert weights.read_bytes() == before


def test_an_unknown_key_in_the_settings_is_named(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    settings = tmp_path / "bundle" / "bundle.yaml"
    settings.write_text(settings.read_text().replace("  tau: ", "  taus: "))
    with pytest.raises(ArtifactError, match=r"guidance\.taus: unknown key\. Did you mean 'tau'\?"):
        load_bundle(tmp_path / "bundle")


def test_a_file_where_the_folder_belongs(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(EnvironmentMismatch, match="cannot write"):
        save(tmp_path / "run" / "bundle")


def test_the_model_card_states_base_model_thresholds_and_results() -> None:
    bundle = make()
    card = model_card(bundle, "tiny_reach")
    assert "base_model: tiny-1" in card and "not calibrated yet" in card and "Not evaluated yet" in card
    metrics = {"dysl": CardMetric(0.9, 0.87, 0.925, 500, 7.25)}
    bundle = Bundle(bundle.header, bundle.tensors, bundle.self_test, Guidance(eta_1=-0.02, eta_2=0.01))
    card = model_card(bundle, "tiny_reach", metrics)
    assert "| dysl | 90.0% [87.0%, 92.5%] | 500 | 7.25 |" in card
    assert "eta_1 = -0.02, eta_2 = 0.01, tau = 0.5, lenience = 0, k = 5" in card


def exits(tolerance: float | None = None, method: str = "dysl", *, remembers: bool = True) -> Bundle:
    bundle = make()
    training = bundle.header.training.model_copy(update={"method": method})
    sizes = ExitModuleSizes(exits=(1, 2), adapter_width=4, planner_width=8, remembers=remembers, execute_horizon=5)
    header = BundleHeader.of(PROFILE, training, made_with("dyslctl distill", 0), sizes)
    return Bundle(header, bundle.tensors, bundle.self_test, Exits(tolerance=tolerance))


def test_exits_have_a_section_of_their_own(tmp_path: Path) -> None:
    saved = exits()
    save(tmp_path / "bundle", saved)
    loaded = load_bundle(tmp_path / "bundle")
    assert (loaded.header, loaded.settings) == (saved.header, saved.settings)
    text = (tmp_path / "bundle" / "bundle.yaml").read_text()
    assert "exits:" in text and "guidance" not in text
    assert isinstance(loaded.settings, Exits)
    with pytest.raises(ArtifactError, match="tolerance is null"):
        loaded.settings.settings()
    save_settings(tmp_path / "bundle", Exits(tolerance=-1.5), None)
    assert load_bundle(tmp_path / "bundle").settings == Exits(tolerance=-1.5)


@pytest.mark.parametrize("remembers", [True, False])
def test_the_header_says_what_exits_remember_and_for_how_many_executed_actions(tmp_path: Path, remembers: bool) -> None:
    save(tmp_path / "bundle", exits(remembers=remembers))
    sizes = load_bundle(tmp_path / "bundle").header.modules
    assert isinstance(sizes, ExitModuleSizes) and (sizes.remembers, sizes.execute_horizon) == (remembers, 5)


@pytest.mark.parametrize("unsaid", [', "remembers": true', ', "execute_horizon": 5'])
def test_a_header_that_does_not_say_so_is_refused(tmp_path: Path, unsaid: str) -> None:
    weights = save(tmp_path / "bundle", exits())
    header = _metadata(weights)
    assert unsaid in header
    save_file(load_file(weights), weights, metadata={"header": header.replace(unsaid, "")})
    with pytest.raises(ArtifactError, match=unsaid.split('"')[1]):
        load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("method", ["dysl", "static"])
def test_settings_of_another_method_are_refused(tmp_path: Path, method: str) -> None:
    save(tmp_path / "bundle", exits(method=method))
    save_settings(tmp_path / "bundle", Guidance(), None)
    with pytest.raises(ArtifactError, match=f"settings of another method than {method}") as caught:
        load_bundle(tmp_path / "bundle")
    assert caught.value.hint is not None and f"--method {method} " in caught.value.hint


@pytest.mark.parametrize("sections", ["", "exits: {}\nguidance: {}\n"])
def test_settings_have_exactly_one_section(tmp_path: Path, sections: str) -> None:
    settings = save(tmp_path / "bundle", exits()).with_name("bundle.yaml")
    kept = [line for line in settings.read_text().splitlines(keepends=True) if line.startswith(("schema", "weights"))]
    settings.write_text("".join(kept) + sections)
    with pytest.raises(ArtifactError, match="one of the sections exits, guidance, routing, consistency and mixture"):
        load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("version", [1, 2])
def test_a_bundle_of_an_older_version_is_refused_with_what_to_do(tmp_path: Path, version: int) -> None:
    """Version 2 of exits does not say for how many executed actions they were trained."""
    weights = save(tmp_path / "bundle")
    older = _metadata(weights).replace("dyslctl.bundle/3", f"dyslctl.bundle/{version}")
    save_file(load_file(weights), weights, metadata={"header": older})
    with pytest.raises(ArtifactError, match=rf"dyslctl\.bundle/{version} is no longer read") as caught:
        load_bundle(tmp_path / "bundle")
    assert caught.value.hint == "make the file again"


def test_the_digest_of_the_weights_does_not_depend_on_who_wrote_them(tmp_path: Path) -> None:
    one, other = make(), make()
    header = other.header.model_copy(update={"made_with": made_with("dyslctl distill --resume", 0)})
    save(tmp_path / "one", one)
    save(tmp_path / "two", Bundle(header, one.tensors, one.self_test, one.settings))
    assert sha256(tmp_path / "one" / WEIGHTS) != sha256(tmp_path / "two" / WEIGHTS)
    assert weights_digest(tmp_path / "one") == weights_digest(tmp_path / "two")
    changed = {name: tensor + 1 for name, tensor in one.tensors.items()}
    save(tmp_path / "three", Bundle(header, changed, one.self_test, one.settings))
    assert weights_digest(tmp_path / "three") != weights_digest(tmp_path / "one")


def test_the_model_card_of_exits() -> None:
    card = model_card(exits(), "tiny_reach")
    assert "Planned exits" in card and "exits before layers 1, 2; adapter / planner width 4 / 8" in card
    assert "; 5 actions executed an inference |" in card
    assert "not calibrated yet" in card
    assert "log tolerance -1.5 |" in model_card(exits(-1.5), "tiny_reach")
