"""``curve.jsonl`` -> ``curve.png``, both beside this file or in the folder given as argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

LOSSES = {
    "action_loss": ("action loss", 1),
    "held_out_loss": ("action loss, held-out episodes", 1),
    "pose_loss": ("pose loss", 1),
    "held_out_pose": ("mean pose error, held-out episodes", 1),
    "auxiliary_loss": ("auxiliary losses / 4", 4),
}
SUCCESS = "success_"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    suites = sorted({name for row in rows for name in row if name.startswith(SUCCESS)})
    figure, axes = plt.subplots(1, 2 if suites else 1, figsize=(9 if suites else 5, 3), squeeze=False)
    loss, *success = axes[0]
    for name, (label, scale) in LOSSES.items():
        _draw(loss, rows, name, label, 1 / scale)
    loss.set(xlabel="step", ylabel="loss", yscale="log")
    for axis in success:
        for name in suites:
            _draw(axis, rows, name, f"tabletop_{name.removeprefix(SUCCESS)}", 100, marker="o", markersize=3)
        axis.set(xlabel="step", ylabel="% of episodes solved\nwhile making data")
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "curve.png", dpi=110)


def _draw(axis: Axes, rows: list[dict[str, float]], name: str, label: str, scale: float, **style: Any) -> None:
    known = [(row["step"], scale * row[name]) for row in rows if name in row]
    if known:
        axis.plot(*zip(*known, strict=True), label=label, **style)


if __name__ == "__main__":
    main()
