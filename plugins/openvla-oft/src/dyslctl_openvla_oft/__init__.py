"""OpenVLA-OFT and OpenVLA as dyslctl backbones."""

from dyslctl_openvla_oft.backbone import OpenVLAOFT
from dyslctl_openvla_oft.openvla import OpenVLA

__all__ = ["OpenVLA", "OpenVLAOFT"]
