"""The model card of a bundle: what it is, where it comes from, what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dyslctl.artifacts.bundle import (
    CARD,
    Bundle,
    ExitModuleSizes,
    LayerRouterSizes,
    RouterSizes,
    TrainingInfo,
    load_bundle,
)
from dyslctl.artifacts.bundle_settings import Consistency, Exits, Mixture, Routing
from dyslctl.artifacts.files import atomic_write
from dyslctl.artifacts.skip_profile import Guidance, ModuleSizes


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

{_what(bundle)} for `{header.checkpoint}`. The backbone itself is unchanged and not included.

| | |
| --- | --- |
| backbone fingerprint | `{header.backbone_fingerprint}` |
| skip profile | `{header.profile_hash}` |
| static layers | {", ".join(map(str, header.static_layers))} |
| modules | {_sizes(header.modules)} |
| trained with | `{training.method}`, stage {training.stage}, {training.steps} steps, seed {training.seed} |
| data | states of `{suite}`{_samples(training)} |
| calibrated to | {_calibrated(bundle)} |
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


def _what(bundle: Bundle) -> str:
    match bundle.settings:
        case Exits():
            return "Planned exits"
        case Consistency():
            return "Exits that are left when two agree (DeeR)"
        case Mixture():
            return "A router of layers (MoLe)"
        case Routing():
            return "Adapters and routers (FlexiDepth)"
        case Guidance():
            return "Adapters and skipping controllers (DySL-VLA)"


def _sizes(modules: ModuleSizes | ExitModuleSizes | RouterSizes | LayerRouterSizes) -> str:
    if isinstance(modules, LayerRouterSizes):
        return f"router width {modules.layer_router_width}"
    if isinstance(modules, RouterSizes):
        return f"adapter / router width {modules.adapter_width} / {modules.router_width}"
    if isinstance(modules, ExitModuleSizes):
        exits = ", ".join(map(str, modules.exits))
        return (
            f"exits before layers {exits}; adapter / planner width {modules.adapter_width} / {modules.planner_width}; "
            f"{modules.execute_horizon} actions executed an inference"
        )
    return f"adapter / controller width {modules.adapter_width} / {modules.controller_width}"


def _calibrated(bundle: Bundle) -> str:
    guidance = bundle.settings
    if isinstance(guidance, Exits):
        return _exits(guidance)
    if isinstance(guidance, Consistency):
        return f"{guidance.share:.4g} of the layers on held-out states"
    if isinstance(guidance, Mixture):
        return f"{guidance.share:.4g} of the layers"
    if isinstance(guidance, Routing):
        return f"tau = {guidance.tau:.4g}"
    if guidance.eta_1 is None or guidance.eta_2 is None:
        return "not calibrated yet"
    return f"eta_1 = {guidance.eta_1:.4g}, eta_2 = {guidance.eta_2:.4g}, tau = {guidance.tau:.4g}, k = {guidance.k}"


def _exits(exits: Exits) -> str:
    if exits.tolerance is None:
        return "not calibrated yet"
    return f"log tolerance {exits.tolerance:.4g}"


def _results(metrics: Mapping[str, CardMetric] | None) -> str:
    if not metrics:
        return "Not evaluated yet: `dyslctl eval` does.\n"
    rows = "".join(
        f"| {name} | {m.rate:.1%} [{m.low:.1%}, {m.high:.1%}] | {m.episodes} | {m.mean_layers_run:.2f} |\n"
        for name, m in metrics.items()
    )
    return f"| method | success (95 % Wilson interval) | n | layers run |\n| --- | --- | --- | --- |\n{rows}"
