"""Sister models with the same file layout that this plugin does not run. Each would load, and act wrongly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch

from dyslctl.errors import ArtifactError
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import Head

_REFUSALS = {
    "vision_backbone--*checkpoint.pt": "FiLM conditions its vision towers on the instruction",
    "noisy_action_projector--*checkpoint.pt": "a diffusion head denoises its actions over many passes",
}
_ACTION_HEAD, _PROPRIO = "action_head--*checkpoint.pt", "proprio_projector--*checkpoint.pt"
_BACKBONES: Mapping[Head, str] = {"l1": "openvla-oft", "tokens": "openvla"}
_MERGED = "with merged LoRA weights"
_HINTS: Mapping[Head, str] = {
    "l1": f"expected an OpenVLA-OFT checkpoint with L1 action head and {_MERGED}",
    "tokens": f"expected an OpenVLA checkpoint {_MERGED}",
}


def refuse_variants(where: object, files: Iterable[str], head: Head = "l1") -> None:
    """Look at the names of a checkpoint's files.

    Raises:
        ArtifactError: If they are those of a FiLM, diffusion or unmerged checkpoint, or of one with another head.
    """
    names = [name for name in files if "/" not in name]
    for pattern, reason in _REFUSALS.items():
        if found := _first(names, pattern):
            raise ArtifactError(
                f"{where}: {reason} ({found}), which {_BACKBONES[head]} does not support", hint=_HINTS[head]
            )
    if layout.INDEX not in names:
        reason = f"there is no {layout.INDEX}, so its LoRA weights are not merged, or it is incomplete"
        raise ArtifactError(f"{where}: {reason}", hint=_HINTS[head])
    if head == "l1":
        _require_action_head(where, names)
    else:
        _refuse_parallel_heads(where, names)


def _require_action_head(where: object, names: Sequence[str]) -> None:
    if _first(names, _ACTION_HEAD):
        return
    reason = f"there is no {_ACTION_HEAD}, so it predicts discrete tokens, or it is incomplete"
    parallel = _first(names, _PROPRIO) is not None
    hint = _HINTS["l1"] if parallel else "the backbone for OpenVLA, which generates action tokens, is openvla"
    raise ArtifactError(f"{where}: {reason}", hint=hint)


def _refuse_parallel_heads(where: object, names: Sequence[str]) -> None:
    if found := _first(names, _ACTION_HEAD):
        raise ArtifactError(
            f"{where}: its actions come from a head ({found}) and not from generated tokens",
            hint="the backbone for OpenVLA-OFT is openvla-oft",
        )
    if found := _first(names, _PROPRIO):
        reason = f"it is an OpenVLA-OFT model that predicts all its tokens at once ({found})"
        raise ArtifactError(f"{where}: {reason}, which this plugin does not support", hint=_HINTS["tokens"])


def _first(names: Iterable[str], pattern: str) -> str | None:
    return next((name for name in names if fnmatch(name, pattern)), None)
