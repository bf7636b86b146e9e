"""The rotation head on every backend, against the composite of torch operations in float64."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import crossd_ops
from crossd_ops.operators import backends
from crossd_ops.operators.rotation_head import composite, rotation_head

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ROTATIONS = ["linear", "exact"]
SIZES = [(1, 1), (1, 2), (3, 5), (7, 7), (9, 31), (33, 65), (112, 112)]
LARGEST_EMULATED = 33 * 65
LAYOUTS = ["contiguous", "channels last", "transposed", "sliced", "offset", "expanded", "gradient of a slice"]


@functools.cache
def _register_emulated() -> None:
    from emulator.build import why_not
    from emulator.rotation_head_harness import EmulatedRotationHead

    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    backends.register("emulated head", EmulatedRotationHead())


@pytest.fixture(params=["reference", "compiled", "emulated head"])
def head(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn, in force during the test; "emulated head" runs the CUDA kernels on the CPU."""
    if request.param == "emulated head":
        _register_emulated()
    elif request.param == "compiled":
        request.getfixturevalue("compiled_library")
    with crossd_ops.use_backend(request.param):
        yield request.param


def in_layout(map: Tensor, layout: str) -> Tensor:
    """The same shape and type in other strides; random where the elements do not fit."""
    samples, channels, height, width = map.shape
    if layout == "channels last":
        return map.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return map.mT.contiguous().mT
    if layout == "sliced":
        return torch.randn(samples, channels + 3, height + 2, width + 3).to(map.dtype)[:, 2:6, 1:-1, 2:-1]
    if layout == "gradient of a slice":  # channels last with a gap between samples
        return torch.randn(samples, height + 1, width, channels).to(map.dtype)[:, 1:].movedim(-1, 1)
    if layout == "offset":
        return torch.cat([map.new_zeros(1), map.flatten()])[1:].view(map.shape)
    return map[:1].expand_as(map) if layout == "expanded" else map


def shift_and_grad(function: object, map: Tensor, grad_shift: Tensor) -> tuple[Tensor, Tensor]:
    leaf = map.detach().requires_grad_()
    shift: Tensor = function(leaf)  # type: ignore[operator]
    return shift.detach(), torch.autograd.grad(shift, leaf, grad_shift.to(shift.dtype))[0]


def assert_agrees(map: Tensor, rotation: str) -> Tensor:
    """Shift and gradient are those of float64 within the rounding of the types; returns the gradient."""
    accumulate = torch.float64 if map.dtype is torch.float64 else torch.float32
    grad_shift = torch.randn(map.shape[0], 3, dtype=accumulate)
    expected, expected_grad = shift_and_grad(lambda m: composite(m, rotation), map.double(), grad_shift)
    shift, grad_map = shift_and_grad(lambda m: rotation_head(m, rotation), map, grad_shift)
    eps = torch.finfo(accumulate).eps
    assert shift.dtype is accumulate and grad_map.dtype is map.dtype
    torch.testing.assert_close(shift.double(), expected, rtol=0, atol=8 * eps)
    # v of a few ten is stored with an error of as many eps; 1 + m - v has that error, in units of the largest softmax.
    magnitude = 1 + map.double().abs().amax((2, 3), keepdim=True)
    largest = expected_grad.abs().amax((1, 2, 3), keepdim=True)
    stored = torch.finfo(map.dtype).eps * expected_grad.abs() + torch.finfo(map.dtype).tiny
    assert ((grad_map.double() - expected_grad).abs() <= 16 * eps * magnitude * largest + stored).all()
    return grad_map


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_and_gradients(head: str, size: tuple[int, int], dtype: torch.dtype, rotation: str) -> None:
    if head == "emulated head" and size[0] * size[1] > LARGEST_EMULATED:
        pytest.skip("too large for the emulator")
    for samples in (1, 3):
        for layout in LAYOUTS:
            map = in_layout(torch.randn(samples, 4, *size).to(dtype), layout)
            gradient = assert_agrees(map, rotation)
            if head == "compiled" and layout in ("contiguous", "channels last", "transposed"):
                assert gradient.stride() == map.stride()


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_values_of_any_magnitude(head: str, layout: str, dtype: torch.dtype, rotation: str) -> None:
    noise = torch.randn(2, 4, 9, 31)
    maps = [20 * noise, 1e4 * noise, torch.full_like(noise, 3.25), noise + 1e4, noise - 1e4, -1e-4 * noise.abs()]
    maps.append(torch.full_like(noise, torch.finfo(torch.bfloat16).min / 2**70))
    for map in maps:
        assert_agrees(in_layout(map.to(dtype), layout), rotation)


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "sliced"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("channel", [0, 3])
def test_what_is_not_finite_stays_in_its_sample(head: str, layout: str, value: float, channel: int) -> None:
    map = in_layout(torch.randn(3, 4, 33, 34), layout)
    others = torch.tensor([0, 2])
    clean, clean_grad = shift_and_grad(rotation_head, map, torch.ones(3, 3))
    map[1, channel, 20, 7] = value
    shift, grad_map = shift_and_grad(rotation_head, map, torch.ones(3, 3))
    expected, expected_grad = shift_and_grad(lambda m: composite(m, "linear"), map, torch.ones(3, 3))
    assert torch.equal(shift[others], clean[others])
    assert torch.equal(grad_map[others], clean_grad[others])
    assert shift[1].isnan().all() and torch.equal(shift.isnan(), expected.isnan())
    assert grad_map[1].isnan().all() and torch.equal(grad_map.isnan(), expected_grad.isnan())


def test_a_sample_of_minus_infinity_alone_is_nan(head: str) -> None:
    map = torch.zeros(2, 4, 3, 3)
    map[0] = -float("inf")
    assert torch.equal(rotation_head(map).isnan(), torch.tensor([[True] * 3, [False] * 3]))


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_an_axis_of_zero_has_the_subgradient_of_the_norm(head: str, rotation: str) -> None:
    map = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    map[:, :3] = 0
    grad_shift = torch.randn(2, 3, dtype=torch.float64)
    expected, expected_grad = shift_and_grad(lambda m: composite(m, rotation), map, grad_shift)
    shift, grad_map = shift_and_grad(lambda m: rotation_head(m, rotation), map, grad_shift)
    torch.testing.assert_close(shift, expected)
    assert grad_map.isfinite().all() and grad_map[:, :3].abs().max() > 1e3
    torch.testing.assert_close(grad_map, expected_grad)


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed"])
def test_derivatives(head: str, rotation: str, layout: str) -> None:
    map = in_layout(torch.randn(2, 4, 3, 2, dtype=torch.float64), layout).requires_grad_()
    function = functools.partial(rotation_head, rotation=rotation)
    assert torch.autograd.gradcheck(function, map, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, map, fast_mode=True, check_fwd_over_rev=True)


def test_double_backward_through_what_made_the_map(head: str) -> None:
    input = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)

    def penalty(function: object) -> Tensor:
        shift: Tensor = function(input.sin())  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(shift.square().sum(), input, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), input)[0]

    torch.testing.assert_close(penalty(rotation_head), penalty(lambda map: composite(map, "linear")))


def test_function_transforms(head: str) -> None:
    map = torch.randn(3, 2, 4, 2, 2, dtype=torch.float64)

    def total(one: Tensor) -> Tensor:
        return rotation_head(one).square().sum()

    expected = torch.stack([grad(lambda one: composite(one, "linear").square().sum())(one) for one in map])
    torch.testing.assert_close(vmap(grad(total))(map), expected)
    torch.testing.assert_close(vmap(rotation_head)(map), torch.stack([rotation_head(one) for one in map]))
    torch.testing.assert_close(jacfwd(rotation_head)(map[0]), jacrev(rotation_head)(map[0]))
    single = map[0, :1]
    symmetric = hessian(total)(single).reshape(16, 16)
    torch.testing.assert_close(symmetric, symmetric.T)
    assert symmetric.abs().max() > 0


def test_empty_batch(head: str) -> None:
    for dtype in DTYPES:
        map = torch.randn(0, 4, 3, 5).to(dtype).requires_grad_()
        shift = rotation_head(map)
        assert shift.shape == (0, 3) and shift.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        shift.sum().backward()
        assert map.grad is not None and map.grad.shape == map.shape


def test_frozen_map_records_nothing(head: str) -> None:
    assert not rotation_head(torch.randn(2, 4, 3, 3)).requires_grad
    with torch.no_grad():
        assert not rotation_head(torch.randn(2, 4, 3, 3, requires_grad=True)).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(head: str, dtype: torch.dtype) -> None:
    for map in (torch.randn(2, 4, 7, 7), torch.randn(2, 4, 7, 7, dtype=torch.float64)):
        expected, expected_grad = shift_and_grad(rotation_head, map, torch.ones(2, 3))
        with torch.autocast("cpu", dtype):
            shift, grad_map = shift_and_grad(rotation_head, map, torch.ones(2, 3))
        assert torch.equal(shift, expected) and shift.dtype is map.dtype
        assert torch.equal(grad_map, expected_grad)


def test_a_gradient_that_is_expanded(head: str) -> None:
    map = torch.randn(3, 4, 4, 5, requires_grad=True)
    rotation_head(map).sum().backward()
    _, expected = shift_and_grad(rotation_head, map, torch.ones(3, 3))
    assert map.grad is not None and torch.equal(map.grad, expected)


@pytest.mark.parametrize(
    ("map", "rotation", "error", "text"),
    [
        ([1.0], "linear", TypeError, "map: expected a Tensor, got list"),
        (torch.ones(1, 4, 2, 2, dtype=torch.int64), "linear", TypeError, "map: expected a dtype of .* got torch.int64"),
        (torch.ones(4, 2, 2), "linear", ValueError, r"map: expected \(B, 4, H, W\), got \(4, 2, 2\)"),
        (torch.ones(1, 3, 2, 2), "linear", ValueError, r"map: expected \(B, 4, H, W\), got \(1, 3, 2, 2\)"),
        (torch.ones(2, 4, 0, 2), "linear", ValueError, r"map: expected at least one pixel, got \(2, 4, 0, 2\)"),
        (torch.ones(1, 4, 2, 2), "round", ValueError, "rotation: expected 'linear' or 'exact', got 'round'"),
    ],
)
def test_errors(head: str, map: Tensor, rotation: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        rotation_head(map, rotation)
