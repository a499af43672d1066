from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dyslctl.artifacts.document import Document
from dyslctl.artifacts.files import atomic_write
from dyslctl.artifacts.skip_profile import Guidance, SkipProfile
from dyslctl.artifacts.strict_yaml import dump_yaml, read_yaml
from dyslctl.backbone import BackboneSpec
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.errors import ArtifactError

RAW: dict[str, Any] = {
    "schema": "dyslctl.skip-profile/1",
    "backbone": {
        "plugin": "tiny",
        "checkpoint": "tiny-1",
        "revision": None,
        "fingerprint": "f00d",
        "num_layers": 4,
        "last_live_layer": 3,
    },
    "suite": "tiny_reach",
    "samples": 32,
    "static_layers": [0, 3],
    "ratio": 0.5,
    "criterion": "similarity",
    "similarity": {
        "cosine": [0.5, 0.9, 0.8, 0.6],
        "standard_error": [0.01, 0.02, 0.01, 0.03],
        "by_token_class": {"text": [0.4, 0.9, 0.8, 0.6]},
    },
    "guidance": {"k": 5, "eta_1": -0.02, "eta_2": 0.01, "tau": 0.5, "tau_by_layer": {2: 0.25}},
    "modules": {"adapter_width": 8, "controller_width": 4, "pool": "mean"},
    "made_with": {"dyslctl": "0.1.0", "torch": "2.6.0", "numpy": "2.0.0", "seed": 0, "command": "dyslctl profile tiny"},
}


def with_change(path: str, value: Any) -> dict[str, Any]:
    """``RAW`` with another value at a dotted path."""
    head, _, rest = path.partition(".")
    if not rest:
        return {**RAW, head: value}
    return {**RAW, head: {**RAW[head], rest: value}}


def load(tmp_path: Path, raw: dict[str, Any]) -> SkipProfile:
    atomic_write(tmp_path / "skip_profile.yaml", dump_yaml(raw))
    return SkipProfile.load(tmp_path / "skip_profile.yaml")


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    profile = load(tmp_path, RAW)
    profile.save(tmp_path / "again.yaml")
    assert SkipProfile.load(tmp_path / "again.yaml") == profile
    assert profile.dynamic_layers == (1, 2)
    assert profile.guidance.tau_by_layer == {2: 0.25}


def test_the_file_says_first_what_it_is_and_what_made_it(tmp_path: Path) -> None:
    load(tmp_path, RAW).save(tmp_path / "p.yaml")
    lines = (tmp_path / "p.yaml").read_text().splitlines()
    assert lines[0] == "# Skip profile of tiny (tiny-1): 2 of 4 layers are static."
    assert lines[1] == "# Made by: dyslctl profile tiny"
    assert "schema: dyslctl.skip-profile/1" in lines
    assert "static_layers: [0, 3]" in lines
    assert next(iter(read_yaml(tmp_path / "p.yaml"))) == "schema"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("guidance.eta1", -0.1, r"guidance\.eta1: unknown key\. Did you mean 'eta_1'\?"),
        ("sample", 3, r"sample: unknown key\. Did you mean 'samples'\?"),
        ("backbone.num_layers", "4", r"backbone\.num_layers: Input should be a valid integer \(found '4'\)"),
        ("samples", 0, r"samples: Input should be greater than 0 \(found 0\)"),
        ("ratio", 1.5, r"ratio: Input should be less than or equal to 1"),
        ("guidance.eta_1", 0.1, r"guidance\.eta_1: Input should be less than 0"),
        ("guidance.eta_2", float("nan"), r"guidance\.eta_2: Input should be a finite number"),
        ("guidance.chunk_policy", "chunk_max", r"guidance\.chunk_policy: Input should be 'chunk_min'"),
        ("static_layers", [3, 0], r"static_layers must be ascending without repeats, found \[3, 0\]"),
        ("static_layers", [0, 0], r"ascending without repeats"),
        ("static_layers", [0, 4], r"must be below num_layers = 4"),
        ("static_layers", [], r"static_layers: Tuple should have at least 1 item"),
        ("backbone.last_live_layer", 4, r"must be below num_layers = 4"),
        ("similarity.cosine", [0.5], r"similarity\.cosine: expected 4 values, found 1"),
        ("similarity.by_token_class", {"text": [1.0]}, r"by_token_class\.text: expected 4 values, found 1"),
    ],
)
def test_each_wrong_key_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        load(tmp_path, with_change(path, value))
    assert caught.value.exit_code == 4
    assert str(tmp_path) in caught.value.message


def test_all_wrong_keys_are_listed_at_once(tmp_path: Path) -> None:
    raw = {**RAW, "samples": "many", "suit": "x"}
    del raw["suite"]
    with pytest.raises(ArtifactError) as caught:
        load(tmp_path, raw)
    for part in ("samples: Input should be", "suit: unknown key. Did you mean 'suite'?", "suite: missing"):
        assert part in caught.value.message


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="made by a newer dyslctl") as caught:
        load(tmp_path, with_change("schema", "dyslctl.skip-profile/2"))
    assert caught.value.hint == "pip install --upgrade dyslctl"


@pytest.mark.parametrize("schema", ["dyslctl.bundle/1", "nonsense", None, 3])
def test_another_schema_is_refused(tmp_path: Path, schema: Any) -> None:
    with pytest.raises(ArtifactError, match=r"expected schema dyslctl\.skip-profile/1, found"):
        load(tmp_path, with_change("schema", schema))


def test_an_older_schema_is_migrated_step_by_step() -> None:
    class Box(Document):
        SCHEMA = "box/3"
        MIGRATIONS = {  # noqa: RUF012
            1: lambda old: {"width": old["size"]},
            2: lambda old: {"width_mm": old["width"] * 1000},
        }
        width_mm: int

    assert Box.parse({"schema": "box/1", "size": 2}, "x").width_mm == 2000
    assert Box.parse({"schema": "box/2", "width": 3}, "x").width_mm == 3000
    with pytest.raises(ArtifactError, match="box/0 is no longer read"):
        Box.parse({"schema": "box/0"}, "x")


def test_the_hash_covers_what_modules_depend_on_and_nothing_else(tmp_path: Path) -> None:
    profile = load(tmp_path, RAW)
    same = [with_change("guidance.tau", 0.7), with_change("samples", 64), with_change("backbone.checkpoint", "copy")]
    other = [
        with_change("static_layers", [0, 2]),
        with_change("backbone.fingerprint", "beef"),
        with_change("modules.adapter_width", 9),
        with_change("modules.pool", "max"),
    ]
    assert {load(tmp_path, raw).hash for raw in same} == {profile.hash}
    assert len({load(tmp_path, raw).hash for raw in other} | {profile.hash}) == 5


def test_a_profile_of_other_weights_names_both_sides(tmp_path: Path) -> None:
    profile = load(tmp_path, RAW)
    spec = BackboneSpec(4, 8, 2, 3, 3, None, "f00d")
    profile.check_backbone(spec)
    with pytest.raises(ArtifactError, match=r"profile f00d \(tiny-1\), loaded backbone cafe"):
        profile.check_backbone(BackboneSpec(4, 8, 2, 3, 3, None, "cafe"))


def test_guidance_becomes_run_time_settings_and_back() -> None:
    settings = GuidanceSettings(eta_1=-0.5, eta_2=0.25, k=3, tau_by_layer={1: 0.75}, stride=2, scale=(1.0, 2.0))
    assert Guidance.of(settings).settings() == settings
    with pytest.raises(ArtifactError, match="not calibrated"):
        Guidance().settings()


def test_a_missing_profile_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file") as caught:
        SkipProfile.load(tmp_path / "skip_profile.yaml")
    assert caught.value.hint == "dyslctl profile makes it"
