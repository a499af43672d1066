"""Finding a checkpoint. The Hub's cache is laid out by hand; nothing here asks the network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
import pytest
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.hub import EMBEDDED, Location, embedded, locate
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

from dyslctl.cli.workspace import begin
from dyslctl.errors import ArtifactError, ConfigError

Write = Callable[[], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ["model.safetensors.index.json", "action_head--150000_checkpoint.pt"]
THERE = [*FILES, "README.md", "optimizer.pt", "lora_adapter/adapter_config.json", "lora_adapter/a.safetensors"]


@pytest.fixture
def cached(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``owner/name`` as the Hub's cache holds it: branch ``main`` and tag ``v1`` at ``COMMIT``; no network."""
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(write(), snapshot)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def listing(*files: str) -> Callable[..., list[str]]:
    def list_repo_files(_: object, repository: str, *, revision: str | None) -> list[str]:
        assert repository == "owner/name"
        return [*FILES, *files]

    return list_repo_files


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert locate(tmp_path) == Location(tmp_path, None)
    assert locate(str(tmp_path)) == Location(tmp_path, None)
    with pytest.raises(ConfigError, match="has no revision 'main'"):
        locate(tmp_path, "main")


def test_a_bare_name_is_an_embedded_checkpoint_unless_a_folder_of_that_name_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "mini-tabletop" in embedded()
    assert locate("mini-tabletop") == Location(EMBEDDED / "mini-tabletop")
    with pytest.raises(ConfigError, match="no revision 'main'"):
        locate("mini-tabletop", "main")
    (tmp_path / "mini-tabletop").mkdir()
    assert locate("mini-tabletop") == Location(Path("mini-tabletop"))
    with pytest.raises(ArtifactError, match="mini-kitchen does not exist") as found:
        locate("mini-kitchen")
    assert "mini-tabletop" in str(found.value.hint)


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/a/b/c", "~/model", "a/b/c", "a@b/c", Path("a/b")])
def test_a_missing_folder(name: str | Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        locate(name)


@pytest.mark.parametrize("name", ["owner/name", "owner/name@v1", f"owner/name@{COMMIT}"])
def test_offline_the_cache_is_read_and_the_commit_recorded(cached: Path, name: str) -> None:
    assert locate(name) == Location(cached, COMMIT)


def test_the_commit_is_in_the_spec(cached: Path) -> None:
    assert OpenVLAOFT.load("owner/name").spec.commit == COMMIT
    assert OpenVLAOFT.load(cached).spec.commit is None


def test_a_run_keeps_the_commit(cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch may move; the run's manifest and configuration say where it stood."""
    monkeypatch.chdir(tmp_path)
    model = {"name": "openvla-oft", "checkpoint": "owner/name@v1"}
    workspace = begin(None, [("a test", {"model": model, "suite": "tabletop_object"})])
    workspace.start()
    manifest = workspace.run.manifest()
    assert (manifest.checkpoint, manifest.revision) == ("owner/name@v1", COMMIT)
    assert workspace.config.model.revision == COMMIT


@pytest.mark.parametrize("name", ["owner/name@v2", "owner/other"])
def test_offline_what_was_never_downloaded(cached: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=f"'{name}' is no folder here .* fetched from the Hub"):
        locate(name)


@pytest.mark.parametrize(
    ("name", "revision", "asked"),
    [("owner/name", None, None), ("owner/name@v2", None, "v2"), ("owner/name@refs/pr/3", None, "refs/pr/3"),
     ("owner/name", "v3", "v3"), ("owner/name@main", COMMIT, COMMIT)],
)  # fmt: skip
def test_only_what_is_read_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, revision: str | None, asked: str | None
) -> None:
    calls = []

    def download(
        repository: str, *, revision: str | None, allow_patterns: Sequence[str], ignore_patterns: Sequence[str]
    ) -> str:
        kept = filter_repo_objects(THERE, allow_patterns=list(allow_patterns), ignore_patterns=list(ignore_patterns))
        calls.append((repository, revision, list(kept)))
        return str(tmp_path / COMMIT)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate(name, revision) == Location(tmp_path / COMMIT, COMMIT)
    assert calls == [("owner/name", asked, FILES)]


def test_a_variant_is_refused_before_it_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing("vision_backbone--50000_checkpoint.pt"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(ArtifactError, match=r"owner/name: FiLM .* does not support"):
        locate("owner/name")


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    with pytest.raises(ArtifactError, match=r"'owner/name' is no folder here .* ConnectionError: Name or service") as e:
        locate("owner/name")
    assert e.value.hint is not None and "HF_HUB_OFFLINE=1" in e.value.hint
