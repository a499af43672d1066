from __future__ import annotations

import pytest

from dyslctl.joint.importance import Importance, judge

FINE, COARSE = "fine", "coarse"


@pytest.mark.parametrize(
    ("mode", "alarmed", "independent", "or_", "and_"),
    [
        ("fine", True, FINE, FINE, FINE),
        ("fine", False, FINE, FINE, COARSE),
        ("coarse", True, COARSE, FINE, COARSE),
        ("coarse", False, COARSE, COARSE, COARSE),
    ],
)
def test_both_sides_hear_the_same(mode: str, alarmed: bool, independent: str, or_: str, and_: str) -> None:
    assert judge("independent", mode, alarmed) == Importance(independent, None)  # type: ignore[arg-type]
    assert judge("or", mode, alarmed) == Importance(or_, or_ == "fine")  # type: ignore[arg-type]
    assert judge("and", mode, alarmed) == Importance(and_, and_ == "fine")  # type: ignore[arg-type]
