"""The kit a plugin author runs: does my backbone, or my task suite, keep its contract?

In a plugin's own tests::

    def test_contract() -> None:
        backbone = MyBackbone.load(MyBackbone.default_checkpoint())
        check_backbone(backbone, observations)  # PluginError lists every broken rule, and what to change
"""

from dyslctl.testing.backbone import check_backbone
from dyslctl.testing.report import CheckReport, CheckResult
from dyslctl.testing.suite import check_suite

__all__ = ["CheckReport", "CheckResult", "check_backbone", "check_suite"]
