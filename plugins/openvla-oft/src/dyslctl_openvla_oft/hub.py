"""Where a checkpoint is: a folder, one that comes with this package, or a Hub repository ``OWNER/NAME[@REVISION]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from dyslctl.errors import ArtifactError, ConfigError
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import Head
from dyslctl_openvla_oft.variants import refuse_variants

_PATTERNS = ["*.json", "*.safetensors", *(f"{component}--*checkpoint.pt" for component in layout.COMPONENTS)]
EMBEDDED = Path(__file__).parent / "checkpoints"
"""The checkpoints that come with this package, a folder each; a bare name means one of them."""
_BELOW = ["*/*"]
"""Folders in the repository, such as ``lora_adapter/``: a ``*`` of the patterns above also matches a slash."""


@dataclass(frozen=True)
class Location:
    """A checkpoint on this machine.

    Attributes:
        folder: Its files.
        commit: Of the Hub repository they come from; ``None`` for a plain folder.
    """

    folder: Path
    commit: str | None = None


def locate(checkpoint: str | Path, revision: str | None = None, head: Head = "l1") -> Location:
    """The folder itself, an embedded one, or the local copy of a Hub repository, downloaded if need be.

    With ``HF_HUB_OFFLINE=1`` nothing is asked of the network. A ``revision`` goes before the one in ``checkpoint``: it
    is how a run pins the commit that a branch stood at. ``head``: what the checkpoint must have.

    Raises:
        ArtifactError: If there is no such folder or repository, the Hub cannot be reached, or the repository is of a
            variant that this plugin does not run.
        ConfigError: If a revision of a plain folder is asked for.
    """
    folder = Path(checkpoint)
    if not folder.is_dir() and str(checkpoint) in embedded():
        folder = EMBEDDED / checkpoint
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"{folder} is a folder and has no revision '{revision}'")
        return Location(folder)
    repository, _, tag = str(checkpoint).partition("@")
    if isinstance(checkpoint, Path) or repository.startswith((".", "/", "~")) or repository.count("/") != 1:
        raise ArtifactError(
            f"checkpoint folder {checkpoint} does not exist",
            hint=f"name a folder, a Hub id OWNER/NAME[@REVISION], or what is embedded: {', '.join(embedded())}",
        )
    return _downloaded(repository, revision or tag or None, head)


def embedded() -> list[str]:
    """The names of the embedded checkpoints."""
    return sorted(path.name for path in EMBEDDED.glob("*") if path.is_dir())


def _downloaded(repository: str, revision: str | None, head: Head) -> Location:
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:  # before 15 GB are on their way
            refuse_variants(repository, huggingface_hub.HfApi().list_repo_files(repository, revision=revision), head)
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=_PATTERNS, ignore_patterns=_BELOW
            )
        )
    except ArtifactError:
        raise
    except Exception as error:  # errors of whichever HTTP library the Hub client uses come through
        name = repository if revision is None else f"{repository}@{revision}"
        raise ArtifactError(
            f"'{name}' is no folder here and could not be fetched from the Hub: {type(error).__name__}: {error}",
            hint="check the spelling and the network; HF_HUB_OFFLINE=1 uses what was downloaded before; or download "
            "it elsewhere and name the folder",
        ) from error
    return Location(folder, folder.name)  # the cache calls a snapshot's folder by its commit
