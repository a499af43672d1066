from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import EnvironmentMismatch
from dyslctl.runtime import linear


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    linear._agrees.cache_clear()
    linear._saturates.cache_clear()
    monkeypatch.setattr(linear, "_mkl_at_home", lambda: False)


@given(
    out=st.integers(1, 40),
    inner=st.integers(1, 40),
    tokens=st.integers(1, 20),
    biased=st.booleans(),
    seed=st.integers(0),
)
def test_packed_products_are_the_plain_ones(out: int, inner: int, tokens: int, biased: bool, seed: int) -> None:
    """At any size, and at another number of tokens than the last."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    weight = torch.randn(out, inner, generator=generator)
    bias = torch.randn(out, generator=generator) if biased else None
    plain, packed = (pack(weight, bias) for pack in (linear.plain, linear.best(torch.float32)))
    for count in (tokens, 1):
        x = torch.randn(2, count, inner, generator=generator)
        assert torch.equal(plain(x), F.linear(x, weight, bias))
        torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-5)


def test_int8_by_hand() -> None:
    """Scales 2/127 and 1/127; of x, from -1 to 1 in 255 steps: -1 and 1 are exact up to the place of zero."""
    product = linear.int8(torch.tensor([[2.0, -2.0], [1.0, 0.0]]), torch.tensor([0.5, 0.0]))
    found = product(torch.tensor([[[1.0, -1.0], [0.0, 0.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[4.5, 1.0], [0.5, 0.0]]]), rtol=0, atol=0.02)


def test_int8_errs_by_a_step_of_its_scales_and_no_more() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(64, 128, generator=generator), torch.randn(1, 9, 128, generator=generator)
    weight[3] = 0  # a row without a scale
    exact, found = F.linear(x, weight), linear.int8(weight)(x)
    assert 1e-4 < float((found - exact).norm() / exact.norm()) < 0.02
    assert torch.equal(found[..., 3], torch.zeros(1, 9))


def test_int8_gives_a_sample_what_it_gives_it_alone() -> None:
    """Beside one that is twenty times as large."""
    generator = torch.Generator().manual_seed(0)
    product = linear.int8(torch.randn(8, 16, generator=generator))
    small, large = torch.randn(1, 3, 16, generator=generator), 20 * torch.randn(1, 3, 16, generator=generator)
    together = product(torch.cat([small, large]))
    assert torch.equal(together, torch.cat([product(small), product(large)]))


def test_int8_keeps_the_dtype_of_the_hidden_state() -> None:
    weight = torch.eye(4, dtype=torch.bfloat16)
    assert linear.int8(weight)(torch.ones(1, 2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_without_the_operator_products_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(f"no {name}")

    monkeypatch.setattr(torch.ops, "mkldnn", Gone())
    assert linear.best(torch.float32) is linear.plain
    with pytest.raises(
        EnvironmentMismatch, match=r"expected oneDNN's packed products of torch\.float32, found: no _reo"
    ):
        linear.onednn(torch.eye(2))
    monkeypatch.setattr(torch.ops, "quantized", Gone())
    with pytest.raises(EnvironmentMismatch, match="expected quantised products"):
        linear.int8(torch.eye(2))


@pytest.mark.parametrize(("vendor", "expected"), [("GenuineIntel", True), ("AuthenticAMD", False), (None, False)])
def test_mkl_is_at_home_on_intel_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vendor: str | None, expected: bool
) -> None:
    monkeypatch.undo()
    cpuinfo = tmp_path / "cpuinfo"
    if vendor is not None:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n", encoding="utf-8")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert linear._mkl_at_home(cpuinfo) is expected
    monkeypatch.setattr(linear, "_mkl_at_home", lambda: expected)
    assert (linear.best(torch.float32) is linear.plain) is (
        expected or not linear._agrees(linear.onednn, torch.float32)
    )


def test_an_operator_that_answers_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(weight: torch.Tensor, bias: torch.Tensor | None = None) -> object:
        return linear.plain(weight * 1.001, bias)

    monkeypatch.setattr(linear, "onednn", wrong)
    assert linear.best(torch.float32) is linear.plain


def test_without_vnni_inputs_do_with_seven_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of 255 * 127 are 64770: held at 32767, the sum of 64 ones would be about 32."""
    real, asked = torch.ops.quantized, list[bool]()

    class Overflowing:
        linear_prepack = real.linear_prepack

        @staticmethod
        def linear_dynamic(x: torch.Tensor, packed: object, reduced: bool) -> torch.Tensor:
            asked.append(reduced)
            exact: torch.Tensor = real.linear_dynamic(x, packed, reduced)
            return exact if reduced else exact / 2

    monkeypatch.setattr(torch.ops, "quantized", Overflowing)
    found = linear.int8(torch.ones(2, 64))(torch.ones(1, 3, 64))
    assert asked == [False, True]
    torch.testing.assert_close(found, torch.full((1, 3, 2), 64.0), rtol=0.02, atol=0)
