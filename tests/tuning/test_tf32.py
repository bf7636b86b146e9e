"""Whether float32 may be rounded on a GPU: as torch says of its own convolutions, at every call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from crossd_ops.tuning import choice

pytestmark = pytest.mark.usefixtures("compiled_library")
CONV, PRODUCTS = torch.backends.cudnn.conv, torch.backends.cuda.matmul
PLACE = (1, 1, 1, 1)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = CONV.fp32_precision, PRODUCTS.allow_tf32
    yield
    CONV.fp32_precision, PRODUCTS.allow_tf32 = before
    torch.ops.crossd_ops.allow_tf32(True, False)


def tensors(dtype: torch.dtype, channels: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """A problem in which tiles win."""
    input = torch.randn(32, channels, 14, 14).to(dtype).contiguous(memory_format=torch.channels_last)
    return input, torch.randn(64, channels, 3, 3, 3), torch.randn(32, 3)


def explained(dtype: torch.dtype, channels: int = 64) -> choice.Choice:
    return choice.explain(*tensors(dtype, channels), PLACE, backward=False, on_gpu=True)


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_float32_goes_to_tiles_where_torch_rounds_it(precision: str) -> None:
    CONV.fp32_precision = precision
    found = explained(torch.float32)
    assert ("tiles" in found.possible) is (found.method == "tiles") is (precision == "tf32")
    assert found.method in ("tiles", "matrix")
    half, double = explained(torch.bfloat16), explained(torch.float64)
    assert "tiles" in half.possible and "tiles" not in double.possible


def test_what_was_measured_with_rounding_is_not_for_calls_without() -> None:
    found = explained(torch.float32)
    choice.set_method(found.key, "tiles")
    try:
        assert explained(torch.float32).why == "measured"
        CONV.fp32_precision = "ieee"
        assert explained(torch.float32).method == "matrix" and explained(torch.float32).key != found.key
    finally:
        choice.set_method(found.key, None)


ALL = {"grouped", "matrix", "tiles", "shared"}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("convolutions", "products", "possible"),
    [
        (True, True, ALL),
        (True, False, ALL),  # columns are multiplied in tiles
        (False, False, ALL - {"tiles"}),
        (False, True, ALL - {"tiles", "matrix"}),
    ],
)
def test_float32_is_never_rounded_where_convolutions_may_not(
    convolutions: bool, products: bool, possible: set[str], backward: bool
) -> None:
    CONV.fp32_precision, PRODUCTS.allow_tf32 = "tf32" if convolutions else "ieee", products
    for dtype, expected in ((torch.float32, possible), (torch.bfloat16, ALL), (torch.float64, ALL - {"tiles"})):
        found = choice.explain(*tensors(dtype), PLACE, backward=backward, on_gpu=True)
        assert set(found.possible) == expected and found.method in expected
    assert "matrix" in choice.explain(*tensors(torch.float32), PLACE, backward=backward).possible  # on the CPU
    input, kernels = torch.ones(2, 4, 5, 6, 7), torch.ones(2, 8, 4, 3, 3, 3)  # a volume's, of which no weight is there
    given = choice.explain(input, kernels, None, PLACE, backward=backward, on_gpu=True)
    assert given.possible == (["grouped"] if products and not convolutions else ["grouped", "matrix"])
    assert given.method in given.possible


def test_what_was_measured_with_matrices_is_not_for_calls_that_must_not_have_them() -> None:
    CONV.fp32_precision = "ieee"
    found = explained(torch.float32)
    choice.set_method(found.key, "matrix")
    try:
        PRODUCTS.allow_tf32 = True
        assert explained(torch.float32).method != "matrix" and explained(torch.float32).why != "measured"
    finally:
        choice.set_method(found.key, None)


def test_vectors_of_float32_have_four_channels() -> None:
    """Others are padded, for more bytes."""

    def bytes_of_tiles(dtype: torch.dtype, channels: int) -> float:
        return explained(dtype, channels).costs["tiles"].bytes / dtype.itemsize / channels

    whole = bytes_of_tiles(torch.float32, 16)
    assert bytes_of_tiles(torch.float32, 12) < 1.2 * whole < bytes_of_tiles(torch.float32, 14)
    assert bytes_of_tiles(torch.bfloat16, 16) < 1.2 * whole < bytes_of_tiles(torch.bfloat16, 12)


@pytest.mark.parametrize("operator", ["convolution", "sample_convolution"])
def test_whoever_asks_for_sizes_tells_it(operator: str) -> None:
    """As torch.compile does, whose result calls the library itself."""
    input, weight, shift = tensors(torch.float32)
    arguments = (input, weight, shift) if operator == "convolution" else (input, weight.expand(32, -1, -1, -1, -1, -1))
    for precision in ("ieee", "tf32"):
        CONV.fp32_precision = precision
        with FakeTensorMode() as mode:
            fakes = [mode.from_tensor(tensor) for tensor in arguments]
            if operator == "sample_convolution":
                fakes[1] = fakes[1][..., 0]
            getattr(torch.ops.crossd_ops, operator)(*fakes, None, PLACE)
        found = torch.ops.crossd_ops.explain_convolution(input, weight, shift, PLACE, False, True)
        assert ('"chosen": "tiles"' in found) is (precision == "tf32")
