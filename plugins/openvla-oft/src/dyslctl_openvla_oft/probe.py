"""Ask a loaded model a few questions whose answers are known, so that a wrong build of a library cannot pass silently.

A causal mask where there should be none, or rotary frequencies rounded to bfloat16, fail nothing: the robot just acts
worse (LIBERO: about half of the episodes are lost). One decoder layer and six tokens are enough to tell.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import transformers
from torch import Tensor

from dyslctl.errors import ArtifactError, EnvironmentMismatch
from dyslctl_openvla_oft.autoregressive import OpenVLAModel
from dyslctl_openvla_oft.config import ActionConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.prismatic import LayerContext, PrismaticModel
from dyslctl_openvla_oft.processing import PreprocessorConfig, pixels
from dyslctl_openvla_oft.statistics import DatasetStatistics

_TOKENS = 6
_POSITIONS = (0, 1, 100, 604)
"""604 is the last position of an inference on LIBERO."""


@torch.no_grad()
def probe_model(model: OFTModel) -> None:
    """Attention in both directions, padding, and rotary tables.

    Raises:
        EnvironmentMismatch: With everything that ``transformers`` does otherwise than the model needs.
    """
    if not model.projector.fc1.weight.is_meta:
        _require("OpenVLA-OFT", [*_rotary_problems(model), *_attention_problems(model)])


@torch.no_grad()
def probe_generation(model: OpenVLAModel) -> None:
    """Causal attention, padding, the cache, and rotary tables.

    Raises:
        EnvironmentMismatch: With everything that ``transformers`` does otherwise than the model needs.
    """
    if not model.projector.fc1.weight.is_meta:
        _require("OpenVLA", [*_rotary_problems(model), *_causal_problems(model), *_cache_problems(model)])


def probe_normalization(statistics: DatasetStatistics, preprocessor: PreprocessorConfig, config: ActionConfig) -> None:
    """Ranges: actions and proprioception within their bounds, pixels of a size that vision towers are trained on.

    Raises:
        ArtifactError: With every range that is not as expected.
    """
    if problems := [*_bound_problems(statistics, config), *_pixel_problems(preprocessor)]:
        raise ArtifactError(
            "the checkpoint's statistics are not those of an OpenVLA-OFT model:\n  " + "\n  ".join(problems),
            hint="check dataset_statistics.json, preprocessor_config.json and --set model.options.unnorm_key=KEY",
        )


def _require(name: str, problems: list[str]) -> None:
    if problems:
        raise EnvironmentMismatch(
            f"transformers {transformers.__version__} does not run these layers as {name} needs:\n  "
            + "\n  ".join(problems),
            hint="python -m pip install --force-reinstall 'transformers>=4.57.6,<6'",
        )


def _rotary_problems(model: PrismaticModel) -> Iterator[str]:
    """``cos(p theta^(-2i/D))`` in the model's dtype, against float64."""
    llama = model.language_model
    frequencies = llama.rotary_emb.inv_freq
    if frequencies.dtype != torch.float32:
        yield f"rotary frequencies: expected float32, found {frequencies.dtype}"
    half = torch.arange(frequencies.numel(), dtype=torch.float64)
    angles = torch.tensor(_POSITIONS, dtype=torch.float64)[:, None] * _rope_theta(model) ** (-half / len(half))
    positions = torch.tensor([_POSITIONS], device=frequencies.device)
    hidden = torch.zeros(1, device=frequencies.device, dtype=model.projector.fc1.weight.dtype)
    tolerance = torch.finfo(hidden.dtype).eps + 2e-4  # a float32 angle of 604 rad is itself known to 3e-5
    cos, sin = llama.rotary_emb(hidden, positions)
    for name, table, exact in (("cos", cos, angles.cos()), ("sin", sin, angles.sin())):
        error = float((table[0, :, : len(half)].double().cpu() - exact).abs().max())
        if not error <= tolerance:
            yield f"rotary {name}: off by {error:.2g} up to position {_POSITIONS[-1]}, expected at most {tolerance:.2g}"


def _rope_theta(model: PrismaticModel) -> float:
    """Transformers 5 moved it into a dictionary."""
    config = model.language_model.config.to_dict()
    return float((config.get("rope_parameters") or config)["rope_theta"])


def _attention_problems(model: PrismaticModel) -> Iterator[str]:
    """Change one token that enters layer 0: which outputs move?"""
    for padded in (False, True):
        case = "with padding" if padded else "without padding"
        changed = _reach(model, _TOKENS - 2, padded)[: _TOKENS - 1]
        if not changed.all():
            still = [index for index, moved in enumerate(changed.tolist()) if not moved]
            yield f"attention {case} is not bidirectional: tokens {still} do not see the later token {_TOKENS - 2}"
    if _reach(model, _TOKENS - 1, padded=True)[: _TOKENS - 1].any():
        yield "attention reads padding"


def _causal_problems(model: PrismaticModel) -> Iterator[str]:
    for padded in (False, True):
        case, middle = "with padding" if padded else "without padding", _TOKENS // 2
        moved = _reach(model, middle, padded)
        if moved[:middle].any():
            yield f"attention {case} is not causal: earlier tokens see token {middle}"
        if not moved[middle : _TOKENS - 1].all():
            yield f"attention {case} does not reach every later token"
    if _reach(model, _TOKENS - 1, padded=True)[: _TOKENS - 1].any():
        yield "attention reads padding"


def _cache_problems(model: OpenVLAModel) -> Iterator[str]:
    """The last token by itself, behind the keys and values of the others, against all of them at once."""
    hidden, positions = _tokens(model)
    whole = model.run_layer(0, hidden, model.context(hidden, positions, None))
    before, last = slice(0, _TOKENS - 1), slice(_TOKENS - 1, _TOKENS)
    _, kept = model.attend(0, hidden[:, before], model.context(hidden[:, before], positions[:, before], None), ())
    alone = LayerContext(model.language_model.rotary_emb(hidden[:, last], positions[:, last]), None)
    output, _ = model.attend(0, hidden[:, last], alone, kept)
    error = float((output - whole[:, last]).abs().max() / whole.abs().max())
    if not error <= (tolerance := 8 * torch.finfo(hidden.dtype).eps):
        yield f"a token behind the cache is off by {error:.2g}, expected at most {tolerance:.2g}"


def _reach(model: PrismaticModel, changed: int, padded: bool) -> Tensor:
    """``[T]`` bool: the outputs of layer 0 that depend on token ``changed``; the last token may be padding."""
    hidden, positions = _tokens(model)
    other = hidden.clone()
    other[0, changed] = -other[0, changed]
    context = model.context(hidden, positions, positions < _TOKENS - 1 if padded else None)
    difference: Tensor = model.run_layer(0, other, context) - model.run_layer(0, hidden, context)
    return difference[0].abs().amax(dim=-1) > 0


def _tokens(model: PrismaticModel) -> tuple[Tensor, Tensor]:
    """Six tokens, as small as embeddings are, and their positions."""
    weight = model.projector.fc1.weight
    hidden = 0.02 * torch.randn(1, _TOKENS, model.hidden_size, generator=torch.Generator().manual_seed(0))
    return hidden.to(weight.device, weight.dtype), torch.arange(_TOKENS, device=weight.device)[None]


def _bound_problems(statistics: DatasetStatistics, config: ActionConfig) -> Iterator[str]:
    features = {"action": statistics.action}
    if config.use_proprio and statistics.proprio is not None:
        features["proprio"] = statistics.proprio
    for name, feature in features.items():
        low, high = feature.bounds(config.normalization)
        if reversed_ := np.flatnonzero((low > high) & feature.normalized).tolist():
            yield f"{name}: lower bounds above upper ones at {reversed_}"
            continue
        back = feature.unnormalize(np.stack([-np.ones(len(low)), np.ones(len(low))]), config.normalization)
        if not np.allclose(back[:, feature.normalized], np.stack([low, high])[:, feature.normalized], atol=1e-5):
            yield f"{name}: -1 and 1 do not become the bounds"
    gripper = statistics.action
    if config.gripper == "libero" and (gripper.normalized[-1] or gripper.min[-1] < 0 or gripper.max[-1] > 1):
        yield (
            f"gripper: expected values in [0, 1] that are not normalised, found [{gripper.min[-1]}, {gripper.max[-1]}]"
            f"{', normalised' if gripper.normalized[-1] else ''} (another robot? --set model.options.gripper=none)"
        )


def _pixel_problems(preprocessor: PreprocessorConfig) -> Iterator[str]:
    """Black and white, as the towers see them, are a few standard deviations from zero, on either side."""
    if any(value <= 0 for tower in preprocessor.stds for value in tower):
        yield "pixels: a standard deviation is not positive"
        return
    size = preprocessor.size
    frames = np.stack([np.zeros((size, size, 3), np.uint8), np.full((size, size, 3), 255, np.uint8)])
    black, white = pixels(frames[:, None], preprocessor, center_crop=False)[..., 0, 0].numpy()
    if (black < -4).any() or (black > 0).any() or (white < 0).any() or (white > 4).any():
        yield f"pixels: black becomes {black.min():.3g} and white {white.max():.3g}, expected within [-4, 4]"
