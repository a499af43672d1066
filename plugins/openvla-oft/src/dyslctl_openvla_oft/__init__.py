"""OpenVLA-OFT as a dyslctl backbone."""

from dyslctl_openvla_oft.backbone import OpenVLAOFT

__all__ = ["OpenVLAOFT"]
