"""``profiles/openvla-oft-mini-tabletop.yaml`` belongs to the checkpoint that ships with the plugin."""

from __future__ import annotations

from pathlib import Path

from dyslctl_openvla_oft import OpenVLAOFT

from dyslctl.artifacts.skip_profile import SkipProfile

PROFILE = Path(__file__).parents[3] / "profiles" / "openvla-oft-mini-tabletop.yaml"


def test_it_loads_and_belongs_to_the_embedded_checkpoint() -> None:
    profile = SkipProfile.load(PROFILE)
    profile.check_backbone(OpenVLAOFT.load(OpenVLAOFT.default_checkpoint()).spec)
    # Layers 0 and 11 are forced; of the others the two least similar are chosen.
    inner = sorted(range(1, 11), key=lambda layer: profile.similarity.cosine[layer])
    assert profile.static_layers == tuple(sorted({0, 11, *inner[:2]}))
