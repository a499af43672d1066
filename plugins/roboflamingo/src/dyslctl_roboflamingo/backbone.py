"""RoboFlamingo as dyslctl sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from dyslctl.artifacts.document import explain
from dyslctl.artifacts.files import hash_files
from dyslctl.backbone import Backbone, BackboneSpec, Workload, embedded_checkpoint
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.types import ActionChunk, LayerInputs, LayerState, Observation, TokenKind
from dyslctl_roboflamingo import workload
from dyslctl_roboflamingo.checkpoint import is_flamingo, load_model
from dyslctl_roboflamingo.config import SETTINGS, Settings
from dyslctl_roboflamingo.head import GRIPPER, POSE, HeadMemory
from dyslctl_roboflamingo.images import VIEWS, pixels_of
from dyslctl_roboflamingo.model import RoboFlamingoModel
from dyslctl_roboflamingo.mpt import attention_bias
from dyslctl_roboflamingo.tokenizer import FILE as TOKENIZER
from dyslctl_roboflamingo.tokenizer import PromptTokenizer

DEFAULT = Path(__file__).parent / "checkpoints" / "mini-calvin-fixtures"
NOMINAL_INSTRUCTION = "take the red block and rotate it to the right"
GRIPPER_LOSS = 0.01
"""Weight of the gripper's cross-entropy in training."""


class RoboFlamingo(Backbone):
    """OpenFlamingo's layers over the words of the instruction, and a head that looks back on the last steps.

    The layers see images by cross-attention alone: none of their tokens is visual. The action space is CALVIN's: six
    numbers for the pose in [-1, 1], and -1 or 1 for the gripper.
    """

    default_suite: ClassVar[str] = "calvin_d"
    checkpoint_hint: ClassVar[str] = (
        f"--checkpoint FOLDER, with released files and {SETTINGS} beside them; or a random one, to try things: "
        "python -m dyslctl_roboflamingo random-checkpoint --size tiny --out FOLDER"
    )

    def __init__(self, model: RoboFlamingoModel, tokenizer: PromptTokenizer, fingerprint: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.spec = BackboneSpec(
            num_layers=len(model.layers),
            hidden_size=model.settings.language_model.width,
            chunk_length=1,
            action_dim=POSE + GRIPPER,
            last_live_layer=len(model.layers) - 1,
            gripper_dim=POSE,
            fingerprint=fingerprint,
            visual_tokens=False,
            window=model.head.window,
            views=VIEWS,
        )
        self._memory = HeadMemory()

    @classmethod
    def default_checkpoint(cls) -> Path:
        """The embedded mini model."""
        return embedded_checkpoint(DEFAULT, "dyslctl-roboflamingo")

    @classmethod
    def suite_of(cls, checkpoint: str) -> str:
        """What the embedded model was trained on, else all of CALVIN's tasks."""
        return "calvin_d_fixtures" if Path(checkpoint) == DEFAULT else cls.default_suite

    @classmethod
    def checkpoint_at(cls, path: Path) -> Path | None:
        """The folder of the settings, of a file of weights that they name, or of Flamingo's weights without settings.

        Raises:
            ArtifactError: If the settings beside Flamingo's weights name other files, or are damaged.
        """
        folder = path if path.is_dir() else path.parent
        described = (folder / SETTINGS).is_file()
        if path.is_dir() or path.name == SETTINGS:
            return folder if described else None
        names = Settings.read(folder).files.by_precedence if described else ()
        if any((folder / name).resolve() == path.resolve() for name in names):
            return folder
        if not is_flamingo(path):
            return None
        if described:
            raise ArtifactError(
                f"{folder / SETTINGS} names other files than {path.name}: {', '.join(names)}",
                hint="name it there, under files, or put it into a folder with settings of its own",
            )
        return folder

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
        """Load a folder with released files, ``roboflamingo.yaml`` and ``tokenizer.json``; see :meth:`Backbone.load`.

        Raises:
            ArtifactError: Also if it is a sister model's (DeeR-VLA, other heads).
        """
        _check_options(cls, options or {})
        folder = Path(checkpoint)
        if revision is not None:
            raise ArtifactError(
                f"checkpoint {checkpoint}: expected a folder, which has no revision '{revision}'",
                hint="leave model.revision out, and name a folder that holds that version",
            )
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise ArtifactError(f"checkpoint {checkpoint}: expected a folder, found {found}", hint=cls.checkpoint_hint)
        settings = Settings.read(folder)
        tokenizer = PromptTokenizer.load(folder, settings.max_tokens)
        if tokenizer.vocabulary > (rows := settings.language_model.vocabulary):
            raise ArtifactError(
                f"{folder}: {TOKENIZER} has {tokenizer.vocabulary} tokens, {SETTINGS} {rows} embeddings",
                hint=f"put the {TOKENIZER} there that the weights were trained with, or mend language_model.vocabulary",
            )
        model = load_model(folder, settings, device=device, dtype=dtype)
        fingerprint = hash_files(folder, [SETTINGS, TOKENIZER, *settings.files.by_precedence])
        return cls(model, tokenizer, fingerprint)

    def workloads(self) -> Mapping[str, Workload]:
        """The released sizes."""
        return {f"roboflamingo-{size}": workload.published(size) for size in ("3b", "9b")}

    def workload(self) -> Workload:
        """This model, with an instruction of usual length."""
        return workload.workload_of(self.model, len(self.tokenizer.encode(NOMINAL_INSTRUCTION)))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.wte.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and hidden states."""
        return self.model.wte.weight.dtype

    @torch.no_grad()
    def encode(self, observations: Sequence[Observation]) -> LayerInputs:
        """The words' embeddings; the latents of both views are the conditioning."""
        size = self.model.settings.vision.image_size
        pixels = torch.stack([pixels_of(observation, size) for observation in observations])
        ids, lengths = self.tokenizer.encode_batch([observation.instruction for observation in observations])
        return self.model.embed(pixels.to(self.device, self.dtype), ids.to(self.device), lengths)

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        """Gated cross-attention and MPT's block; the attention's bias is kept in ``state.context``."""
        if state.context is None:
            state.context = attention_bias(state.positions, state.mask, self.model.settings.language_model.heads)
        return self.model.run_layer(layer, state.hidden, state.conditioning, state.context)

    def predict(self, state: LayerState) -> Tensor:
        """Maximum over the tokens, LSTM, MLPs: ``[B, 1, 7]``, the gripper as the probability that it opens."""
        real = state.kinds == TokenKind.TEXT
        real = real if state.mask is None else real & state.mask
        feature, head = self.model.feature(state.hidden, real), self.model.head
        if state.history is not None:
            return head.after(feature, state.history)[:, None]
        action, self._memory = head(feature, self._memory)
        predicted: Tensor = action[:, None]
        return predicted

    def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
        """The pose as it is; the gripper opens (1) above a probability of one half, and closes (-1) else."""
        chunks = predicted.detach().float().cpu().numpy()
        chunks = np.concatenate([chunks[..., :POSE], np.where(chunks[..., POSE:] > 0.5, 1.0, -1.0)], -1)
        return [ActionChunk(chunk, chunk.copy()) for chunk in chunks.astype(np.float32)]

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        """CALVIN's actions to the head's space: the gripper becomes 1 (open) or 0 (closed)."""
        values = np.asarray(actions, np.float32)
        return np.concatenate([values[..., :POSE], (values[..., POSE:] > 0).astype(np.float32)], -1)

    def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Huber loss of the pose and 0.01 times the cross-entropy of the gripper, per sample."""
        with torch.autocast(predicted.device.type, enabled=False):
            predicted, target = predicted.float(), target.float()
            pose = F.huber_loss(predicted[..., :POSE], target[..., :POSE], reduction="none").mean((1, 2))
            gripper = F.binary_cross_entropy(predicted[..., POSE:], target[..., POSE:], reduction="none").mean((1, 2))
        return pose + GRIPPER_LOSS * gripper

    def snapshot(self) -> HeadMemory:
        """What the head remembers; never changed, so nothing need be copied."""
        return self._memory

    def restore(self, memory: object) -> None:
        """Remember that again.

        Raises:
            ConfigError: If it is no snapshot of this backbone.
        """
        if not isinstance(memory, HeadMemory):
            raise ConfigError(f"expected a snapshot of this backbone, found {type(memory).__name__}")
        self._memory = memory

    def history(self) -> Tensor:
        """The features of the last steps, one episode's."""
        return self.model.head.history(self._memory)

    def reset(self) -> None:
        """Forget it: a new episode or instruction begins."""
        self._memory = HeadMemory()


def _check_options(kind: type[Backbone], options: Mapping[str, Any]) -> None:
    """There are none: what describes a checkpoint lies beside it."""
    try:
        kind.Options.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(
            f"roboflamingo has no options\n{explain(error, kind.Options)}", hint=f"edit {SETTINGS} of the checkpoint"
        ) from error
