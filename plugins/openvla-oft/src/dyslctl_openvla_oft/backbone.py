"""The plugin: OpenVLA-OFT as dyslctl sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone, BackboneSpec, Workload
from dyslctl.errors import ArtifactError
from dyslctl.types import ActionChunk, LayerInputs, LayerState, Observation
from dyslctl_openvla_oft import workload
from dyslctl_openvla_oft.actions import decode, normalize
from dyslctl_openvla_oft.checkpoint import Checkpoint, fingerprint, read_checkpoint
from dyslctl_openvla_oft.hub import locate
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.options import OFTOptions, choose_statistics, parse_options
from dyslctl_openvla_oft.probe import probe_model, probe_normalization
from dyslctl_openvla_oft.processing import pixels, proprio_of, views_of
from dyslctl_openvla_oft.weights import load_model

EMBEDDED = Path(__file__).parent / "checkpoints" / "mini-tabletop"
NOMINAL_INSTRUCTION = "put the red cube in the purple bin"


class OpenVLAOFT(Backbone):
    """OpenVLA-OFT: bidirectional LLaMA layers, one prefill, an L1 head without memory."""

    Options = OFTOptions
    default_suite: ClassVar[str] = "tabletop_object"

    def __init__(
        self, model: OFTModel, checkpoint: Checkpoint, unnorm_key: str | None = None, commit: str | None = None
    ) -> None:
        config = checkpoint.config.oft
        self.model = model
        self.checkpoint = checkpoint
        self.config = config
        self.statistics = choose_statistics(checkpoint.statistics, unnorm_key)
        probe_normalization(self.statistics, checkpoint.preprocessor, config)
        probe_model(model)
        self.spec = BackboneSpec(
            num_layers=model.num_layers,
            hidden_size=int(model.language_model.config.hidden_size),
            chunk_length=config.chunk_length,
            action_dim=config.action_dim,
            last_live_layer=model.num_layers - 1,
            gripper_dim=config.action_dim - 1 if config.gripper == "libero" else None,
            fingerprint=fingerprint(checkpoint.folder),
            commit=commit,
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
        """Load a folder or Hub repository ``OWNER/NAME[@REVISION]`` in the published layout.

        See :meth:`Backbone.load`; moreover:

        Raises:
            ArtifactError: If it is a variant that is not supported (FiLM, diffusion, discrete tokens).
            EnvironmentMismatch: If the installed ``transformers`` does not run the layers as the model needs.
        """
        checked = parse_options(options or {})
        location = locate(checkpoint, revision)
        files = read_checkpoint(location.folder, checked)
        choose_statistics(files.statistics, checked.unnorm_key)  # refused before 15 GB are read
        model = load_model(files.folder, files.config, device=device, dtype=dtype)
        return cls(model, files, checked.unnorm_key, location.commit)

    @classmethod
    def workloads(cls) -> Mapping[str, Workload]:
        """The released size."""
        return {"openvla-7b": workload.published()}

    def workload(self) -> Workload:
        """This model, with an instruction of usual length."""
        prefix = 1 + self.config.num_images * self.checkpoint.config.num_patches + int(self.config.use_proprio)
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
        size, jpeg = self.checkpoint.preprocessor.size, self.config.jpeg
        images = np.stack([views_of(observation, self.config.num_images, size, jpeg) for observation in observations])
        ids, lengths = self.checkpoint.tokenizer.encode_batch([observation.instruction for observation in observations])
        return self.model.embed(
            pixels(images, self.checkpoint.preprocessor, self.config.center_crop).to(self.device, self.dtype),
            self._proprio(observations),
            ids.to(self.device),
            lengths,
        )

    def _proprio(self, observations: Sequence[Observation]) -> Tensor | None:
        statistics, config = self.statistics.proprio, self.config
        if statistics is None or not config.use_proprio:
            return None
        values = np.stack([proprio_of(observation, config.proprio_dim) for observation in observations])
        return torch.from_numpy(statistics.normalize(values, config.normalization)).to(self.device, self.dtype)

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
