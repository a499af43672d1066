"""The bundle: trained adapters and controllers, with everything needed to trust them.

A folder of three files, written and replaced as one: ``bundle.safetensors`` (weights, self-test vector and a JSON
header), ``bundle.yaml`` (guidance settings, which calibration or a person may change) and ``README.md`` (model card).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dyslctl.artifacts.document import Document, Part
from dyslctl.artifacts.files import atomic_folder, atomic_write, reading, sha256
from dyslctl.artifacts.skip_profile import Guidance, MadeWith, ModuleSizes, SkipProfile
from dyslctl.artifacts.strict_yaml import dump_yaml, read_yaml
from dyslctl.errors import ArtifactError

WEIGHTS, SETTINGS, CARD = "bundle.safetensors", "bundle.yaml", "README.md"
PROBE_INPUT, PROBE_OUTPUT = "self_test.input", "self_test.output."
SELF_TEST_TOLERANCE = 1e-5
"""Largest accepted difference, absolute and relative: fp32 sums in another order, nothing more."""

Probe = Callable[[Tensor], Mapping[str, Tensor]]
"""Hidden states ``[1, T, H]`` -> the output of every adapter and controller, by name."""


class TrainingInfo(Part):
    """How the weights came about.

    Attributes:
        stage: 1 = adapters alone (Eq. 4), 2 = adapters and controllers (Eq. 5-6).
        method: Method name, e.g. ``dysl``.
        samples: Training observations.
        loss_first, loss_last: Mean loss over the first and last steps.
    """

    stage: Literal[1, 2]
    steps: int
    seed: int
    method: str
    samples: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None


class BundleHeader(Document):
    """Identity of the weights; stored inside the safetensors file, so it cannot be separated from them."""

    SCHEMA: ClassVar[str] = "dyslctl.bundle/1"

    plugin: str
    checkpoint: str
    backbone_fingerprint: str
    profile_hash: str
    static_layers: tuple[int, ...]
    modules: ModuleSizes
    training: TrainingInfo
    made_with: MadeWith

    @classmethod
    def of(cls, profile: SkipProfile, training: TrainingInfo, made_with: MadeWith) -> BundleHeader:
        """The header of modules trained for ``profile``."""
        return cls(
            plugin=profile.backbone.plugin,
            checkpoint=profile.backbone.checkpoint,
            backbone_fingerprint=profile.backbone.fingerprint,
            profile_hash=profile.hash,
            static_layers=profile.static_layers,
            modules=profile.modules,
            training=training,
            made_with=made_with,
        )


class Calibration(Part):
    """Where the guidance thresholds come from (methods 1.9).

    Attributes:
        rule: How they were chosen, e.g. ``quantile``.
        suite, split, episodes: The rollouts behind them.
        numbers: Anything else worth keeping: quantiles, protected share, AUC.
        data_hash: SHA-256 of the recorded actions; ``None`` for thresholds that were set by hand.
    """

    rule: str
    suite: str
    split: str
    episodes: int
    numbers: dict[str, float] = Field(default_factory=dict)
    data_hash: str | None = None


class BundleSettings(Document):
    """The content of ``bundle.yaml``."""

    SCHEMA: ClassVar[str] = "dyslctl.bundle-settings/1"

    weights_sha256: str
    guidance: Guidance
    calibration: Calibration | None = None


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


@dataclass(frozen=True)
class Bundle:
    """Trained modules as plain tensors.

    Attributes:
        tensors: State-dict key -> tensor.
        guidance: What the policy runs with; thresholds are ``None`` until calibrated.
    """

    header: BundleHeader
    tensors: Mapping[str, Tensor] = field(repr=False)
    self_test: SelfTest
    guidance: Guidance
    calibration: Calibration | None = None


def save_bundle(folder: Path, bundle: Bundle, card: str) -> Path:
    """Write ``bundle`` and its model card as ``folder``, replacing an older one; returns the weights' path.

    Raises:
        EnvironmentMismatch: If it cannot be written; an older bundle is then still there.
    """
    probe = {PROBE_INPUT: bundle.self_test.hidden}
    probe |= {PROBE_OUTPUT + name: output for name, output in bundle.self_test.outputs.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in {**bundle.tensors, **probe}.items()}
    with atomic_folder(folder) as new:
        _save_weights(tensors, new / WEIGHTS, bundle.header)
        settings = BundleSettings(
            weights_sha256=sha256(new / WEIGHTS), guidance=bundle.guidance, calibration=bundle.calibration
        )
        (new / SETTINGS).write_text(_settings_yaml(settings), encoding="utf-8")
        (new / CARD).write_text(card, encoding="utf-8")
    return folder / WEIGHTS


def save_guidance(folder: Path, guidance: Guidance, calibration: Calibration | None) -> None:
    """Replace the settings of a saved bundle; its weights stay as they are.

    Raises:
        ArtifactError: If there is no bundle in ``folder``.
        EnvironmentMismatch: If the settings cannot be written.
    """
    digest = _read_settings(folder).weights_sha256
    new = BundleSettings(weights_sha256=digest, guidance=guidance, calibration=calibration)
    atomic_write(folder / SETTINGS, _settings_yaml(new))


def load_bundle(folder: Path) -> Bundle:
    """Read the bundle in ``folder``, on the CPU. What it belongs to is checked by :func:`check_belongs`.

    Raises:
        ArtifactError: If a file is missing, truncated, of another schema, or not the one its settings name, or any
            tensor is not finite.
    """
    header, tensors = _read_weights(folder / WEIGHTS)
    settings = _read_settings(folder)
    digest = sha256(folder / WEIGHTS)
    if digest != settings.weights_sha256:
        raise ArtifactError(
            f"{folder}: {SETTINGS} belongs to other weights: it names {settings.weights_sha256}, {WEIGHTS} is {digest}",
            hint="copy the whole folder, or dyslctl distill makes it again",
        )
    probed = [name for name in tensors if name.startswith(PROBE_OUTPUT)]
    outputs = {name.removeprefix(PROBE_OUTPUT): tensors.pop(name) for name in probed}
    hidden = tensors.pop(PROBE_INPUT, None)
    if hidden is None or not outputs:
        raise ArtifactError(f"{folder / WEIGHTS} holds no self-test vector", hint="dyslctl distill makes it again")
    return Bundle(header, tensors, SelfTest(hidden, outputs), settings.guidance, settings.calibration)


def check_belongs(header: BundleHeader, profile: SkipProfile, where: Path | str) -> None:
    """Was the bundle trained for this profile and these backbone weights?

    Raises:
        ArtifactError: If not; names both sides.
    """
    if header.backbone_fingerprint != profile.backbone.fingerprint:
        raise ArtifactError(
            f"{where} was trained for other backbone weights: bundle {header.backbone_fingerprint} "
            f"({header.checkpoint}), profile {profile.backbone.fingerprint} ({profile.backbone.checkpoint})",
            hint=f"dyslctl profile {header.plugin} --checkpoint {header.checkpoint}, or dyslctl distill again",
        )
    if header.profile_hash != profile.hash:
        raise ArtifactError(
            f"{where} belongs to another skip profile: bundle {header.profile_hash[:12]} (static layers "
            f"{list(header.static_layers)}, {header.modules}), profile {profile.hash[:12]} (static layers "
            f"{list(profile.static_layers)}, {profile.modules})",
            hint="dyslctl distill trains modules for this profile; --run chooses another run",
        )


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: Path | str) -> None:
    """Are ``tensors`` exactly the state dict ``expected``, shape by shape?

    Raises:
        ArtifactError: If any is missing, unexpected or misshapen; lists them all.
    """
    problems = [f"missing: {name} {tuple(expected[name].shape)}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected: {name}" for name in sorted(tensors.keys() - expected.keys())]
    for name in sorted(tensors.keys() & expected.keys()):
        found, wanted = tuple(tensors[name].shape), tuple(expected[name].shape)
        if found != wanted:
            problems.append(f"misshapen: {name}: expected {wanted}, found {found}")
    _refuse(where, problems)


def _save_weights(tensors: dict[str, Tensor], path: Path, header: BundleHeader) -> None:
    try:
        save_file(tensors, path, metadata={"header": json.dumps(header.dump())})
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error


def _read_weights(path: Path) -> tuple[BundleHeader, dict[str, Tensor]]:
    try:
        with reading(path, hint="dyslctl distill makes it"), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is truncated or damaged: {error}", hint="copy it again, or dyslctl distill makes it again"
        ) from error
    _refuse(path, [f"not finite: {name}" for name in sorted(tensors) if not torch.isfinite(tensors[name]).all()])
    return BundleHeader.parse(_header_json(metadata, path), str(path)), tensors


def _header_json(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        header = json.loads(metadata["header"])
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{path} has no dyslctl header: it is not a bundle") from error
    return header if isinstance(header, dict) else {}


def _read_settings(folder: Path) -> BundleSettings:
    path = folder / SETTINGS
    return BundleSettings.parse(read_yaml(path, hint="dyslctl distill makes it"), str(path))


def _settings_yaml(settings: BundleSettings) -> str:
    return dump_yaml(settings.dump(), "Settings of the trained modules beside this file; guidance may be edited.\n")


def _agrees(answer: Tensor | None, expected: Tensor) -> bool:
    if answer is None or answer.shape != expected.shape:
        return False
    return torch.allclose(answer.float().cpu(), expected, rtol=SELF_TEST_TOLERANCE, atol=SELF_TEST_TOLERANCE)


def _refuse(where: Path | str, problems: list[str]) -> None:
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise ArtifactError(f"{where}: {len(problems)} wrong tensors\n{listing}", hint="dyslctl distill makes it again")
