"""RoboFlamingo as a dyslctl backbone."""

from dyslctl_roboflamingo.backbone import RoboFlamingo

__all__ = ["RoboFlamingo"]
