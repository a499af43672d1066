"""dyslctl: dynamic-static layer skipping for Vision-Language-Action models.

A robot's program needs three names: :func:`load_policy`, and the :class:`Observation` and :class:`ActionChunk` that go
into and come out of the :class:`Policy` it returns. They are imported when they are first asked for: the command line
answers ``--help`` without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyslctl.jobs.recipe import load_policy
    from dyslctl.policy import Policy
    from dyslctl.types import ActionChunk, Observation

__all__ = ["ActionChunk", "Observation", "Policy", "__version__", "load_policy"]
__version__ = "0.1.0"

_HOMES = {
    "load_policy": "dyslctl.jobs.recipe",
    "Policy": "dyslctl.policy",
    "ActionChunk": "dyslctl.types",
    "Observation": "dyslctl.types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
