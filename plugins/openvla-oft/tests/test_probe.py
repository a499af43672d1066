"""Each wrong build of a library that is known to pass silently is imitated, and must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.config import ActionConfig, OFTConfig
from dyslctl_openvla_oft.modeling import LayerContext, OFTModel
from dyslctl_openvla_oft.probe import probe_model, probe_normalization
from dyslctl_openvla_oft.processing import PreprocessorConfig
from dyslctl_openvla_oft.random_checkpoint import random_statistics
from dyslctl_openvla_oft.statistics import DatasetStatistics
from torch import Tensor

from dyslctl.errors import ArtifactError, EnvironmentMismatch

LIBERO = ActionConfig()


@pytest.fixture
def fresh(config: OFTConfig, model: OFTModel) -> OFTModel:
    """A copy to break."""
    copy = OFTModel(config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_right_build_passes(config: OFTConfig, model: OFTModel, dtype: torch.dtype, implementation: Any) -> None:
    copy = OFTModel(config, implementation)
    copy.load_state_dict(model.state_dict())
    probe_model(copy.to(dtype))


def causal_layer(self: OFTModel, index: int, hidden: Tensor, context: LayerContext) -> Tensor:
    """Does not ask for ``is_causal=False``, or asks a build that does not listen."""
    output: Tensor = self.layers(index)(
        hidden, attention_mask=context.attention_mask, position_embeddings=context.rotary
    )
    return output


def test_causal_attention(fresh: OFTModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OFTModel, "run_layer", causal_layer)
    with pytest.raises(EnvironmentMismatch, match=r"without padding is not bidirectional: tokens .* later token 4"):
        probe_model(fresh)


def test_loading_asks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OFTModel, "run_layer", causal_layer)
    with pytest.raises(EnvironmentMismatch, match=r"transformers \d+\.\d+.* does not run these layers") as error:
        OpenVLAOFT.load(folder)
    assert error.value.exit_code == 3


def test_a_causal_mask_for_padded_batches(fresh: OFTModel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = OFTModel.context

    def causal(self: OFTModel, hidden: Tensor, positions: Tensor, mask: Tensor | None) -> LayerContext:
        context = right(self, hidden, positions, mask)
        if context.attention_mask is None:
            return context
        later = torch.full(context.attention_mask.shape, torch.finfo(hidden.dtype).min).triu(1)
        return LayerContext(context.rotary, torch.minimum(context.attention_mask, later))

    monkeypatch.setattr(OFTModel, "context", causal)
    with pytest.raises(EnvironmentMismatch, match="with padding is not bidirectional") as error:
        probe_model(fresh)
    assert "without padding" not in str(error.value)


def test_padding_that_is_read(fresh: OFTModel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = OFTModel.context
    monkeypatch.setattr(OFTModel, "context", lambda self, hidden, positions, _: right(self, hidden, positions, None))
    with pytest.raises(EnvironmentMismatch, match="attention reads padding"):
        probe_model(fresh)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_rounded_rotary_frequencies(fresh: OFTModel, stored: torch.dtype) -> None:
    """As ``model.to(bfloat16)`` leaves them, and after a cast back to float32 that hides the dtype."""
    rotary = fresh.language_model.rotary_emb
    rotary.inv_freq = rotary.inv_freq.bfloat16().to(stored)
    with pytest.raises(EnvironmentMismatch, match=r"rotary cos: off by 0\.\d+ up to position 604") as error:
        probe_model(fresh)
    assert ("expected float32" in str(error.value)) == (stored == torch.bfloat16)


def test_other_rotary_base(fresh: OFTModel) -> None:
    fresh.language_model.rotary_emb.inv_freq *= 0.99
    with pytest.raises(EnvironmentMismatch, match="rotary sin: off by"):
        probe_model(fresh)


@pytest.fixture
def entry() -> DatasetStatistics:
    return random_statistics(LIBERO, 0)


def changed(entry: DatasetStatistics, **rows: Callable[[list[Any]], list[Any]]) -> DatasetStatistics:
    action = entry.action.model_dump()
    action |= {name: change(list(action[name])) for name, change in rows.items()}
    return DatasetStatistics.model_validate({**entry.model_dump(), "action": action})


def test_right_statistics_pass(entry: DatasetStatistics) -> None:
    probe_normalization(entry, PreprocessorConfig(), LIBERO)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q01": lambda row: [9.0, *row[1:]]}, r"action: lower bounds above upper ones at \[0\]"),
        ({"min": lambda row: [*row[:6], -1.0]}, r"gripper: expected values in \[0, 1\] .* found \[-1\.0, 1\.0\]"),
        ({"mask": lambda _: [True] * 7}, r"gripper: .* found \[0\.0, 1\.0\], normalised"),
    ],
)
def test_wrong_statistics(entry: DatasetStatistics, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        probe_normalization(changed(entry, **change), PreprocessorConfig(), LIBERO)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": ((123.7, 116.3, 103.5), (127.5, 127.5, 127.5))}, "black becomes .*, expected within"),
        ({"means": ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))}, r"black becomes -1 and white 4\.47, expected within"),
        ({"stds": ((0.0, 0.2, 0.2), (0.5, 0.5, 0.5))}, "a standard deviation is not positive"),
    ],
)
def test_wrong_pixel_statistics(entry: DatasetStatistics, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        probe_normalization(entry, PreprocessorConfig(**change), LIBERO)
