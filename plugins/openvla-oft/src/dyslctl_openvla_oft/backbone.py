"""The plugin: OpenVLA-OFT as dyslctl sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from dyslctl.backbone import Backbone, BackboneOptions, BackboneSpec, Workload
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.types import ActionChunk, LayerInputs, LayerState, Observation
from dyslctl_openvla_oft import workload
from dyslctl_openvla_oft.actions import decode, normalize
from dyslctl_openvla_oft.checkpoint import Checkpoint, fingerprint, read_checkpoint, resolve
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.processing import pixels, proprio_of, views_of
from dyslctl_openvla_oft.statistics import DatasetStatistics, Statistics
from dyslctl_openvla_oft.weights import load_model

EMBEDDED = Path(__file__).parent / "checkpoints" / "mini-tabletop"
NOMINAL_INSTRUCTION = "put the red cube in the purple bin"


class OFTOptions(BackboneOptions):
    """``--set model.options.KEY=VALUE``.

    Attributes:
        unnorm_key: Entry of ``dataset_statistics.json`` to use; needed only if there are several. ``_no_noops`` may
            be left out.
        center_crop: Override the checkpoint's setting.
    """

    unnorm_key: str | None = None
    center_crop: bool | None = None


class OpenVLAOFT(Backbone):
    """OpenVLA-OFT: bidirectional LLaMA layers, one prefill, an L1 head without memory."""

    Options = OFTOptions
    default_suite: ClassVar[str] = "tabletop_object"

    def __init__(self, model: OFTModel, checkpoint: Checkpoint, options: OFTOptions) -> None:
        config = checkpoint.config.oft
        self.model = model
        self.checkpoint = checkpoint
        self.config = config
        self.statistics = _statistics(checkpoint.statistics, options.unnorm_key)
        self.center_crop = config.center_crop if options.center_crop is None else options.center_crop
        self.spec = BackboneSpec(
            num_layers=model.num_layers,
            hidden_size=int(model.language_model.config.hidden_size),
            chunk_length=config.chunk_length,
            action_dim=config.action_dim,
            last_live_layer=model.num_layers - 1,
            gripper_dim=config.action_dim - 1 if config.gripper == "libero" else None,
            fingerprint=fingerprint(checkpoint.folder),
        )

    @classmethod
    def default_checkpoint(cls) -> Path | str:
        """The embedded mini model."""
        if not EMBEDDED.is_dir():
            raise ArtifactError(
                f"the embedded checkpoint {EMBEDDED} is missing",
                hint="reinstall dyslctl-openvla-oft, or name a checkpoint with --checkpoint",
            )
        return EMBEDDED

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Load a folder or Hub repository in the published layout; see :meth:`Backbone.load`."""
        checked = _options(options or {})
        files = read_checkpoint(resolve(checkpoint, revision))
        return cls(load_model(files.folder, files.config, device=device, dtype=dtype), files, checked)

    @classmethod
    def workloads(cls) -> Mapping[str, Workload]:
        """The released size."""
        return {"openvla-7b": workload.published()}

    def workload(self) -> Workload:
        """This model, with an instruction of usual length."""
        prefix = 2 + self.config.num_images * self.checkpoint.config.num_patches
        prompt = len(self.checkpoint.tokenizer.encode(NOMINAL_INSTRUCTION)) - 1
        return workload.workload_of(self.model, prefix + prompt + self.config.num_action_tokens + 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.projector.fc1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and hidden states."""
        return self.model.projector.fc1.weight.dtype

    @torch.no_grad()
    def encode(self, observations: Sequence[Observation]) -> LayerInputs:
        """Images, prompt and proprioception to the sequence that enters layer 0."""
        size = self.checkpoint.preprocessor.size
        images = np.stack([views_of(observation, self.config.num_images, size) for observation in observations])
        proprio = np.stack([proprio_of(observation, self.config.proprio_dim) for observation in observations])
        ids, lengths = self.checkpoint.tokenizer.encode_batch([observation.instruction for observation in observations])
        return self.model.embed(
            pixels(images, self.checkpoint.preprocessor, self.center_crop).to(self.device, self.dtype),
            torch.from_numpy(self.statistics.proprio.normalize(proprio)).to(self.device, self.dtype),
            ids.to(self.device),
            lengths,
        )

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        """One LLaMA layer; rotary tables and mask are kept in ``state.context`` until tokens are gathered."""
        if state.context is None:
            state.context = self.model.context(state.hidden, state.positions, state.mask)
        return self.model.run_layer(layer, state.hidden, state.context)

    def predict(self, state: LayerState) -> Tensor:
        """Final norm and action head."""
        return self.model.predict(state.hidden, state.kinds)

    def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
        """Un-normalise with the data set's bounds and decide the gripper."""
        chunks = predicted.detach().float().cpu().numpy()
        return [decode(chunk, self.statistics.action, self.config) for chunk in chunks]

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """Executed actions to the head's space; the gripper becomes 1 (open) or 0 (closed)."""
        return normalize(actions, self.statistics.action, self.config)

    def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean L1 over the chunk, per sample."""
        return (predicted - target).abs().mean(dim=(1, 2))


def _options(values: Mapping[str, Any]) -> OFTOptions:
    try:
        return OFTOptions.model_validate(values)
    except ValidationError as error:
        problems = "\n  ".join(f"model.options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(OFTOptions.model_fields)
        raise ConfigError(f"openvla-oft options are not as expected\n  {problems}", hint=f"options: {known}") from error


def _statistics(statistics: Statistics, key: str | None) -> DatasetStatistics:
    """The entry called ``key``, or the only one."""
    candidates = list(statistics)
    if key is None and len(candidates) == 1:
        return statistics[candidates[0]]
    for name in () if key is None else (key, f"{key}_no_noops"):
        if name in statistics:
            return statistics[name]
    problem = "has several data sets" if key is None else f"has no data set '{key}'"
    raise ConfigError(
        f"dataset_statistics.json {problem}: {', '.join(candidates)}",
        hint=f"--set model.options.unnorm_key={candidates[0] if candidates else 'KEY'}",
    )
