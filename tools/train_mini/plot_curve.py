"""``curve.jsonl`` -> ``curve.png``, both beside this file or in the folder given as argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib import pyplot as plt

SUITES = ("object", "spatial", "chain")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    figure, (loss, success) = plt.subplots(1, 2, figsize=(9, 3))
    steps = [row["step"] for row in rows]
    loss.plot(steps, [row["action_loss"] for row in rows], label="action loss (weighted L1)")
    loss.plot(steps, [row["auxiliary_loss"] / 4 for row in rows], label="auxiliary losses / 4")
    loss.set(xlabel="step", ylabel="loss", yscale="log")
    for suite in SUITES:
        known = [(row["step"], 100 * row[f"success_{suite}"]) for row in rows if f"success_{suite}" in row]
        success.plot(*zip(*known, strict=True), "o-", markersize=3, label=f"tabletop_{suite}")
    success.set(xlabel="step", ylabel="% of episodes solved\nwhile making data")
    for axes in (loss, success):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "curve.png", dpi=110)


if __name__ == "__main__":
    main()
