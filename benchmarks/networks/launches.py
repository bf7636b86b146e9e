"""How many launches a layer, and a step of ResNet-18, ask of a GPU beside nn.Conv2d's; counted, not measured.

python -m benchmarks.networks.launches

The passes run on the CPU, on the branch that a GPU takes (CROSSD_CONVOLUTION_BRANCH=gpu), on small images, and torch's
profiler names every operator, also those that our operators call. An operator of torch's that does work counts as one
launch, whatever its library makes of it: a lower bound, for both networks alike. Ours count by what their launchers
launch, which the tests in the emulator hold; the head's operator, where it runs, by its design. What is not known is
an error.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

from benchmarks.models import CONVOLUTIONS, build_model, use_channels_last
from benchmarks.tables import format_table

# Launches of one call, whatever it calls in turn.
_OURS = {
    "fourier_shift": 1,
    "fourier_shift_backward": 2,  # the second adds up the partial sums
    "rotation_head": 2,  # the second joins the parts of the image
    "rotation_head_backward": 1,
    "predict_shift": 3,
    "predict_shift_backward": 3,
    "image_to_columns": 1,
    "columns_to_image": 1,
}
_TORCHS = {
    *("convolution", "convolution_backward", "bmm", "baddbmm", "baddbmm_", "native_batch_norm"),
    *("native_batch_norm_backward", "native_batch_norm_legit", "threshold_backward", "relu", "relu_", "clamp_min_"),
    *("copy_", "fill_", "zero_", "add", "add_", "sub", "mul", "mul_", "lerp_", "sum", "cat", "im2col", "col2im"),
    *("max_pool2d_with_indices", "max_pool2d_with_indices_backward", "adaptive_avg_pool2d", "addmm", "mm", "mean"),
    "div",
    *("_log_softmax", "_log_softmax_backward_data", "nll_loss_forward", "nll_loss_backward"),
}
_SILENT = {  # they look at memory in another way, or reserve it
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "as_strided", "detach"),
    *("view", "_unsafe_view", "reshape", "expand", "select", "squeeze", "unsqueeze", "permute", "transpose", "t"),
    *("resolve_conj", "unsafe_split_with_sizes", "slice", "narrow", "alias", "_reshape_alias", "flatten"),
    *("contiguous", "to"),  # where they call no copy
}


def launches_of(events: Iterable[Any]) -> Counter[str]:
    """Launches by the name of the operator, of the profiler's events that nothing called, and what they call."""
    found: Counter[str] = Counter()
    for event in events:
        domain, _, name = event.name.rpartition("::")
        if domain == "crossd_ops" and name in _OURS:
            found[name] += _OURS[name]
        elif domain == "aten" and name in _TORCHS:
            found[name] += 1
        elif event.cpu_children:
            found += launches_of(event.cpu_children)
        elif domain in ("aten", "crossd_ops") and name not in _SILENT:
            raise ValueError(f"launches: expected a known operator, got {event.name}")
    return found


def count(call: Callable[[], object]) -> Counter[str]:
    """Launches of what is called."""
    with profile() as profiler:
        call()
    return launches_of(event for event in profiler.function_events if event.cpu_parent is None)


def passes(model: nn.Module, image: Tensor, mode: str, loss: Callable[[Tensor], Tensor]) -> list[Counter[str]]:
    """Launches forward and backward in training; mode: "float32", "bfloat16" (module and image) or "autocast"."""
    kept: list[Tensor] = []

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            kept.append(model(image))

    found = [count(forward)]
    last = loss(kept.pop())
    grad = torch.ones_like(last)
    found.append(count(lambda: last.backward(grad)))
    return found


def of_layer(kind: str, kernel: int, mode: str) -> list[Counter[str]]:
    """Of a layer of 16 to 32 channels without bias between others, channels-last."""
    layer = CONVOLUTIONS[kind](16, 32, kernel, padding=kernel // 2, bias=False)
    image = torch.randn(2, 16, 8, 8, dtype=torch.float32 if mode == "float32" else torch.bfloat16)
    image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
    return passes(layer.bfloat16() if mode == "bfloat16" else layer, image, mode, lambda output: output)


def of_network(kind: str, mode: str) -> list[Counter[str]]:
    """Of ResNet-18 on 2 images, channels-last, with its loss but without optimizer."""
    model = build_model("resnet18", CONVOLUTIONS[kind], classes=10, width=16)
    use_channels_last(model)
    image = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model, image = (model.bfloat16(), image.bfloat16()) if mode == "bfloat16" else (model, image)
    return passes(model, image, mode, lambda output: output.float().sum())


def main() -> None:
    """Prints the table."""
    os.environ["CROSSD_CONVOLUTION_BRANCH"] = "gpu"  # read at the first convolution
    rows = []
    for mode in ("float32", "bfloat16", "autocast"):
        for name, counted in {
            "layer, 3x3": lambda kind, mode=mode: of_layer(kind, 3, mode),
            "layer, 1x1": lambda kind, mode=mode: of_layer(kind, 1, mode),
            "ResNet-18": lambda kind, mode=mode: of_network(kind, mode),
        }.items():
            numbers = [launches.total() for kind in ("plain", "crossd") for launches in counted(kind)]
            rows.append([f"{name}, {mode}", *map(str, numbers)])
    print(format_table(["launches", "nn.Conv2d forward", "backward", "CrossDConv2d forward", "backward"], rows))


if __name__ == "__main__":
    main()
