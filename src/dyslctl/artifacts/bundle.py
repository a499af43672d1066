"""The bundle: the trained modules of one method, with everything needed to trust them.

A folder of three files, written and replaced as one: ``bundle.safetensors`` (weights, self-test vector and a JSON
header), ``bundle.yaml`` (settings that calibration or a person may change) and ``README.md`` (model card).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dyslctl.artifacts.bundle_parts import Section, Sizes
from dyslctl.artifacts.bundle_settings import BundleSettings, Calibration, Consistency, Exits, Mixture, Routing
from dyslctl.artifacts.document import Document, Part
from dyslctl.artifacts.files import atomic_folder, atomic_write, reading, sha256
from dyslctl.artifacts.self_test import SelfTest
from dyslctl.artifacts.skip_profile import Layer, MadeWith, ModuleSizes, Positive, SkipProfile
from dyslctl.artifacts.tensors import is_finite, save_tensors
from dyslctl.dysl.skip_modules import Pool
from dyslctl.errors import ArtifactError

WEIGHTS, SETTINGS, CARD = "bundle.safetensors", "bundle.yaml", "README.md"
PROBE_INPUT, PROBE_OUTPUT = "self_test.input", "self_test.output."


class TrainingInfo(Part):
    """How the weights came about.

    Attributes:
        stage: 1 = adapters alone, 2 = with what decides.
        method: What was trained: a name of ``distill --method``.
        samples: Training observations.
        token_subsets: Half of them are the other half again, on fewer visual tokens.
        loss_first, loss_last: Mean loss over the first and last steps.
    """

    stage: Literal[1, 2]
    steps: int
    seed: int
    method: str
    samples: int | None = None
    token_subsets: bool = False
    loss_first: float | None = None
    loss_last: float | None = None


class ExitModuleSizes(Sizes):
    """Sizes of the modules of ``dysl``, ``static`` and ``deer``.

    Attributes:
        exits: Layers before which a pass may leave, ascending; each has an adapter.
        adapter_width: Hidden width ``r`` of an adapter.
        planner_width: Hidden width of the planner.
        remembers: Whether exits and planner are told the last chunk.
        execute_horizon: Actions executed before the next inference. It says where in time the last chunk lies, and what
            damage was measured over, so they serve no other.
    """

    RUN_WITH: ClassVar[tuple[type[Section], ...]] = (Exits, Consistency)

    exits: tuple[Layer, ...]
    adapter_width: Positive
    planner_width: Positive
    remembers: bool
    execute_horizon: Positive

    def in_words(self) -> str:
        """The exits, both widths, and what they were trained for."""
        exits = ", ".join(map(str, self.exits))
        return (
            f"exits before layers {exits}; adapter / planner width {self.adapter_width} / {self.planner_width}; "
            f"{self.execute_horizon} actions executed an inference"
        )


class RouterSizes(Sizes):
    """Sizes of the modules of ``flexidepth`` and ``flexidepth-tokens``, one adapter and one router a layer.

    Attributes:
        adapter_width: Hidden width ``r`` of an adapter.
        router_width: Hidden width of a router.
        pool: Over which tokens a router's input is pooled, and how; unread where it is asked about each token.
    """

    RUN_WITH: ClassVar[tuple[type[Section], ...]] = (Routing,)

    adapter_width: Positive
    router_width: Positive
    pool: Pool

    def in_words(self) -> str:
        """Both widths."""
        return f"adapter / router width {self.adapter_width} / {self.router_width}"


class LayerRouterSizes(Sizes):
    """Size of the module of ``mole``, one router for all layers.

    Attributes:
        layer_router_width: Its hidden width.
    """

    RUN_WITH: ClassVar[tuple[type[Section], ...]] = (Mixture,)

    layer_router_width: Positive

    def in_words(self) -> str:
        """The width."""
        return f"router width {self.layer_router_width}"


AnySizes = ModuleSizes | ExitModuleSizes | RouterSizes | LayerRouterSizes


class BundleHeader(Document):
    """Identity of the weights; stored inside the safetensors file, so it cannot be separated from them."""

    SCHEMA: ClassVar[str] = "dyslctl.bundle/3"

    plugin: str
    checkpoint: str
    backbone_fingerprint: str
    profile_hash: str
    static_layers: tuple[int, ...]
    modules: AnySizes
    training: TrainingInfo
    made_with: MadeWith

    @classmethod
    def of(
        cls,
        profile: SkipProfile,
        training: TrainingInfo,
        made_with: MadeWith,
        modules: AnySizes | None = None,
    ) -> BundleHeader:
        """The header of modules trained for ``profile``, of the sizes it asks for unless ``modules`` says otherwise."""
        return cls(
            plugin=profile.backbone.plugin,
            checkpoint=profile.backbone.checkpoint,
            backbone_fingerprint=profile.backbone.fingerprint,
            profile_hash=profile.hash,
            static_layers=profile.static_layers,
            modules=modules or profile.modules,
            training=training,
            made_with=made_with,
        )


@dataclass(frozen=True)
class Bundle:
    """Trained modules as plain tensors.

    Attributes:
        tensors: State-dict key -> tensor.
        settings: What the policy runs with; thresholds are ``None`` until calibrated.
    """

    header: BundleHeader
    tensors: Mapping[str, Tensor] = field(repr=False)
    self_test: SelfTest
    settings: Section
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
        save_tensors(tensors, new / WEIGHTS, {"header": json.dumps(bundle.header.dump())})
        settings = BundleSettings.of(sha256(new / WEIGHTS), bundle.settings, bundle.calibration)
        (new / SETTINGS).write_text(settings.yaml(), encoding="utf-8")
        (new / CARD).write_text(card, encoding="utf-8")
    return folder / WEIGHTS


def save_settings(folder: Path, settings: Section, calibration: Calibration | None) -> None:
    """Replace the settings of a saved bundle; its weights stay as they are.

    Raises:
        ArtifactError: If there is no bundle in ``folder``.
        EnvironmentMismatch: If the settings cannot be written.
    """
    digest = BundleSettings.load(folder / SETTINGS).weights_sha256
    atomic_write(folder / SETTINGS, BundleSettings.of(digest, settings, calibration).yaml())


def load_bundle(folder: Path) -> Bundle:
    """Read the bundle in ``folder``, on the CPU. What it belongs to is checked by :func:`check_belongs`.

    Raises:
        ArtifactError: If a file is missing, truncated, of another schema, or not the one its settings name, or any
            tensor is not finite.
    """
    header, tensors = _read_weights(folder / WEIGHTS)
    settings = BundleSettings.load(folder / SETTINGS)
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
    return Bundle(header, tensors, SelfTest(hidden, outputs), _section(settings, header, folder), settings.calibration)


def weights_digest(folder: Path) -> str:
    """SHA-256 of the tensors of the bundle in ``folder``: equal trainings give equal ones, whatever command made them.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    _, tensors = _read_weights(folder / WEIGHTS)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].float().numpy().tobytes())
    return digest.hexdigest()


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


def _read_weights(path: Path) -> tuple[BundleHeader, dict[str, Tensor]]:
    try:
        with reading(path, hint="dyslctl distill makes it"), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is truncated or damaged: {error}", hint="copy it again, or dyslctl distill makes it again"
        ) from error
    _refuse(path, [f"not finite: {name}" for name in sorted(tensors) if not is_finite(tensors[name])])
    return BundleHeader.parse(_header_json(metadata, path), str(path)), tensors


def _header_json(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        header = json.loads(metadata["header"])
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{path} has no dyslctl header: it is not a bundle") from error
    return header if isinstance(header, dict) else {}


def _section(settings: BundleSettings, header: BundleHeader, folder: Path) -> Section:
    """The section of ``settings``, which must be one that the header's modules run with."""
    if not isinstance(settings.section, header.modules.RUN_WITH):
        raise ArtifactError(
            f"{folder / SETTINGS} holds settings of another method than {header.training.method}, whose modules are "
            "beside it",
            hint=f"dyslctl distill --method {header.training.method} makes the bundle again",
        )
    return settings.section


def _refuse(where: Path | str, problems: list[str]) -> None:
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise ArtifactError(f"{where}: {len(problems)} wrong tensors\n{listing}", hint="dyslctl distill makes it again")
