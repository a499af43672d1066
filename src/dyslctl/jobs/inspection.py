"""What is this file? Recognised by its content, verified by reading it as strictly as the command that needs it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dyslctl import plugins
from dyslctl.artifacts.bundle import SETTINGS, WEIGHTS, check_belongs, load_bundle
from dyslctl.artifacts.files import read_json, read_jsonl, reading
from dyslctl.artifacts.run_dir import RESULTS, RunDirectory
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.backbone import Backbone
from dyslctl.errors import ArtifactError, DyslctlError
from dyslctl.jobs.episodes import EpisodeRecord

KINDS = "a skip profile, a bundle, a run directory, an evaluation's episodes, a result, or a backbone checkpoint"
EPISODES = "episodes.jsonl"
"""Stands for a schema: the lines of an episode log carry none."""
BEGINNING = 512
"""Bytes of a file that are looked at before it is read."""
YAML_SUFFIXES = (".yaml", ".yml")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
RESULT_VERSION = "/1"
Facts = dict[str, Any]


@dataclass(frozen=True)
class Inspection:
    """A verified artifact.

    Attributes:
        kind: What it is, in words.
        facts: What it says, by name.
    """

    kind: str
    path: Path
    facts: Facts


def inspect(path: Path) -> Inspection:
    """Recognise and verify ``path``.

    Raises:
        ArtifactError: If it does not exist, is nothing we know, or does not hold what it should.
    """
    if not path.exists():
        raise ArtifactError(f"no such file: {path}")
    schema = _folder_schema(path) if path.is_dir() else _file_schema(path)
    if schema in _READERS:
        kind, read = _READERS[schema]
        return Inspection(kind, path, read(path))
    if (facts := _checkpoint(path)) is not None:
        return Inspection("backbone checkpoint", path, facts)
    found = f": its schema is '{schema}'" if schema else ""
    raise ArtifactError(f"{path} is no artifact of dyslctl{found}", hint=f"expected {KINDS}")


def _folder_schema(path: Path) -> str:
    if (path / WEIGHTS).exists() or (path / SETTINGS).exists():
        return "dyslctl.bundle"
    if (path / "manifest.json").exists():
        return _name(read_json(path / "manifest.json"))
    return ""


def _file_schema(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        start = file.read(BEGINNING)
    if start[8:9] == b"{" and path.with_name(WEIGHTS) == path:
        return "dyslctl.bundle"
    if b"\0" in start:
        return ""  # no text, and perhaps gigabytes of it
    if not start.startswith(b"{"):
        return _name(read_yaml(path) if path.suffix in YAML_SUFFIXES else _yaml_or_nothing(path))
    if _one_object_a_line(path):
        return EPISODES
    content = read_json(path)
    return EPISODES if "schema" not in content and "method" in content else _name(content)


def _one_object_a_line(path: Path) -> bool:
    """More than one line, the first of which is whole: no document, which one object fills."""
    with reading(path), path.open("rb") as file:
        first, more = file.readline(), file.readline()
    try:
        return bool(more.strip()) and isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _yaml_or_nothing(path: Path) -> Mapping[str, Any]:
    try:
        return read_yaml(path)
    except ArtifactError:
        return {}


def _name(content: Mapping[str, Any]) -> str:
    """``{"schema": "dyslctl.run/1"}`` -> ``"dyslctl.run"``; versions are checked by the readers."""
    return str(content.get("schema", "")).rpartition("/")[0]


def _profile(path: Path) -> Facts:
    profile = SkipProfile.load(path)
    return {
        "backbone": profile.backbone.plugin,
        "checkpoint": profile.backbone.checkpoint,
        "fingerprint": profile.backbone.fingerprint,
        "suite": profile.suite,
        "samples": profile.samples,
        "num_layers": profile.backbone.num_layers,
        "static_layers": list(profile.static_layers),
        "hash": profile.hash,
        "made_with": profile.made_with.command,
    }


def _bundle(path: Path) -> Facts:
    bundle = load_bundle(path if path.is_dir() else path.parent)
    header, training = bundle.header, bundle.header.training
    return {
        "backbone": header.plugin,
        "checkpoint": header.checkpoint,
        "fingerprint": header.backbone_fingerprint,
        "profile_hash": header.profile_hash,
        "static_layers": list(header.static_layers),
        "method": training.method,
        "stage": training.stage,
        "steps": training.steps,
        "parameters": sum(tensor.numel() for tensor in bundle.tensors.values()),
        **bundle.settings.facts(),
        "calibration": None if bundle.calibration is None else bundle.calibration.rule,
        "made_with": header.made_with.command,
    }


def _run(path: Path) -> Facts:
    run = RunDirectory(path)
    manifest = run.manifest()
    facts: Facts = {"backbone": manifest.backbone, "checkpoint": manifest.checkpoint, "suite": manifest.suite}
    if run.skip_profile.exists():
        profile = SkipProfile.load(run.skip_profile)
        facts["static_layers"] = list(profile.static_layers)
        for bundle in run.bundles():
            check_belongs(load_bundle(bundle).header, profile, bundle)
            facts[f"bundle_{bundle.name}"] = str(bundle)
    for log in sorted(path.glob("eval/*/episodes.jsonl")):
        facts[f"episodes_{log.parent.name}"] = _episodes(log)["episodes"]
    return facts


def _episodes(path: Path) -> Facts:
    log = path / "episodes.jsonl" if path.is_dir() else path
    records = [EpisodeRecord.of(row, log) for row in read_jsonl(log)]
    if not records:
        raise ArtifactError(f"{log} holds no episode")
    return {
        "suite": records[0].suite,
        "split": records[0].split,
        "episodes": len({record.index for record in records}),
        "successes": dict(Counter(record.method for record in records if record.success)),
        "finished": dict(Counter(record.method for record in records if record.done)),
        "errors": sum(not record.done for record in records),
    }


def _result(path: Path) -> Facts:
    content = read_json(path)
    if not str(content["schema"]).endswith(RESULT_VERSION):
        raise ArtifactError(
            f"{path}: expected a result of version {RESULT_VERSION}, found schema '{content['schema']}'",
            hint="another version of dyslctl wrote it",
        )
    return {key: value for key, value in content.items() if key != "schema" and not isinstance(value, dict | list)}


def _checkpoint(path: Path) -> Facts | None:
    """Of the first installed backbone that knows it as its checkpoint and loads it, strictly; ``None``: none knows it.

    A backbone that does not import might have known it. That is said where another one does, or it looks like weights.

    Raises:
        ArtifactError: If none loads it, with what each of them found wrong.
    """
    missing, refusals = dict[str, DyslctlError](), dict[str, DyslctlError]()
    for name in plugins.names(plugins.BACKBONES):
        try:
            plugin = plugins.load_backbone(name)
        except DyslctlError as error:
            missing[name] = error
            continue
        try:
            if (checkpoint := plugin.checkpoint_at(path)) is not None:
                # Half the memory of what it would run in here; every tensor is read and checked all the same.
                return {"backbone": name, **_sizes(plugin.load(checkpoint, dtype=torch.bfloat16))}
        except DyslctlError as error:
            refusals[name] = error
    if not refusals and not (missing and _looks_like_weights(path)):
        return None
    wrong = {**refusals, **missing}
    reasons = [f"  {name}: {error.message}" for name, error in wrong.items()]
    hints = dict.fromkeys(error.hint for error in wrong.values() if error.hint is not None)
    raise ArtifactError(f"no installed backbone loads {path}:\n" + "\n".join(reasons), "; ".join(hints) or None)


def _looks_like_weights(path: Path) -> bool:
    """By the names of files alone."""
    files = path.iterdir() if path.is_dir() else [path]
    return any(file.name == "config.json" or file.suffix in WEIGHT_SUFFIXES for file in files)


def _sizes(backbone: Backbone) -> Facts:
    spec, workload = backbone.spec, backbone.workload()
    return {
        "fingerprint": spec.fingerprint,
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "chunk_length": spec.chunk_length,
        "action_dim": spec.action_dim,
        "views": list(spec.views),
        "proprio_dim": spec.proprio_dim,
        "tokens": workload.tokens,
        "layer_parameters": workload.layer_params,
        "encode_parameters": workload.encode_params,
        "head_parameters": workload.head_params,
    }


_READERS: dict[str, tuple[str, Callable[[Path], Facts]]] = {
    "dyslctl.skip-profile": ("skip profile", _profile),
    "dyslctl.bundle": ("bundle", _bundle),
    "dyslctl.bundle-settings": ("bundle", _bundle),
    "dyslctl.run": ("run directory", _run),
    "dyslctl.episodes": ("evaluation", _episodes),
    EPISODES: ("episode log", _episodes),
    **{f"dyslctl.{name}": (f"{name} result", _result) for name in (*RESULTS, "curve", "behaviour")},
}
