"""Names of tensors in published files, against those of the model (``model.py``).

A RoboFlamingo file holds what its training left in the state dict of a ``DistributedDataParallel``, which is more than
what was trained: the frozen blocks of MPT are there under the one name that escaped the filter, and each
cross-attention is there twice.

======================================================= ==========================================================
published                                               model
======================================================= ==========================================================
``perceiver.*``                                         the same
``lang_encoder.transformer.wte.weight``                 ``wte.weight``
``lang_encoder.gated_cross_attn_layers.{i}.*``          ``layers.{i}.cross_attention.*``
``...transformer.blocks.{i}.gated_cross_attn_layer.*``  the same again
``lang_encoder.old_decoder_blocks.{i}.*``               ``layers.{i}.block.*``; or ``...blocks.{i}.decoder_layer.*``
``lang_encoder.transformer.norm_f.weight``              ``norm_f.weight``; MPT-1B: ``ln_f``
``lm_head.{rnn,actions,gripper}.*``                     ``head.*``
``vision_encoder.visual.*``, ``visual.*``               ``vision.*``, ``open_clip``'s names
``vision_model.*``                                      ``vision.*``, ``transformers``' names
======================================================= ==========================================================

All but the last with ``module.`` before them, or without. OpenFlamingo's ``checkpoint.pt`` has a part of these names, a
language model's own file has ``transformer.*`` of them, its blocks directly below ``blocks.{i}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dyslctl_roboflamingo.config import Settings
from dyslctl_roboflamingo.model import RoboFlamingoModel

Shape = tuple[int, ...]
DISTRIBUTED = "module."
VISION = "vision."

_BLOCK = {"ln_1": "norm_1", "ln_2": "norm_2", "mlp.mlp_up": "ffn.up_proj", "mlp.mlp_down": "ffn.down_proj"}
"""MPT-1B's names -> MPT-7B's, which are also ours."""
_OPEN_CLIP = {
    r"^class_embedding$": "embeddings.class_embedding",
    r"^conv1\.": "embeddings.patch_embedding.",
    r"^positional_embedding$": "embeddings.position_embedding.weight",
    r"^ln_pre\.": "pre_layrnorm.",
    r"^ln_post\.": "post_layernorm.",
    r"^transformer\.resblocks\.(\d+)\.ln_(\d)\.": r"encoder.layers.\1.layer_norm\2.",
    r"^transformer\.resblocks\.(\d+)\.attn\.": r"encoder.layers.\1.self_attn.",
    r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.": r"encoder.layers.\1.mlp.fc1.",
    r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.": r"encoder.layers.\1.mlp.fc2.",
}
_RULES = {
    r"^lm_head\.": "head.",
    r"^transformer\.wte\.": "wte.",
    r"^transformer\.(?:ln_f|norm_f)\.": "norm_f.",
    r"^gated_cross_attn_layers\.(\d+)\.": r"layers.\1.cross_attention.",
    r"^transformer\.blocks\.(\d+)\.gated_cross_attn_layer\.": r"layers.\1.cross_attention.",
    r"^(?:old_decoder_blocks|transformer\.blocks)\.(\d+)\.(?:decoder_layer\.)?": r"layers.\1.block.",
}
_TEXT_TOWER = re.compile(
    r"text_model\.|text_projection|visual_projection|logit_scale|token_embedding\.|positional_embedding$|ln_final\."
    r"|transformer\.resblocks\.|attn_mask$|visual\.proj$|vision_model\.embeddings\.position_ids$"
)
"""What else is in a file of CLIP: the text tower, and projections into the space that both share."""


def parameter_of(key: str) -> str | None:
    """The model's name of a published tensor, in :func:`canonical` form; ``None``: of CLIP's, and no model reads it.

    A key that follows no rule is handed back as it is; no parameter is called so.
    """
    key = key.removeprefix(DISTRIBUTED)
    own = key.removeprefix("vision_encoder.")
    if _TEXT_TOWER.match(own):
        return None
    if own.startswith("vision_model."):
        return VISION + own.removeprefix("vision_model.")
    if own.startswith("visual.") or own != key:
        return VISION + _first_rule(_OPEN_CLIP, own.removeprefix("visual."))
    return _block_name(_first_rule(_RULES, key.removeprefix("lang_encoder.")))


def _first_rule(rules: Mapping[str, str], key: str) -> str:
    for pattern, replacement in rules.items():
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key)
    return key


def _block_name(name: str) -> str:
    if ".block." not in name:
        return name
    layer, _, rest = name.partition(".block.")
    part = next((part for part in _BLOCK if rest.startswith(f"{part}.")), None)
    return name if part is None else f"{layer}.block.{_BLOCK[part]}{rest.removeprefix(part)}"


def canonical(name: str) -> str:
    """A parameter of the model, whatever the installed ``transformers`` calls the inside of its vision model."""
    for prefix in ("vision.clip.vision_model.", "vision.clip."):
        if name.startswith(prefix):
            return VISION + name.removeprefix(prefix)
    return name


def published(name: str, settings: Settings) -> tuple[str, ...]:
    """The keys that a canonical name has in released files, the first one being enough; without ``module.``."""
    if name.startswith(VISION):
        return (f"vision_model.{name.removeprefix(VISION)}",)
    if match := re.match(r"layers\.(\d+)\.cross_attention\.(.*)", name):
        layer, rest = match.groups()
        aliased = f"lang_encoder.transformer.blocks.{layer}.gated_cross_attn_layer.{rest}"
        return (f"lang_encoder.gated_cross_attn_layers.{layer}.{rest}", aliased)
    if match := re.match(r"layers\.(\d+)\.block\.(.*)", name):
        layer, rest = match.groups()
        if settings.language_model.qk_norm:
            rest = next((a + rest.removeprefix(b) for a, b in _BLOCK.items() if rest.startswith(f"{b}.")), rest)
        return (f"lang_encoder.old_decoder_blocks.{layer}.{rest}",)
    if name == "norm_f.weight":
        return (f"transformer.{'ln_f' if settings.language_model.qk_norm else 'norm_f'}.weight",)
    if name.startswith("head."):
        return (f"lm_head.{name.removeprefix('head.')}",)
    return (f"lang_encoder.transformer.{name}",) if name == "wte.weight" else (name,)


def complete_shapes(settings: Settings) -> dict[str, Shape]:
    """Canonical name -> shape of every tensor a released model has, those that no action depends on too."""
    whole = settings.model_copy(update={"feature_tap": "after_last_block", "final_norm": True})
    with torch.device("meta"):
        return {canonical(name): tuple(tensor.shape) for name, tensor in RoboFlamingoModel(whole).state_dict().items()}


def split_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``open_clip`` keeps queries, keys and values of its attention in one matrix; ``transformers`` does not."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        stem, _, kind = key.rpartition("in_proj_")
        if stem and tensor.ndim and tensor.shape[0] % 3 == 0:
            found |= {f"{stem}{name}_proj.{kind}": part for name, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            found[key] = tensor
    return found
