"""How many launches a layer, and a step of ResNet-18, ask of a GPU beside nn.Conv2d's; counted, not measured.

python -m benchmarks.gpu.launches

The passes are recorded on fakes, on the way that crossd_ops takes on a GPU, and each operator's model says what it
launches: those of the prediction (benchmarks/gpu/prediction), which refuses an operator that it does not know.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.gpu.prediction.rows import launches_in
from benchmarks.gpu.prediction.trace import gpu_stand_in, record
from benchmarks.models import CONVOLUTIONS, build_model, use_channels_last
from benchmarks.tables import format_table

MODES = ("float32", "bfloat16", "autocast")  # bfloat16: of module and image
Passes = list[Counter[str]]  # forward and backward in training: launches by the name of the kernel


@contextlib.contextmanager
def _made_for(mode: str) -> Iterator[None]:
    """Parameters of fakes cannot be converted: they are made in their type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if mode == "bfloat16" else torch.float32)
    try:
        with gpu_stand_in():
            yield
    finally:
        torch.set_default_dtype(before)


def passes(model: nn.Module, image: Tensor, mode: str) -> Passes:
    """Of a model within `gpu_stand_in`."""
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        output, forward = record(functools.partial(model, image))
    _, backward = record(functools.partial(output.backward, torch.ones_like(output)))
    return [Counter(launch.kernel for launch, _ in launches_in(calls)) for calls in (forward, backward)]


def of_layer(kind: str, kernel: int, mode: str, bias: bool = False) -> Passes:
    """Of a layer of 16 to 32 channels between others, channels-last."""
    with _made_for(mode):
        layer = CONVOLUTIONS[kind](16, 32, kernel, padding=kernel // 2, bias=bias)
        image = torch.randn(2, 16, 8, 8, dtype=torch.float32 if mode == "float32" else torch.bfloat16)
        image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
        return passes(layer, image, mode)


def of_network(kind: str, mode: str) -> Passes:
    """Of ResNet-18 on 2 images, channels-last, with the sum of its output for a loss and without optimizer."""
    with _made_for(mode):
        network = build_model("resnet18", CONVOLUTIONS[kind], classes=10, width=16)
        use_channels_last(network)
        image = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        return passes(nn.Sequential(network, _Loss()), image, mode)


class _Loss(nn.Module):
    def forward(self, output: Tensor) -> Tensor:
        return output.float().sum()


def main() -> None:
    """Prints the table."""
    counts: dict[str, Callable[[str, str], Passes]] = {
        "layer, 3x3": lambda kind, mode: of_layer(kind, 3, mode),
        "layer, 3x3, bias": lambda kind, mode: of_layer(kind, 3, mode, bias=True),
        "layer, 1x1": lambda kind, mode: of_layer(kind, 1, mode),
        "ResNet-18": of_network,
    }
    rows = []
    for mode in MODES:
        for name, count in counts.items():
            numbers = [launches.total() for kind in ("plain", "crossd") for launches in count(kind, mode)]
            rows.append([f"{name}, {mode}", *map(str, numbers)])
    print(format_table(["launches", "nn.Conv2d forward", "backward", "CrossDConv2d forward", "backward"], rows))


if __name__ == "__main__":
    main()
