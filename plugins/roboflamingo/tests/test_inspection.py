"""``dyslctl inspect`` on a checkpoint: the folder, or any file of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dyslctl_roboflamingo.config import SETTINGS
from typer.testing import CliRunner, Result

from dyslctl.cli import app


def inspect(path: Path) -> Result:
    return CliRunner().invoke(app, ["inspect", str(path), "--json"])


def refused(path: Path) -> str:
    """What is said of ``path``, which is not whole, on one line."""
    result = inspect(path)
    assert result.exit_code == 4
    return " ".join(result.stderr.split())


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(file, weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, file)


@pytest.mark.parametrize("name", [".", SETTINGS, "checkpoint.pth", "clip.pth"])
def test_what_it_is_and_how_large(folder: Path, name: str) -> None:
    found = json.loads(inspect(folder / name).stdout)
    assert (found["kind"], found["backbone"], found["valid"]) == ("backbone checkpoint", "roboflamingo", True)
    sizes = ("num_layers", "hidden_size", "chunk_length", "action_dim")
    assert tuple(found[size] for size in sizes) == (7, 32, 1, 7)
    # LSTM 4 x 20 (32 + 20 + 2) and 4 x 20 (20 + 20 + 2), then two MLPs 20-24-16-12-n with n = 6 and 1, and biases.
    assert found["head_parameters"] == 4320 + 3360 + 2 * (504 + 400 + 204) + 13 * 7


def test_every_unexplained_key_is_listed(write: Callable[[], Path]) -> None:
    folder = write()
    changed(folder / "checkpoint.pth", lambda state: state.pop("module.lm_head.gripper.mlp.0.bias"))
    changed(folder / "checkpoint.pth", lambda state: state.update({"module.extra.weight": torch.zeros(2)}))
    for path in (folder, folder / "checkpoint.pth"):
        said = refused(path)
        assert "roboflamingo: " in said and "2 tensors are not what roboflamingo.yaml asks for" in said
        assert "unexpected: module.extra.weight" in said and "missing: lm_head.gripper.mlp.0.bias" in said


def test_a_released_file_by_itself_lacks_its_settings(write: Callable[[], Path]) -> None:
    folder = write()
    (folder / SETTINGS).unlink()
    said = refused(folder / "checkpoint.pth")
    assert f"{SETTINGS}" in said and "hint: python -m dyslctl_roboflamingo settings" in said


def test_weights_that_the_settings_do_not_name(write: Callable[[], Path]) -> None:
    folder = write()
    (folder / "later.pth").write_bytes((folder / "checkpoint.pth").read_bytes())
    said = refused(folder / "later.pth")
    assert f"{SETTINGS} names other files than later.pth: clip.pth, checkpoint.pth" in said
    assert "hint: name it there, under files, or put it into a folder" in said


def test_damaged_settings_and_damaged_weights(write: Callable[[], Path]) -> None:
    folder = write()
    weights = folder / "checkpoint.pth"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is damaged" in refused(weights)
    (folder / SETTINGS).write_text("schema: dyslctl.roboflamingo/1\nfiles: {policy: checkpoint.pth}\nhed: {}\n")
    assert "Did you mean 'head'?" in refused(folder)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, {"model_state_dict": torch.zeros(2)}, torch.zeros(2)])
def test_other_files_of_torch_are_nobodys(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert "is no artifact of dyslctl" in refused(tmp_path / "other.pth")
