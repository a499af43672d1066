from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dyslctl.pruning.depth import count, depth, depths


def test_a_model_of_32_layers_and_views_of_256_are_as_published() -> None:
    assert depths((10, 15, 20, 25, 32), 32) == (10, 15, 20, 25, 32)
    assert [count(0.8 * base, 256) for base in (30, 24, 40, 20, 10)] == [24, 19, 32, 16, 8]


def test_others_are_scaled() -> None:
    """10 / 32 of 12 is 3.75, 15 / 32 is 5.6; of 4 layers 2 and 3 fall on one."""
    assert depths((10, 15, 25, 32), 12) == (4, 6, 9, 12)
    assert depths((2, 6, 15), 4) == (1, 2)
    assert [count(base, 16) for base in (0.1, 8, 24, 300)] == [1, 1, 2, 16]


@given(st.integers(1, 32), st.integers(1, 100))
def test_a_depth_is_a_depth(layers: int, num_layers: int) -> None:
    assert 1 <= depth(layers, num_layers) <= num_layers
