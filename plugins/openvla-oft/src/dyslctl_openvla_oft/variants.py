"""Sister models with the same file layout that this plugin does not run. Each would load, and act wrongly."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch

from dyslctl.errors import ArtifactError
from dyslctl_openvla_oft import layout

_REFUSALS = {
    "vision_backbone--*checkpoint.pt": "FiLM conditions its vision towers on the instruction",
    "noisy_action_projector--*checkpoint.pt": "a diffusion head denoises its actions over many passes",
}
_ACTION_HEAD = "action_head--*checkpoint.pt"


def refuse_variants(where: object, files: Iterable[str]) -> None:
    """Look at the names of a checkpoint's files.

    Raises:
        ArtifactError: If they are those of a FiLM, diffusion, discrete-token or unmerged checkpoint.
    """
    names = [name for name in files if "/" not in name]
    for pattern, reason in _REFUSALS.items():
        if found := [name for name in names if fnmatch(name, pattern)]:
            raise _refusal(where, f"{reason} ({found[0]}), which openvla-oft does not support")
    if layout.INDEX not in names:
        raise _refusal(where, f"there is no {layout.INDEX}, so its LoRA weights are not merged, or it is incomplete")
    if not any(fnmatch(name, _ACTION_HEAD) for name in names):
        raise _refusal(where, f"there is no {_ACTION_HEAD}, so it predicts discrete tokens, or it is incomplete")


def _refusal(where: object, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{where}: {reason}", hint="expected an OpenVLA-OFT checkpoint with L1 action head and merged LoRA weights"
    )
