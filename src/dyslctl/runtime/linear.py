"""Matrix products of one fixed weight: laid out once for the kernel that reads it at every inference.

Three ways, all :data:`~dyslctl.backbone.PackLinear`. Which one is faster depends on the library that torch brings:
MKL's float32 product is slow on AMD, where oneDNN's, on its own layout, takes half the time; on Intel it is the faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dyslctl.backbone import Linear, PackLinear
from dyslctl.errors import EnvironmentMismatch


def plain(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """``F.linear``: the bits of the upstream layer."""
    return partial(_plain, weight.contiguous(), bias)


def onednn(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """``weight`` ``[out, in]`` in oneDNN's own layout, on the CPU. Equal to :func:`plain` but for the order of sums.

    Raises:
        EnvironmentMismatch: If this build of torch cannot do it: see :func:`best`.
    """
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        product = torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError) as error:
        raise EnvironmentMismatch(f"expected oneDNN's packed products of {weight.dtype}, found: {error}") from error
    return partial(_onednn, product, packed, bias)


def int8(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """Dynamic quantisation: int8 weights with a scale for each output, uint8 inputs with a scale for each sample.

    ``y = s_out s_x (W_q (x_q - z)) + b``, with ``s_out = max |W_out| / 127`` and ``x_q``'s range that of the sample:
    what is beside it in a batch changes nothing.

    Raises:
        EnvironmentMismatch: If this build of torch has no quantised products.
    """
    try:
        packed = _quantised(weight.float(), None if bias is None else bias.float())
        return partial(_int8, torch.ops.quantized.linear_dynamic, packed, _saturates())
    except (AttributeError, RuntimeError) as error:
        hint = "--set model.backend=packed"
        raise EnvironmentMismatch(f"expected quantised products, found: {error}", hint) from error


def best(dtype: torch.dtype) -> PackLinear:
    """:func:`onednn` where it is there for ``dtype``, gives the right product and MKL's is not faster; else plain.

    A rule and not a stopwatch: the same machine must give the same bits every time.
    """
    if dtype == torch.float32 and _mkl_at_home():
        return plain
    return onednn if _agrees(onednn, dtype) else plain


@cache
def _mkl_at_home(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether float32 products are MKL's, on a CPU of the same maker."""
    mkl = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
    return mkl and cpuinfo.is_file() and "GenuineIntel" in cpuinfo.read_text()


@cache
def _agrees(pack: PackLinear, dtype: torch.dtype) -> bool:
    """Whether ``pack`` works here: private operators may be gone in the next torch, or lack a kernel for this CPU."""
    weight = torch.linspace(-1, 1, 64 * 32).reshape(64, 32).sin().to(dtype)
    seen = torch.linspace(-1, 1, 3 * 32).reshape(1, 3, 32).to(dtype)
    try:
        with torch.inference_mode():
            found = pack(weight, weight[:, 0].contiguous())(seen)
    except (EnvironmentMismatch, RuntimeError):
        return False
    expected = F.linear(seen.float(), weight.float(), weight[:, 0].float())
    return bool((found.float() - expected).abs().max() <= 8 * torch.finfo(dtype).eps * expected.abs().max())


@cache
def _saturates() -> bool:
    """Whether 8-bit sums overflow: without VNNI pairs are added in 16 bits, and inputs must do with 7 bits."""
    ones = torch.ones(16, 64)
    found = torch.ops.quantized.linear_dynamic(ones, _quantised(ones, None), False)
    return bool((found - 64).abs().max() > 1)


def _quantised(weight: Tensor, bias: Tensor | None) -> object:
    scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():
        # From torch 2.13 on such tensors are deprecated; the product still has no successor that takes float inputs.
        warnings.filterwarnings("ignore", ".*deprecated.*", UserWarning)
        tensor = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(tensor, bias)


# Functions of all they need, bound by ``partial``: a call costs a fraction of a microsecond, and nothing is looked up.


def _plain(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return F.linear(x, weight, bias)


def _onednn(product: Callable[..., Tensor], packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return product(x, packed, bias, "none", [], "")


def _int8(product: Callable[..., Tensor], packed: object, reduced: bool, x: Tensor) -> Tensor:
    if len(x) == 1:
        return product(x.float(), packed, reduced).to(x.dtype)
    return torch.cat([product(sample, packed, reduced) for sample in torch.split(x.float(), 1)]).to(x.dtype)
