"""Where an int is meant: what stands for one, of NumPy or of torch, is one, and what looks like one is refused."""

from __future__ import annotations

import enum
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import crossd_ops
from crossd_ops import ACSConv3d, CrossDConv2d, CrossDConv2dEarly, CrossDConv3d, planes, reference, to_2d, to_3d
from crossd_ops.operators.checks import int_of, ints_of


class Size(enum.IntEnum):
    """A constant of someone's own."""

    THREE = 3


INTEGERS = [np.int64, np.uint8, np.int32, np.array, torch.tensor]
NO_INTEGERS = [True, False, 1.0, np.float64(1), np.bool_(True), "1", None, [1], np.array([1, 2]), 1j]
# A layer, and arguments of which every one is an int, or one each.
LAYERS: dict[type[nn.Module], dict[str, Any]] = {
    CrossDConv2d: {"kernel_size": (3, 4), "stride": (1, 2), "padding": (2, 1), "dilation": 1, "groups": 2,
                   "dim": -1, "index": -2, "depth": 5, "rotation_channels": 7},
    CrossDConv2dEarly: {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": (1, 2), "groups": 2, "dim": 1},
    CrossDConv3d: {"kernel_size": (3, 1, 2), "stride": 1, "padding": 1, "dilation": (1, 2, 1), "groups": 2,
                   "dim": 2, "rotation_channels": 7},
    ACSConv3d: {"kernel_size": 3, "stride": (1, 2, 1), "padding": 1, "dilation": 2, "groups": 2},
}  # fmt: skip


def other(value: Any, kind: Callable[[int], Any]) -> Any:
    """`value` of another type of integer; negative ones have none that is unsigned."""
    if isinstance(value, tuple):
        return tuple(other(item, kind) for item in value)
    return value if kind is np.uint8 and value < 0 else kind(value)


def plain_values(layer: nn.Module) -> None:
    """Everything that a layer says of itself is an int of Python, and a name."""
    for name, value in vars(layer).items():
        if not name.startswith("_"):
            items = value if isinstance(value, tuple) else (value,)
            assert {type(item) for item in items} <= {int, str, bool}, (name, value)


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_are_ints(kind: Callable[[int], Any]) -> None:
    assert int_of(kind(3)) == 3 and type(int_of(kind(3))) is int
    sizes: list[Any] = [(kind(3), kind(3)), [3, kind(3)], np.array([3, 3]), torch.Size([3, 3]), torch.tensor([3, 3])]
    for value in [kind(3), *sizes]:
        got = ints_of(value, 2)
        assert got == (3, 3) and [*map(type, got)] == [int, int]


def test_a_constant_of_an_enumeration_is_its_int() -> None:
    assert type(int_of(Size.THREE)) is int
    layer = CrossDConv2d(Size.THREE, 6, kernel_size=Size.THREE)
    plain_values(layer)
    assert repr(layer) == repr(CrossDConv2d(3, 6, kernel_size=3))


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_int_is_none(value: Any) -> None:
    assert int_of(value) is None
    assert ints_of(value, 2) is None or isinstance(value, np.ndarray)


NOT_TWO_INTS = [(3,), (3, 3, 3), {3, 4}, {3: 3, 4: 4}, "33", (3, True), (3, 3.0), ((3, 3), 3), np.zeros((2, 2), int)]


@pytest.mark.parametrize("value", NOT_TWO_INTS, ids=repr)
def test_what_is_not_one_int_each_is_none(value: Any) -> None:
    assert ints_of(value, 2) is None


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_keep_plain_ints(layer: type[nn.Module], kind: Callable[[int], Any]) -> None:
    """In what they print, and in what they save: of NumPy's, torch.load(weights_only=True) would take nothing."""
    torch.manual_seed(1)
    expected = layer(4, 6, **LAYERS[layer])
    torch.manual_seed(1)
    got = layer(kind(4), kind(6), **{name: other(value, kind) for name, value in LAYERS[layer].items()})
    assert repr(got) == repr(expected)
    for module in got.modules():
        if type(module) in (*LAYERS, nn.Conv2d, nn.Conv3d):
            plain_values(module)
    assert b"numpy" not in pickle.dumps(got) or kind is torch.tensor
    input = torch.randn(2, 4, *[9] * (3 if "3d" in layer.__name__ else 2))
    assert torch.equal(got(input), expected(input))


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_refuse_what_is_no_int_by_name(layer: type[nn.Module]) -> None:
    for name in ("in_channels", "out_channels", *LAYERS[layer]):
        for wrong in (True, 1.0, np.float32(1), np.bool_(True)):
            arguments = {"in_channels": 2, "out_channels": 2, "kernel_size": 3, name: wrong}
            with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*int"):
                layer(**arguments)


def test_sizes_may_be_arrays_as_of_torch() -> None:
    for sizes in (np.array([3, 5]), torch.Size((3, 5)), [3, 5], torch.tensor([3, 5])):
        plain = nn.Conv2d(2, 4, sizes, stride=sizes, padding=sizes, dilation=sizes)
        layer = CrossDConv2d(2, 4, sizes, stride=sizes, padding=sizes, dilation=sizes)
        for name in ("kernel_size", "stride", "padding", "dilation"):
            assert tuple(map(int, getattr(plain, name))) == getattr(layer, name) == (3, 5)


CALLS: dict[str, Callable[..., Tensor]] = {
    "crossd_conv2d": lambda n, w, s: crossd_ops.crossd_conv2d(
        w.new_ones(2, 4, 9, 8), w, s, None, n(2), [n(1), 2], (1, n(2)), n(2), dim=n(1), index=n(0)
    ),
    "crossd_conv3d": lambda n, w, s: crossd_ops.crossd_conv3d(
        w.new_ones(2, 4, 6, 9, 8), w, s, None, (n(2), 1, 1), n(1), torch.Size((1, 2, 1)), n(2)
    ),
    "fourier_shift_slice": lambda n, w, s: crossd_ops.fourier_shift_slice(w, s, dim=n(2), index=n(1)),
    "fourier_shift_slice, middle": lambda n, w, s: crossd_ops.fourier_shift_slice(w, s, dim=n(1)),
    "reference": lambda n, w, s: reference.fourier_shift_slice(w, s, dim=n(2), index=n(1)),
}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", CALLS)
def test_functions(backend: str, name: str, kind: Callable[[int], Any]) -> None:
    weight, shift = torch.randn(4, 2, 3, 4, 5), torch.randn(2, 3)
    assert torch.equal(CALLS[name](kind, weight, shift), CALLS[name](int, weight, shift))


@pytest.mark.parametrize("wrong", [True, 1.0, np.float64(1), np.bool_(True)], ids=repr)
@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups", "dim", "index"])
def test_functions_refuse_what_is_no_int_by_name(backend: str, name: str, wrong: Any) -> None:
    weight, shift, input = torch.randn(4, 4, 3, 3, 3), torch.randn(2, 3), torch.randn(2, 4, 9, 8)
    for value in (wrong, (wrong, wrong)) if name in ("stride", "padding", "dilation") else (wrong,):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*int"):
            crossd_ops.crossd_conv2d(input, weight, shift, **{name: value})
    if name in ("dim", "index"):
        for module in (crossd_ops, reference):
            with pytest.raises(TypeError, match=f"^{name}: expected an int.*, got {type(wrong).__name__}$"):
                module.fourier_shift_slice(weight, shift, **{name: wrong})


def test_compiled_calls_take_integers_of_numpy() -> None:
    weight, shift, input, two = torch.randn(4, 2, 3, 3, 3), torch.randn(2, 3), torch.randn(2, 4, 9, 8), np.int64(2)
    layer = CrossDConv2d(np.int64(4), 6, 3, stride=two).eval()

    def call(input: Tensor) -> Tensor:
        return crossd_ops.crossd_conv2d(input, weight, shift, stride=two, groups=2)

    for function in (call, layer):
        # Before, Dynamo does not follow what makes an int of NumPy's, and leaves the call to Python.
        whole = function is layer or torch.__version__ >= (2, 13)
        compiled = torch.compile(function, fullgraph=whole, backend="eager")
        torch.testing.assert_close(compiled(input), function(input))


def test_a_symbolic_size_stays_symbolic() -> None:
    unknown = ShapeEnv().create_unbacked_symint()
    assert int_of(unknown) is unknown
    one, two = ints_of((unknown, 3), 2) or (None, None)
    assert one is unknown and two == 3 and ints_of(unknown, 3) is not None

    def doubled(input: Tensor) -> Tensor:
        return input.new_zeros(2 * int_of(input.shape[0]))

    frames = CompileCounter()
    compiled = torch.compile(doubled, fullgraph=True, backend=frames, dynamic=True)
    assert [compiled(torch.zeros(size)).shape[0] for size in (5, 6, 9)] == [10, 12, 18]
    assert frames.frame_count == 1, "compiled for one size alone"


def test_a_compiled_call_takes_a_symbolic_size() -> None:
    """That of another size is not the first one's."""
    weight, shift = torch.randn(4, 4, 3, 3, 3), torch.randn(2, 3)

    def call(input: Tensor) -> Tensor:
        return crossd_ops.crossd_conv2d(input, weight, shift, padding=(input.shape[2] // 4, 1))

    compiled = torch.compile(call, fullgraph=True, backend="eager", dynamic=True)
    for rows in (8, 12, 17):
        input = torch.randn(2, 4, rows, 8)
        torch.testing.assert_close(compiled(input), call(input))


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_networks_built_with_integers_of_numpy_are_converted(kind: Callable[[int], Any]) -> None:
    def network(n: Callable[[int], Any]) -> nn.Sequential:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(n(3), n(4), n(3), padding=n(1), dilation=(n(1), n(1))),
            nn.MaxPool2d((n(2), n(2))),
            nn.AvgPool2d(n(2), n(1), divisor_override=n(3)),
            nn.LPPool2d(2, n(2)),
            nn.Upsample((n(8), n(8))),
            nn.ZeroPad2d(n(1)),
            nn.ConvTranspose2d(n(4), n(4), n(3), stride=n(2)),
            nn.Conv2d(n(4), n(4), (n(3), n(3)), groups=n(2)),
        ).eval()

    images, volumes, grey = torch.randn(2, 3, 16, 16), torch.randn(1, 3, 12, 16, 16), torch.randn(2, 1, 16, 16)
    for convert, input in (
        (lambda n: crossd_ops.to_crossd(network(n)), images),
        (lambda n: crossd_ops.with_early_heads(crossd_ops.to_crossd(network(n))), images),
        (lambda n: crossd_ops.bake(crossd_ops.to_crossd(network(n)), [images], progress=False), images),
        (lambda n: crossd_ops.adapt_input_channels(network(n), n(1)), grey),
        (lambda n: crossd_ops.adapt_input_channels(crossd_ops.to_crossd(network(n)), n(1)), grey),
        *((lambda n, recipe=recipe: to_3d(network(n), recipe), volumes) for recipe in ("i3d", "center", "acs")),
        (lambda n: to_2d(to_3d(network(n), "i3d"), "i3d"), images),
        (lambda n: to_3d(network(n), "i3d", depth={"0": {"kernel": n(1), "stride": n(2)}}), volumes),
        (lambda n: to_3d(network(n), "i3d", depth={"1": {"stride": n(1)}, "4": {"size": n(9)}}), volumes),
    ):
        torch.manual_seed(2)
        expected = convert(int).eval()
        torch.manual_seed(2)
        got = convert(kind).eval()
        assert torch.equal(got(input), expected(input))
        for module in got.modules():
            if type(module) in LAYERS:
                plain_values(module)


def test_planes_of_numpy() -> None:
    model = nn.Sequential(CrossDConv2d(2, 4, 3))
    planes.set_plane(model, np.int64(2))
    assert model[0].dim == 2 and type(model[0].dim) is int
    for wrong in (np.bool_(True), np.float64(1)):
        with pytest.raises(TypeError, match=r"^dim: expected an int, got"):
            planes.set_plane(model, wrong)


def test_numbers_of_a_depth_are_kept_as_ints() -> None:
    depth = {"0": {"kernel": np.int64(1), "stride": np.uint8(2), "padding": np.int64(3), "dilation": np.int64(2)},
             "1": {"kernel": np.int64(3)}}  # fmt: skip
    for recipe in ("i3d", "center"):
        convolution, pool = to_3d(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), recipe, depth=depth)
        assert repr(convolution) == repr(nn.Conv3d(3, 4, (1, 3, 3), (2, 1, 1), (3, 0, 0), (2, 1, 1)))
        assert repr(pool.kernel_size) == "(3, 2, 2)"


def test_a_depth_that_is_no_int_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    for wrong in (True, 1.0, np.float64(1), np.bool_(True)):
        with pytest.raises(ValueError, match=r"depth.*: expected numbers"):
            to_3d(model, "i3d", depth={"*": {"stride": wrong}})
        with pytest.raises(ValueError, match=r"^channels: expected a positive int, got"):
            crossd_ops.adapt_input_channels(model, wrong)
