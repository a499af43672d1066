"""The hash, against values of pyhash 0.9.3, and by hand."""

from __future__ import annotations

import pytest
from dyslctl_calvin.fnv import MASK, PRIME, fnv1_32
from hypothesis import given
from hypothesis import strategies as st


def test_by_hand() -> None:
    """'a' is the bytes 0x61 0x00 in UTF-16: (0 * p) ^ 0x61 = 0x61, then (0x61 * p) ^ 0, modulo 2^32."""
    assert fnv1_32("") == 0
    assert fnv1_32("a") == 0x61 * PRIME % 2**32 == 1627429043


@pytest.mark.parametrize(("text", "value"), [("dict_values([])", 1383483718)])
def test_longer(text: str, value: int) -> None:
    assert fnv1_32(text) == value


@given(st.text(st.characters(exclude_categories=["Cs"])), st.characters(exclude_categories=["Cs"]))
def test_one_character_more_is_two_rounds_more_or_four(text: str, more: str) -> None:
    value = fnv1_32(text)
    for byte in more.encode("utf-16-le"):
        value = (value * PRIME) % 2**32 ^ byte
    assert fnv1_32(text + more) == value <= MASK
