"""Does this machine paint the reference machine's picture? Other MuJoCo versions light the scenes differently."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from dyslctl.errors import EnvironmentMismatch
from dyslctl_libero import assets
from dyslctl_libero.installation import prepare
from dyslctl_libero.settings import SETUP, Settings
from dyslctl_libero.simulator import SNAPSHOT, Simulator
from dyslctl_libero.snapshot import Painter
from dyslctl_libero.tasks import SuiteName, episode

Means = tuple[float, ...]

REFERENCES: Mapping[str, Mapping[SuiteName, Means]] = {
    "fe6ea15fa1c2": {
        "libero_spatial": (126.9, 118.8, 109.9, 132.6, 123.2, 113.2),
        "libero_object": (141.7, 134.4, 127.6, 143.3, 136.8, 130.7),
        "libero_goal": (127.4, 118.4, 108.5, 125.8, 115.0, 104.3),
        "libero_10": (77.9, 60.0, 50.2, 76.3, 58.2, 49.5),
    },
}
"""Fingerprint of the scene files -> suite -> mean red, green and blue (0 to 255) of both views, third person first, of
the first ``tune`` episode's first picture: ``exact``, 256 pixels, OSMesa, mujoco 3.3.2."""

TOLERANCE = 1.5
"""Levels. Graphics drivers differ by less, MuJoCo 3.3.3's lighting by forty."""


@cache
def identity(suite: SuiteName, settings: Settings) -> dict[str, Any]:
    """What results of ``suite`` depend on beside the policy; kept with them, and compared before they are resumed.

    Raises:
        EnvironmentMismatch: If this machine paints another golden frame than the reference machine did.
        NotInstalled: If the simulator is not complete.
    """
    installation = prepare(settings)
    scene_files = assets.fingerprint(installation.assets)
    means = frame_means(suite, settings)
    reference = REFERENCES.get(scene_files, {}).get(suite)
    if reference is not None:
        compare(suite, means, reference)
    return {
        **installation.versions,
        "graphics": installation.graphics,
        "renderer": settings.renderer,
        "image_size": settings.image_size,
        "scene_files": scene_files,
        "golden_frame": "reproduced" if reference is not None else "no reference for these scene files",
        "golden_frame_means": list(means),
    }


def frame_means(suite: SuiteName, settings: Settings) -> Means:
    """``[6]`` mean colours of both views of the golden frame, to a tenth of a level."""
    spec = episode(suite, "tune", 0)
    scene = Simulator(prepare(settings), suite, spec.task)
    painter = Painter(scene.model, "exact", 256)
    try:
        scene.begin_seeded(spec.seed)
        means = np.concatenate([view.mean((0, 1)) for view in painter.paint(scene.observed[SNAPSHOT])])
    finally:
        painter.close()
        scene.close()
    return tuple(np.round(means, 1).tolist())


def compare(suite: SuiteName, found: Means, reference: Means) -> None:
    """Refuse a picture of other colours.

    Raises:
        EnvironmentMismatch: If a mean differs by more than :data:`TOLERANCE`.
    """
    worst = max(abs(a - b) for a, b in zip(found, reference, strict=True))
    if worst > TOLERANCE:
        raise EnvironmentMismatch(
            f"{suite}: the golden frame's mean colours differ by up to {worst:.1f} levels from the reference picture: "
            f"expected {list(reference)}, found {list(found)}",
            hint=f"{SETUP} installs the versions that reproduce it",
        )
