"""Everything in a checkpoint but its weights: where it is, its settings, its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import huggingface_hub
from pydantic import ValidationError

from dyslctl.errors import ArtifactError, ConfigError
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.processing import PreprocessorConfig
from dyslctl_openvla_oft.statistics import STATISTICS, Statistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer
from dyslctl_openvla_oft.weights import component_file, shard_files

_T = TypeVar("_T")
_HASHED_WHOLE = 64 * 2**20
_SAMPLES, _SAMPLE_SIZE = 64, 64 * 2**10


@dataclass(frozen=True)
class Checkpoint:
    """The files beside the weights, checked against each other."""

    folder: Path
    config: OFTConfig
    tokenizer: PromptTokenizer
    statistics: Statistics
    preprocessor: PreprocessorConfig


def resolve(checkpoint: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: itself, or the local copy of a Hub repository, downloaded if need be.

    Raises:
        ArtifactError: If there is no such folder or repository, or the Hub cannot be reached.
        ConfigError: If a revision of a plain folder is asked for.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"{folder} is a folder and has no revision '{revision}'")
        return folder
    if isinstance(checkpoint, Path) or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1:
        raise ArtifactError(
            f"checkpoint folder {checkpoint} does not exist", hint="name a folder or a Hub id OWNER/NAME"
        )
    patterns = ["*.json", "*.safetensors", *(f"{component}--*_checkpoint.pt" for component in layout.COMPONENTS)]
    try:
        return Path(huggingface_hub.snapshot_download(checkpoint, revision=revision, allow_patterns=patterns))
    except Exception as error:  # errors of whichever HTTP library the Hub client uses come through
        raise ArtifactError(
            f"'{checkpoint}' is no folder here and could not be fetched from the Hub: {type(error).__name__}: {error}",
            hint="check the spelling and the network, or download it elsewhere and name the folder",
        ) from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check all files but the weights.

    Raises:
        ArtifactError: If one is missing, damaged, or contradicts another.
    """
    config = _parse(folder / layout.CONFIG, OFTConfig.model_validate_json)
    preprocessor = _parse(folder / layout.PREPROCESSOR, PreprocessorConfig.model_validate_json)
    statistics = _parse(folder / layout.STATISTICS_FILE, STATISTICS.validate_json)
    checkpoint = Checkpoint(folder, config, PromptTokenizer.load(folder), statistics, preprocessor)
    if problems := _contradictions(checkpoint):
        raise ArtifactError(f"{folder}: its files do not belong together\n  " + "\n  ".join(problems))
    return checkpoint


def fingerprint(folder: Path) -> str:
    """SHA-256 over name, size and content of every file an inference depends on.

    Of a file beyond 64 MiB, 64 evenly spaced blocks of 64 KiB stand for the content, the first (a safetensors
    header) and the last among them: enough to tell checkpoints apart, quick for 15 GB.
    """
    names = [layout.CONFIG, layout.PREPROCESSOR, layout.STATISTICS_FILE, layout.INDEX]
    names += ["tokenizer.json", "tokenizer_config.json", *shard_files(folder)]
    names += [component_file(folder, component).name for component in layout.COMPONENTS]
    digest = hashlib.sha256()
    for name in sorted(names):
        path = folder / name
        size = path.stat().st_size
        digest.update(f"{name}\0{size}\0".encode())
        with path.open("rb") as file:
            _hash_content(digest, file, size)
    return digest.hexdigest()


def _hash_content(digest: hashlib._Hash, file: BinaryIO, size: int) -> None:
    if size <= _HASHED_WHOLE:
        digest.update(file.read())
        return
    for sample in range(_SAMPLES):
        file.seek(sample * (size - _SAMPLE_SIZE) // (_SAMPLES - 1))
        digest.update(file.read(_SAMPLE_SIZE))


def _parse(path: Path, parse: Callable[[bytes], _T]) -> _T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}", hint="is this a checkpoint folder?") from error
    except ValidationError as error:
        problems = "\n  ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ArtifactError(f"{path}: not as expected\n  {problems}") from error


def _contradictions(checkpoint: Checkpoint) -> list[str]:
    config, tokenizer, llama = checkpoint.config, checkpoint.tokenizer, checkpoint.config.llama()
    pairs = [
        ("pad id", "config.json", config.pad_token_id, "tokenizer", tokenizer.pad_id),
        ("stop id", "config.json", llama.eos_token_id, "tokenizer", tokenizer.stop_id),
        ("image size", "config.json", config.image_size, "preprocessor_config.json", checkpoint.preprocessor.size),
    ]
    for key, entry in checkpoint.statistics.items():
        of_key = f"statistics of '{key}'"
        pairs += [
            ("action dimensions", "config.json", config.oft.action_dim, of_key, len(entry.action.q01)),
            ("proprio dimensions", "config.json", config.oft.proprio_dim, of_key, len(entry.proprio.q01)),
        ]
    problems = [f"{what}: {a} in {file}, {b} in {other}" for what, file, a, other, b in pairs if a != b]
    if tokenizer.vocab_size > llama.vocab_size:
        problems.append(f"tokenizer: {tokenizer.vocab_size} tokens, but only {llama.vocab_size} embeddings")
    return problems
