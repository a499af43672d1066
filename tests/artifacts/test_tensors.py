from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dyslctl.artifacts.tensors import is_finite, save_tensors


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    save_tensors({"w": torch.arange(3.0)}, tmp_path / "w.safetensors", {"of": "a test"})
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.get_tensor("w").tolist() == [0, 1, 2] and file.metadata() == {"of": "a test"}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_not_finite(value: float) -> None:
    tensor = torch.zeros(2, 3)
    assert is_finite(tensor)
    tensor[1, 2] = value
    assert not is_finite(tensor)


def test_nothing_is_finite() -> None:
    assert is_finite(torch.empty(0)) and is_finite(torch.empty(3, device="meta"))


def test_a_full_disk(tmp_path: Path) -> None:
    """The real limit of a subprocess: what safetensors reports must come out as the machine's fault, and clear."""
    script = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from dyslctl.artifacts.files import atomic_folder\n"
        "from dyslctl.artifacts.tensors import save_tensors\n"
        "from dyslctl.errors import EnvironmentMismatch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "try:\n"
        "    with atomic_folder(Path(sys.argv[1])) as new:\n"
        "        save_tensors({'w': torch.zeros(4096)}, new / 'w.safetensors', {})\n"
        "except EnvironmentMismatch as error: sys.exit(error.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "bundle")], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert not list(tmp_path.iterdir())
