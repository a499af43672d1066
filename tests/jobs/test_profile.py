import json

import numpy as np
import pytest

from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.dysl.sensitivity import skip_sensitivity
from dyslctl.errors import ConfigError
from dyslctl.jobs.data import collect, sample_states
from dyslctl.jobs.profile import measure, module_sizes, profile


def run(tiny_backbone, tiny_suite, **how):
    return profile(
        tiny_backbone(), tiny_suite(), plugin_name="tiny", checkpoint="here", samples=24, batch_size=16, **how
    )


def test_the_profile_states_its_evidence(tiny_backbone, tiny_suite, tmp_path) -> None:
    result = run(tiny_backbone, tiny_suite, ratio=0.4, seed=3, command="dyslctl profile tiny")
    made = result.profile
    assert made.backbone.fingerprint == tiny_backbone().spec.fingerprint
    assert (made.suite, made.samples, made.ratio, made.criterion) == ("tiny_reach", 24, 0.4, "similarity")
    assert made.made_with.seed == 3
    assert made.similarity.cosine == tuple(result.similarity.similarity)
    made.save(tmp_path / "profile.yaml")
    assert SkipProfile.load(tmp_path / "profile.yaml") == made


def test_the_layers_that_the_action_needs_most_are_static(tiny_backbone, tiny_suite) -> None:
    made = run(tiny_backbone, tiny_suite, n_static=4, criterion="sensitivity").profile
    data = sample_states(tiny_backbone(), tiny_suite(), samples=24, per_episode=8, source="expert", seed=0)
    moved = skip_sensitivity(tiny_backbone(), [batch.inputs for batch in data.batches(16)])
    assert made.criterion == "sensitivity"
    assert set(made.static_layers) == {0, 7, *sorted(range(1, 7), key=lambda layer: -moved[layer])[:2]}


def test_the_least_similar_layers_are_static(tiny_backbone, tiny_suite) -> None:
    result = run(tiny_backbone, tiny_suite, n_static=4)
    static = result.profile.static_layers
    assert {0, 7} <= set(static)
    cosine = np.array(result.profile.similarity.cosine)
    chosen = [layer for layer in static if layer not in (0, 7)]
    passed_over = [layer for layer in range(1, 7) if layer not in static]
    spread = max(result.profile.similarity.standard_error)
    assert max(cosine[chosen]) <= min(cosine[passed_over]) + spread
    assert result.profile.ratio == 0.5


def test_batch_size_does_not_change_the_result(tiny_backbone, tiny_suite) -> None:
    data = collect(tiny_backbone(), tiny_suite(), episodes=4)
    by_one, by_many = (measure(tiny_backbone(), data, batch_size=size) for size in (1, 64))
    np.testing.assert_allclose(by_one.cosines, by_many.cosines, atol=1e-6)


def test_the_similarity_document_is_json_of_the_right_shape(tiny_backbone, tiny_suite, tmp_path) -> None:
    run(tiny_backbone, tiny_suite).save_similarity(tmp_path / "similarity.json")
    found = json.loads((tmp_path / "similarity.json").read_text())
    assert found["schema"] == "dyslctl.similarity/1"
    assert np.array(found["heat_map"]).shape == (8, 8)
    assert {len(found[key]) for key in ("similarity", "standard_error", "centred", "relative_update")} == {8}
    np.testing.assert_allclose(np.diag(found["heat_map"]), 1, atol=1e-6)


def test_an_impossible_ratio_fails_before_any_work(tiny_backbone, tiny_suite) -> None:
    with pytest.raises(ConfigError, match="static layers"):
        run(tiny_backbone, tiny_suite, ratio=0.01)


def test_published_hidden_sizes_get_the_published_modules(tiny_backbone) -> None:
    from dataclasses import replace

    spec = replace(tiny_backbone().spec, hidden_size=4096)
    assert (module_sizes(spec).adapter_width, module_sizes(spec).controller_width) == (1024, 72)
    assert module_sizes(tiny_backbone().spec).adapter_width == 4


def test_a_model_whose_layers_would_all_be_static_is_refused(tiny_suite, tiny_backbone) -> None:
    """By default four layers are static: in a model of four, all of them."""
    how = {"plugin_name": "tiny", "checkpoint": "here", "samples": 8}
    with pytest.raises(ConfigError, match="all 4 layers would be static") as raised:
        profile(tiny_backbone(num_layers=4), tiny_suite(), **how)
    assert raised.value.hint is not None and "profile.static_layers=N with N from 2 to 3" in raised.value.hint
    assert len(profile(tiny_backbone(num_layers=4), tiny_suite(), n_static=2, **how).profile.static_layers) == 2


def test_too_few_static_layers_name_the_setting(tiny_backbone, tiny_suite) -> None:
    with pytest.raises(ConfigError, match="1 static layers of 8") as raised:
        run(tiny_backbone, tiny_suite, n_static=1)
    assert raised.value.hint is not None and "profile.static_layers" in raised.value.hint
