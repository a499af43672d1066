"""Names and shapes of the tensors in a published checkpoint, against those of its model (``models.py``).

==================================== ====================================================
file                                 tensors
==================================== ====================================================
``model-*-of-*.safetensors``         ``vision_backbone.*``, ``projector.*``, ``language_model.model.*``,
                                     ``language_model.lm_head.weight``
``action_head--STEP_checkpoint.pt``  ``module.model.*``, or without ``module.``
``proprio_projector--STEP_...pt``    ``module.*``, likewise; always float32
==================================== ====================================================

A checkpoint of OpenVLA has the first row only, and all of its language model is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.vision import unused_tensors

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
STATISTICS_FILE = "dataset_statistics.json"
PREPROCESSOR = "preprocessor_config.json"
COMPONENTS = ("action_head", "proprio_projector")
"""Parts of the model that have a ``.pt`` file of their own."""
DISTRIBUTED = "module."
"""What ``DistributedDataParallel`` puts before each key; files of one process lack it."""

_LLAMA, _PUBLISHED_LLAMA = "language_model.", "language_model.model."
LM_HEAD, _PUBLISHED_LM_HEAD = "lm_head.weight", "language_model.lm_head.weight"


def published_name(name: str) -> str:
    """Parameter of the model -> key in the safetensors files."""
    if name == LM_HEAD:
        return _PUBLISHED_LM_HEAD
    return _PUBLISHED_LLAMA + name.removeprefix(_LLAMA) if name.startswith(_LLAMA) else name


def component_of(name: str) -> str | None:
    """Which ``.pt`` file a parameter is in; ``None``: the safetensors files."""
    first = name.partition(".")[0]
    return first if first in COMPONENTS else None


def component_name(name: str) -> str:
    """Parameter -> key in its ``.pt`` file, with the prefix its distributed training left."""
    return DISTRIBUTED + name.partition(".")[2]


def components_of(config: OFTConfig) -> tuple[str, ...]:
    """The ``.pt`` files that a model of this configuration has."""
    if config.oft.head == "tokens":
        return ()
    return COMPONENTS if config.oft.use_proprio else COMPONENTS[:1]


def backbone_names(names: Iterable[str]) -> list[str]:
    """Those parameters that are in the safetensors files."""
    return [name for name in names if component_of(name) is None]


def published_shapes(config: OFTConfig, parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """All tensors of the safetensors files, given the state of the model."""
    used = {published_name(name): tuple(parameters[name].shape) for name in backbone_names(parameters)}
    return used | known_unused(config)


def known_unused(config: OFTConfig) -> dict[str, tuple[int, ...]]:
    """Published tensors that no inference reads: last blocks, final norms, pooling head, language-model head."""
    llama, vision = config.llama(), config.vision_config
    shapes = {f"vision_backbone.featurizer.{name}": shape for name, shape in unused_tensors(vision.dino).items()}
    shapes |= {f"vision_backbone.fused_featurizer.{name}": s for name, s in unused_tensors(vision.siglip).items()}
    if config.oft.head == "l1":
        shapes[_PUBLISHED_LM_HEAD] = (llama.vocab_size, llama.hidden_size)
    return shapes


def describe(name: str) -> str:
    """A parameter as its file knows it."""
    component = component_of(name)
    if component is None:
        return f"{published_name(name)} in the safetensors files"
    return f"{component_name(name)} in {component}--*_checkpoint.pt"
