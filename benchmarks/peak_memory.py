"""Peak memory of a process that loads a checkpoint, packs it and runs it: ``runtime.py`` starts one.

    python benchmarks/peak_memory.py                      # the mini backbone that comes with the plugin
    python benchmarks/peak_memory.py CHECKPOINT bfloat16

Prints the bytes of weights and adapters, and the peak above what the process held before. Pages of a mapped file do not
count: the system may drop them at any time.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import torch
from dyslctl_openvla_oft import OpenVLAOFT
from runtime import anonymous, seen
from skip_efficiency import even_partition, skipping

from dyslctl.dysl.skip_modules import SkipSizes
from dyslctl.engine import forward
from dyslctl.jobs.recipe import BackboneRecipe
from dyslctl.runtime.packed import PACKED
from dyslctl.types import LayerState


class Watch(threading.Thread):
    """The highest of what is looked at every millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = anonymous()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.001)


def bytes_of(checkpoint: Path | str, dtype: torch.dtype) -> int:
    """Weights and adapters; read from names and shapes alone."""
    loaded = OpenVLAOFT.load(checkpoint, device="meta", dtype=dtype)
    partition = even_partition(loaded.spec.num_layers)
    adapters = SkipSizes.mini(loaded.spec.hidden_size).parameters(len(partition.dynamic_layers))
    return dtype.itemsize * (adapters + sum(parameter.numel() for parameter in loaded.model.parameters()))


@torch.inference_mode()
def main() -> None:
    checkpoint, dtype = sys.argv[1:] or (OpenVLAOFT.default_checkpoint(), "float32")
    torch.set_num_threads(1)
    seen(OpenVLAOFT.load(OpenVLAOFT.default_checkpoint()), 126)  # what is loaded once, whatever the model
    weights = bytes_of(checkpoint, getattr(torch, dtype))
    watch = Watch()
    watch.start()
    ours = BackboneRecipe("openvla-oft", str(checkpoint), dtype=dtype, backend=PACKED).load()
    partition = even_partition(ours.spec.num_layers)
    forward(ours, LayerState.of(seen(ours, 126)), skipping(ours, partition, 2))
    print(weights, watch.peak - watch.before)


if __name__ == "__main__":
    main()
