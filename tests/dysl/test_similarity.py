from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from dyslctl.dysl.similarity import SimilarityAccumulator, SimilarityResult
from dyslctl.dysl.states import residual_states
from dyslctl.errors import ConfigError
from dyslctl.types import LayerInputs, Observation, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone


def measure(backbone: TinyBackbone, observations: list[Observation], batch: int, episodes: int = 4) -> SimilarityResult:
    accumulator = SimilarityAccumulator()
    for start in range(0, len(observations), batch):
        rows = range(start, min(start + batch, len(observations)))
        accumulator.add(backbone, backbone.encode([observations[r] for r in rows]), [r % episodes for r in rows])
    return accumulator.result(resamples=200)


def test_states_are_the_residual_stream(backbone: TinyBackbone, observations: list[Observation]) -> None:
    inputs = backbone.encode(observations[:3])
    states, final = residual_states(backbone, inputs)
    assert len(states) == 9
    assert torch.equal(states[0], inputs.hidden) and torch.equal(states[-1], final.hidden)


def test_similarity_is_the_mean_over_tokens_then_samples(
    backbone: TinyBackbone, observations: list[Observation]
) -> None:
    """Samples of different lengths weigh alike, and padding is left out."""
    result = measure(backbone, observations[:2], batch=1)
    expected = []
    for observation in observations[:2]:
        inputs = backbone.encode([observation])
        valid = torch.ones_like(inputs.kinds[0], dtype=torch.bool) if inputs.mask is None else inputs.mask[0]
        states, _ = residual_states(backbone, inputs)
        stream = torch.stack(states)[:, 0, valid]
        expected.append(cosine_similarity(stream[:-1], stream[1:], dim=-1).mean(1).numpy())
    assert result.similarity == pytest.approx(np.mean(expected, axis=0), abs=1e-6)
    assert result.importance == pytest.approx(1 - result.similarity)


def test_batching_changes_nothing(backbone: TinyBackbone, observations: list[Observation]) -> None:
    one, many = measure(backbone, observations, 1), measure(backbone, observations, 7)
    assert (one.samples, one.episodes) == (many.samples, many.episodes) == (40, 4)
    for name in ("cosines", "standard_error", "centred", "relative_update"):
        assert getattr(one, name) == pytest.approx(getattr(many, name), abs=1e-5), name


def test_heat_map_compares_outputs_with_outputs(backbone: TinyBackbone, observations: list[Observation]) -> None:
    result = measure(backbone, observations[:8], 8)
    assert result.heat_map.shape == (8, 8)
    assert np.diagonal(result.heat_map) == pytest.approx(1.0)
    assert result.heat_map == pytest.approx(result.heat_map.T)
    assert np.diagonal(result.heat_map, offset=1) == pytest.approx(result.similarity[1:])


def test_token_classes_make_up_the_whole(backbone: TinyBackbone, observations: list[Observation]) -> None:
    result = measure(backbone, observations[:1], 1)
    assert set(result.by_class) == {"all", "vision", "text", "action"}
    assert result.by_class["all"] == pytest.approx(result.similarity)
    kinds = backbone.encode(observations[:1]).kinds[0]
    counts = {"vision": int((kinds >= TokenKind.VISION).sum()), "text": 4, "action": 4}
    others = len(kinds) - sum(counts.values())
    known = sum(result.by_class[name] * count for name, count in counts.items())
    rest = (result.similarity * len(kinds) - known) / others
    assert ((rest > -1.001) & (rest < 1.001)).all()


def test_known_geometry(backbone: TinyBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that turns every token by 90 degrees, one that doubles it, and one that does nothing."""
    x, y = torch.eye(16)[0], torch.eye(16)[1]
    turned = [torch.stack([s * x, s * x + 0.0]) for s in (1.0,)] + [torch.stack([y, y]), torch.stack([2 * y, 2 * y])]
    states = [t[None] for t in (*turned, turned[-1])]
    monkeypatch.setattr("dyslctl.dysl.similarity.residual_states", lambda *_: (states, None))
    kinds = torch.full((1, 2), TokenKind.TEXT)
    accumulator = SimilarityAccumulator()
    accumulator.add(backbone, LayerInputs(states[0], torch.zeros_like(kinds), kinds), [0])
    result = accumulator.result()
    assert result.similarity == pytest.approx([0, 1, 1])
    assert result.relative_update == pytest.approx([np.sqrt(2), 1, 0])
    assert set(result.by_class) == {"all", "text"}


def test_tokens_that_enter_as_zeros_count_where_they_have_a_direction(
    backbone: TinyBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word that layer 0 turns by 60 degrees, and the placeholder of an action, which is something from layer 1 on."""
    x, y, nothing = torch.eye(16)[0], torch.eye(16)[1], torch.zeros(16)
    word = [x, x / 2 + y * np.sqrt(3) / 2, x / 2 + y * np.sqrt(3) / 2]
    states = [torch.stack([seen, asked])[None] for seen, asked in zip(word, [nothing, y, x], strict=True)]
    monkeypatch.setattr("dyslctl.dysl.similarity.residual_states", lambda *_: (states, None))
    kinds = torch.tensor([[int(TokenKind.TEXT), int(TokenKind.ACTION)]])
    accumulator = SimilarityAccumulator()
    accumulator.add(backbone, LayerInputs(states[0], torch.zeros_like(kinds), kinds), [0])
    result = accumulator.result()
    assert result.similarity == pytest.approx([0.5, (1 + 0) / 2])
    assert result.by_class["action"] == pytest.approx([0, 0])
    assert result.relative_update == pytest.approx([1, (0 + np.sqrt(2)) / 2])


def test_the_standard_error_is_zero_if_all_episodes_agree_and_positive_otherwise(
    backbone: TinyBackbone, observations: list[Observation]
) -> None:
    same = measure(backbone, observations[:1] * 8, 8)
    assert same.standard_error == pytest.approx(0, abs=1e-7)
    assert (measure(backbone, observations, 8).standard_error > 0).all()


def test_the_bootstrap_approximates_the_textbook_error(backbone: TinyBackbone, observations: list[Observation]) -> None:
    """One sample an episode: standard deviation over the root of n."""
    single = [measure(backbone, [o], 1).similarity for o in observations]
    expected = np.std(single, axis=0) / np.sqrt(len(observations))
    measured = measure(backbone, observations, 8, episodes=40).standard_error
    assert measured == pytest.approx(expected, rel=0.25)


def test_damaged_weights_and_empty_data_are_errors(backbone: TinyBackbone, observations: list[Observation]) -> None:
    with pytest.raises(ConfigError, match="no observation"):
        SimilarityAccumulator().result()
    with torch.no_grad():
        backbone.out.weight.fill_(0)
        backbone.patches.weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match="not finite") as caught:
        measure(backbone, observations[:1], 1)
    assert caught.value.hint is not None and "--set model.dtype=float32" in caught.value.hint
