"""Numbers that code for images computes from heights and widths: computed for the depth too, or refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from volumes import constant

from crossd_ops import to_3d


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution, self.function = nn.Conv2d(2, 4, 1), function

    def forward(self, input: Tensor) -> Tensor:
        return self.function(self.convolution(input))


def same_padding(x: Tensor) -> Tensor:
    height, width = x.size()[-2:]
    rows = max((math.ceil(height / 2) - 1) * 2 + 3 - height, 0)
    columns = max((math.ceil(width / 2) - 1) * 2 + 3 - width, 0)
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def tokens_of_heads(x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    q = x.reshape(b, 2, -1, h * w).transpose(-1, -2)
    return (q @ (q.transpose(-1, -2) @ q)).transpose(-1, -2).reshape(b, -1, h, w) / (h * w)


def shuffled(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


def divisible(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    if height % 2 != 0 or width % 2 != 0 or height // 2 < 1:
        raise RuntimeError("pad your images")
    return x


COUNTED: dict[str, Callable[[Tensor], Tensor]] = {
    "padding as TensorFlow's": same_padding,
    "attention over all places": tokens_of_heads,
    "groups": shuffled,
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "a check": divisible,
    "mean by a count": lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "half": lambda x: F.interpolate(x, (x.shape[2] // 2, x.shape[3] // 2)),
    "double": lambda x: F.interpolate(x, (2 * x.shape[2], x.shape[3] * 2), mode="bilinear"),
    "less": lambda x: x[:, :, : x.shape[2] - 1, : x.shape[3] - 1],
    "pad to a size": lambda x: F.pad(x, (0, 16 - x.shape[3], 0, 16 - x.shape[2])),
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_computed_from_sizes(name: str) -> None:
    model, image = Calls(COUNTED[name]), torch.randn(2, 2, 8, 10)
    output, expected = to_3d(model, "center", example=image)(constant(image, 6)), model(image)
    parts = output[:, :, : min(6, output.shape[2])].unbind(2) if output.dim() == 5 else [output]
    for part in parts if name != "padding as TensorFlow's" else parts[1:-1]:
        torch.testing.assert_close(part, expected)


def test_the_depth_gets_its_own_number() -> None:
    volume = torch.randn(1, 2, 5, 8, 9)
    assert to_3d(Calls(same_padding), "i3d")(volume).shape == (1, 4, 7, 9, 11)
    assert to_3d(Calls(COUNTED["half"]), "i3d")(volume).shape == (1, 4, 2, 4, 4)
    assert to_3d(Calls(COUNTED["pad to a size"]), "i3d")(volume).shape == (1, 4, 16, 16, 16)
    with pytest.raises(TypeError, match="computed from the height, compared, which gives another answer for the depth"):
        to_3d(Calls(divisible), "i3d")(volume)


def stored(x: Tensor) -> Tensor:
    sizes = list(x.shape)
    return x / sizes[1] + x.mean() * sizes[-1]


def stored_wrong(x: Tensor) -> Tensor:
    sizes = [*x.shape]
    return F.avg_pool2d(x, (sizes[2], sizes[-1]))


def unpacked(x: Tensor) -> Tensor:
    b, c, h, w = list(x.shape)
    return x.view(b, c, h * w).mean(2)


def counted(x: Tensor) -> Tensor:
    axes = len(x.shape)
    return x.mean((2, 3)) if axes == 4 else x.mean(1)


ASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "a list of all": stored,
    "unpacked from a list": unpacked,
    "compared with sizes of images": lambda x: x if x.shape == (2, 4, 8, 10) and x.shape[-2:] == (8, 10) else x + 1,
    "other sizes": lambda x: x + 1 if x.shape[2:] != (8, 11) and x.shape[2:] == x.relu().shape[2:] else x,
    "axes that both have": lambda x: x if x.dim() > 3 and x.ndim != 3 and len(x.shape) != 3 else x + 1,
    "a volume": lambda x: x.mean(tuple(range(2, x.ndim))) if x.dim() in (4, 5) and x.ndim >= 4 else x,
    "ones for each axis": lambda x: x * torch.arange(4.0).view(1, -1, *[1] * (x.dim() - 2)),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_of_sizes(name: str) -> None:
    model, image = Calls(ASKED[name]), torch.randn(2, 2, 8, 10)
    output, expected = to_3d(model, "center", example=image)(constant(image, 6)), model(image)
    for part in output.unbind(2) if output.dim() == 5 else [output]:
        torch.testing.assert_close(part, expected)


MISLEADING: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "dim": (lambda x: x.mean((2, 3)) if x.dim() == 4 else x.mean(1), "whether a map has 4 axes"),
    "ndim": (lambda x: x.mean(1) if x.ndim != 4 else x.mean((2, 3)), "whether a map has 4 axes"),
    "dim in": (lambda x: x.mean((2, 3)) if x.dim() in (3, 4) else x.mean(1), "whether a map has 4 axes"),
    "of fewer": (lambda x: x.mean(1) if x.mean(1).dim() < 4 else x, "whether a map has 4 axes"),
    "len": (lambda x: x.mean((2, 3)) if len(x.shape) == 4 else x.mean(1), "whether a map has 4 axes"),
    "len in": (lambda x: x.mean((2, 3)) if len(x.size()) in (3, 4) else x.mean(1), "whether a map has 4 axes"),
    "len, stored": (counted, "whether a map has 4 axes"),
    "list": (lambda x: x / list(x.shape)[2], "the size 2 of a list of all"),
    "tuple": (lambda x: x / tuple(x.size())[-3], "the size -3 of a list of all"),
    "enumerate": (lambda x: x / next(size for axis, size in enumerate(x.shape) if axis == 2), "all sizes of a map"),
    "zip": (lambda x: x / dict(zip("bchw", x.size(), strict=False))["h"], "all sizes of a map"),
    "list, stored": (stored_wrong, "the size 2 of a list of all"),
}


@pytest.mark.parametrize("name", MISLEADING)
def test_what_has_another_answer_for_images_is_refused(name: str) -> None:
    function, text = MISLEADING[name]
    with pytest.raises(TypeError, match=f"model: expected code that works on volumes too, got Calls, .*{text}"):
        to_3d(Calls(function), "center")(torch.randn(2, 2, 6, 8, 10))


class Attention(nn.Module):
    """Mixes heads by a convolution of size 1 on maps that are no images, as talking heads do."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding, self.heads = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, size, padding=size // 2)

    def forward(self, input: Tensor) -> Tensor:
        rows = self.embedding(input).flatten(2)
        return self.heads(rows.unsqueeze(-1) * rows.unsqueeze(-2)).mean((-2, -1))


def test_convolutions_of_other_maps() -> None:
    model, image = Attention(1), torch.randn(2, 2, 3, 4)
    torch.testing.assert_close(to_3d(model, "center", example=image)(constant(image, 2)), model(image))
    with pytest.raises(TypeError, match=r"the input \(2, 4, 24, 24\) of a layer for volumes"):
        to_3d(Attention(3), "center")(constant(image, 2))


def test_errors_in_a_networks_code_are_named_on_the_first_volume() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.positions = nn.Conv2d(2, 4, 1), nn.Parameter(torch.randn(1, 48, 4))

        def forward(self, input: Tensor) -> Tensor:
            return self.convolution(input).flatten(2).transpose(1, 2) + self.positions

    model = nn.Sequential(Embedded())
    model(torch.randn(1, 2, 6, 8))
    deep = to_3d(model, "i3d")
    with pytest.raises(
        ValueError, match=r"^0: expected a volume that the code of Embedded takes, .*\(RuntimeError: "
    ) as error:
        deep(torch.randn(1, 2, 2, 6, 8))
    assert isinstance(error.value.__cause__, RuntimeError)
    deep(torch.randn(1, 2, 1, 6, 8))
    for error_type, function in (
        (TypeError, lambda x: (lambda b, c, h, w: x.view(b, c, h * w))(*x.shape)),
        (ValueError, lambda x: nn.InstanceNorm2d(4)(x)),
        (KeyError, lambda x: {4: x}[x.dim()]),
    ):
        with pytest.raises(ValueError, match=rf"the code of Calls takes, .*\({error_type.__name__}: ") as error:
            to_3d(Calls(function), "i3d")(torch.randn(1, 2, 2, 6, 8))
        assert isinstance(error.value.__cause__, error_type)
    with pytest.raises(RuntimeError, match=r"^The size of tensor"):  # torch's own, of a volume of another size
        copy.deepcopy(deep)(torch.randn(1, 2, 2, 6, 8))
