"""Packages that only some users need, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dyslctl.errors import EnvironmentMismatch


def require(module: str, purpose: str, extra: str = "data") -> Any:
    """The module, which ``purpose`` needs and the extra ``dyslctl[extra]`` brings.

    Raises:
        EnvironmentMismatch: If it is not installed, or does not import.
    """
    try:
        return import_module(module)
    except ImportError as error:
        needs = f"{purpose} needs {module.partition('.')[0]}: {error}"
        raise EnvironmentMismatch(needs, hint=f"pip install 'dyslctl[{extra}]'") from error
