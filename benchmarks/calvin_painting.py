"""What CALVIN's pictures cost: renderers and sizes, interleaved on one scene.

    python benchmarks/calvin_painting.py --rounds 20

Processor time of both cameras' pictures of one snapshot, milliseconds. Needs the simulator (``make calvin``).
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from dyslctl_calvin.installation import prepare
from dyslctl_calvin.settings import Look, Settings
from dyslctl_calvin.snapshot import Painter, take
from dyslctl_calvin.suite import CalvinD
from rich.console import Console
from rich.table import Table

from dyslctl.errors import DyslctlError

LOOKS = (Look(), Look("fast"), Look("fast", 112), Look("fast", 84))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    suite = CalvinD()
    try:
        installation = prepare(Settings.of())
    except DyslctlError as error:
        print(f"left out: {error.message}; {error.hint}")
        return
    environment = suite.make()
    environment.reset(suite.episodes("train", 1)[0])
    shown = take(environment.simulator.env)
    painters = {look: Painter(installation, "D", look) for look in LOOKS}
    times: dict[Look, list[float]] = {look: [] for look in LOOKS}
    for round_ in range(rounds + 1):
        for look, painter in painters.items():
            taken = _milliseconds(painter, shown)
            times[look] += [taken] if round_ else []  # the first picture also makes the world
    table = Table("renderer", "side", "ms, median", "fastest", "of the default")
    base = statistics.median(times[LOOKS[0]])
    for look, found in times.items():
        middle = statistics.median(found)
        table.add_row(look.renderer, str(look.image_size), f"{middle:.1f}", f"{min(found):.1f}", f"{middle / base:.2f}")
    Console().print(table)


def _milliseconds(painter: Painter, shown: np.ndarray) -> float:
    begun = time.process_time()
    painter.paint(shown)
    return 1e3 * (time.process_time() - begun)


if __name__ == "__main__":
    main()
