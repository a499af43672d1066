"""The model card of a bundle: what it is, where it comes from, what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dyslctl.artifacts.bundle import CARD, Bundle, TrainingInfo, load_bundle
from dyslctl.artifacts.files import atomic_write


@dataclass(frozen=True)
class CardMetric:
    """One measured success rate.

    Attributes:
        rate: Successes / episodes.
        low, high: 95 % Wilson interval.
        episodes: ``n``.
        mean_layers_run: Executed layers an inference, re-predictions included.
    """

    rate: float
    low: float
    high: float
    episodes: int
    mean_layers_run: float


def model_card(bundle: Bundle, suite: str, metrics: Mapping[str, CardMetric] | None = None) -> str:
    """Markdown with the front matter of the Hugging Face Hub."""
    header, training = bundle.header, bundle.header.training
    return f"""---
library_name: dyslctl
base_model: {header.checkpoint}
tags: [robotics, vision-language-action, layer-skipping]
---

# Skip modules for {header.plugin}

{bundle.settings.MODULES} for `{header.checkpoint}`. The backbone itself is unchanged and not included.

| | |
| --- | --- |
| backbone fingerprint | `{header.backbone_fingerprint}` |
| skip profile | `{header.profile_hash}` |
| static layers | {", ".join(map(str, header.static_layers))} |
| modules | {header.modules.in_words()} |
| trained with | `{training.method}`, stage {training.stage}, {training.steps} steps, seed {training.seed} |
| data | states of `{suite}`{_samples(training)} |
| calibrated to | {bundle.settings.calibrated_to()} |
| made by | dyslctl {header.made_with.dyslctl}: `{header.made_with.command}` |

## Results

{_results(metrics)}"""


def write_card(folder: Path, suite: str, metrics: Mapping[str, CardMetric] | None = None) -> None:
    """Bring the card of the bundle ``folder`` up to date: its settings as they are now, and ``metrics``.

    Raises:
        ArtifactError: If the bundle is missing or damaged.
        EnvironmentMismatch: If the card cannot be written.
    """
    atomic_write(folder / CARD, model_card(load_bundle(folder), suite, metrics))


def _samples(training: TrainingInfo) -> str:
    told = "" if training.samples is None else f", {training.samples} observations"
    return f"{told}, half of them on subsets of the visual tokens" if training.token_subsets else told


def _results(metrics: Mapping[str, CardMetric] | None) -> str:
    if not metrics:
        return "Not evaluated yet: `dyslctl eval` does.\n"
    rows = "".join(
        f"| {name} | {m.rate:.1%} [{m.low:.1%}, {m.high:.1%}] | {m.episodes} | {m.mean_layers_run:.2f} |\n"
        for name, m in metrics.items()
    )
    return f"| method | success (95 % Wilson interval) | n | layers run |\n| --- | --- | --- | --- |\n{rows}"
