"""Everything in a checkpoint but its weights: its settings, whether they agree, its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from dyslctl.artifacts.files import hash_files
from dyslctl.errors import ArtifactError
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import ActionConfig, OFTConfig
from dyslctl_openvla_oft.inventory import shard_files
from dyslctl_openvla_oft.options import CheckpointOptions, OFTOptions
from dyslctl_openvla_oft.processing import PreprocessorConfig
from dyslctl_openvla_oft.statistics import STATISTICS, Statistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer
from dyslctl_openvla_oft.variants import refuse_variants

_T = TypeVar("_T")


@dataclass(frozen=True)
class Checkpoint:
    """The files beside the weights, checked against each other."""

    folder: Path
    config: OFTConfig
    tokenizer: PromptTokenizer
    statistics: Statistics
    preprocessor: PreprocessorConfig


def read_checkpoint(folder: Path, options: CheckpointOptions | None = None) -> Checkpoint:
    """Read and check all files but the weights; ``options`` go before the settings of ``config.json``.

    Raises:
        ArtifactError: If one is missing, damaged, or contradicts another, or the folder holds a model of another kind.
        ConfigError: If an option is out of range.
    """
    config = (options or OFTOptions()).applied_to(_parse(folder / layout.CONFIG, OFTConfig.model_validate_json))
    refuse_variants(folder, [path.name for path in folder.iterdir()], config.oft.head)
    preprocessor = _parse(folder / layout.PREPROCESSOR, PreprocessorConfig.model_validate_json)
    statistics = _statistics(folder, config)
    checkpoint = Checkpoint(folder, config, PromptTokenizer.load(folder), statistics, preprocessor)
    if problems := _contradictions(checkpoint):
        raise ArtifactError(
            f"{folder}: its files do not belong together\n  " + "\n  ".join(problems),
            hint="--set model.options.KEY=VALUE goes before config.json; KEY: " + ", ".join(ActionConfig.model_fields),
        )
    return checkpoint


def _statistics(folder: Path, config: OFTConfig) -> Statistics:
    """Of the training set. OpenVLA's base model has them in ``config.json`` only."""
    path = folder / layout.STATISTICS_FILE
    if config.oft.head == "tokens" and not path.exists():
        own = (config.model_extra or {}).get("norm_stats", {})
        return _parse(folder / layout.CONFIG, lambda _: STATISTICS.validate_python(own))
    return _parse(path, STATISTICS.validate_json)


def fingerprint(folder: Path) -> str:
    """Of every file an inference depends on (:func:`hash_files`)."""
    names = [layout.CONFIG, layout.PREPROCESSOR, layout.INDEX]
    names += [layout.STATISTICS_FILE] if (folder / layout.STATISTICS_FILE).exists() else []
    names += ["tokenizer.json", "tokenizer_config.json", *shard_files(folder)]
    names += [path.name for component in layout.COMPONENTS for path in folder.glob(f"{component}--*checkpoint.pt")]
    return hash_files(folder, names)


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
        proprio = 0 if entry.proprio is None else len(entry.proprio.q01)
        pairs.append(("action dimensions", "config.json", config.oft.action_dim, of_key, len(entry.action.q01)))
        if config.oft.use_proprio:
            pairs.append(("proprio dimensions", "config.json", config.oft.proprio_dim, of_key, proprio))
    problems = [f"{what}: {a} in {file}, {b} in {other}" for what, file, a, other, b in pairs if a != b]
    if tokenizer.vocab_size > llama.vocab_size:
        problems.append(f"tokenizer: {tokenizer.vocab_size} tokens, but only {llama.vocab_size} embeddings")
    if not config.oft.use_proprio and (found := sorted(checkpoint.folder.glob("proprio_projector--*checkpoint.pt"))):
        problems.append(f"proprioception: off in config.json or options, but there is {found[0].name}")
    return problems
