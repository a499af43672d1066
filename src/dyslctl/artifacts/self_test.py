"""The self-test of a bundle: do loaded modules answer as they did when they were saved?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dyslctl.errors import ArtifactError

SELF_TEST_TOLERANCE = 1e-5
"""Largest accepted difference, absolute and relative: fp32 sums in another order, nothing more."""

Probe = Callable[[Tensor], Mapping[str, Tensor]]
"""Hidden states ``[1, T, H]`` -> the output of every trained module, by name."""


@dataclass(frozen=True)
class SelfTest:
    """What the modules answered when they were saved.

    Attributes:
        hidden: ``[1, T, H]`` float32 input of every module.
        outputs: Module name -> its output.
    """

    hidden: Tensor = field(repr=False)
    outputs: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    @torch.no_grad()
    def record(cls, probe: Probe, hidden_size: int, tokens: int = 4, seed: int = 0) -> SelfTest:
        """Ask ``probe`` about a random hidden state, the same for every bundle of this size."""
        generator = torch.Generator().manual_seed(seed)
        hidden = torch.randn(1, tokens, hidden_size, generator=generator)
        return cls(hidden, {name: output.detach().float().cpu() for name, output in probe(hidden).items()})

    @torch.no_grad()
    def replay(self, probe: Probe, where: str) -> None:
        """Ask the loaded modules again.

        Raises:
            ArtifactError: If any of them answers differently.
        """
        answers = probe(self.hidden)
        wrong = [name for name, output in self.outputs.items() if not _agrees(answers.get(name), output)]
        if wrong:
            raise ArtifactError(
                f"{where}: the self-test failed, loaded modules answer differently than when they were saved: "
                f"{', '.join(wrong)}",
                hint="the file or this dyslctl differs from what made it: dyslctl distill makes the bundle again",
            )


def _agrees(answer: Tensor | None, expected: Tensor) -> bool:
    if answer is None or answer.shape != expected.shape:
        return False
    return torch.allclose(answer.float().cpu(), expected, rtol=SELF_TEST_TOLERANCE, atol=SELF_TEST_TOLERANCE)
