from __future__ import annotations

from typing import Any

import pytest

from dyslctl.artifacts.bundle_parts import Section
from dyslctl.artifacts.bundle_settings import BundleSettings, Consistency, Exits, Mixture, Routing
from dyslctl.artifacts.skip_profile import Guidance

FITTED = Guidance(eta_1=-0.5, eta_2=0.25)


@pytest.mark.parametrize(
    ("section", "dial", "facts", "said"),
    [
        (Exits(tolerance=1.0), -2.0, {"tolerance": -2.0}, "log tolerance -2"),
        (Routing(tau=0.5, lenience=3.0), 1.5, {"tau": 0.5, "lenience": 1.5}, "tau = 0.5, lenience = 1.5"),
        (Consistency(), -0.25, {"share": 0.25}, "0.25 of the layers on held-out states"),
        (Mixture(share=1.0), -0.5, {"share": 0.5}, "0.5 of the layers"),
        (
            FITTED.turned(3.0),
            1.5,
            {"eta_1": -0.5, "eta_2": 0.25, "tau": 0.5, "lenience": 1.5},
            "eta_1 = -0.5, eta_2 = 0.25, tau = 0.5, lenience = 1.5, k = 5",
        ),
    ],
)
def test_a_section_with_its_dial_wherever_it_stood(
    section: Section, dial: float, facts: dict[str, Any], said: str
) -> None:
    turned = section.turned(dial)
    assert type(turned) is type(section)
    assert (turned.facts(), turned.calibrated_to()) == (facts, said)


@pytest.mark.parametrize("section", [Exits(), Routing(), Consistency(), Mixture(share=0.5), FITTED])
def test_a_section_stands_under_its_own_key(section: Section) -> None:
    settings = BundleSettings.of("0" * 64, section, None)
    assert getattr(settings, section.KEY) is settings.section is section


def test_what_is_not_calibrated_says_so() -> None:
    assert Exits().calibrated_to() == Guidance().calibrated_to() == "not calibrated yet"
