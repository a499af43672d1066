"""Which methods learn, by name alone: the command line knows them before torch is loaded."""

from __future__ import annotations

from typing import Literal

Trained = Literal["dysl", "dysl-paper", "static", "flexidepth", "flexidepth-tokens", "deer", "mole"]
"""The methods that ``dyslctl distill`` trains; each has a bundle of its own, named after it."""
