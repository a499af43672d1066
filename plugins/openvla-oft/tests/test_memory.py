"""Peak memory of loading, as the kernel counts it (``VmHWM``): anonymous memory and mapped pages of files alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dyslctl_openvla_oft.random_checkpoint import published_config, write_random_checkpoint

STATUS = Path("/proc/self/status")
SHARD = 16_000_000
MEASURE = """
import sys, torch
from pathlib import Path
from dyslctl_openvla_oft.checkpoint import read_checkpoint
from dyslctl_openvla_oft.weights import load_model

def kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

large, small = (read_checkpoint(Path(folder)) for folder in sys.argv[1:3])
for dtype in (torch.bfloat16, torch.float32):
    load_model(small.folder, small.config, dtype=dtype)  # whatever is imported or allocated once
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = kib("VmRSS")
    model = load_model(large.folder, large.config, dtype=dtype)
    print(1024 * (kib("VmHWM") - before), sum(parameter.nbytes for parameter in model.parameters()))
    del model
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """About 120 MB in shards of 16 MB, and a small checkpoint to warm up with."""
    root, config = tmp_path_factory.mktemp("memory"), published_config("tiny")
    sizes = {**config.text_config, "hidden_size": 64, "intermediate_size": 8192, "num_hidden_layers": 36}
    large = config.model_copy(update={"text_config": sizes})
    write_random_checkpoint(root / "large", large, values="zeros", max_shard_size=SHARD)
    write_random_checkpoint(root / "small", config, values="zeros")
    return [str(root / "large"), str(root / "small")]


@pytest.mark.skipif(not STATUS.exists(), reason="reads Linux's /proc")
def test_loading_needs_the_model_and_at_most_a_quarter_more_than_a_shard(folders: list[str]) -> None:
    """Holding the checkpoint twice would be six times what is allowed."""
    result = subprocess.run([sys.executable, "-c", MEASURE, *folders], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    measured = [tuple(map(int, line.split())) for line in result.stdout.splitlines()]
    assert len(measured) == 2
    for peak, model in measured:
        assert model > 7 * SHARD
        assert peak - model <= 1.25 * SHARD
