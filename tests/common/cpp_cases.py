"""What tests/cpp/consumer.cpp is compared with: values, derivatives and a training of the Python reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from crossd_ops import reference
from crossd_ops.operators.rotation_head import composite

Function = Callable[..., Tensor]


def conv2d(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None = None, **options: object) -> Tensor:
    place = {name: options.pop(name) for name in ("dim", "index") if name in options}
    kernels = reference.fourier_shift_slice(weight, shift, **place)
    return torch.cat(
        [F.conv2d(row, kernel, bias, **options) for row, kernel in zip(input.split(1), kernels, strict=True)]
    )


def conv3d(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor) -> Tensor:
    kernels = reference.fourier_shift(weight, shift)
    return torch.cat([F.conv3d(row, kernel, bias, 2, 1) for row, kernel in zip(input.split(1), kernels, strict=True)])


def conv2d_options(*inputs: Tensor) -> Tensor:
    return conv2d(*inputs, stride=(1, 2), padding=(0, 1), dilation=(2, 1), groups=2, dim=1, index=0)


def sample_conv(*inputs: Tensor, **options: object) -> Tensor:
    input, weight, *bias = inputs
    convolution = F.conv2d if input.dim() == 4 else F.conv3d
    rows = zip(input.split(1), weight, strict=True)
    return torch.cat([convolution(row, kernel, *bias, **options) for row, kernel in rows])


def sample_conv_options(*inputs: Tensor) -> Tensor:
    return sample_conv(*inputs, stride=(1, 2), padding=(0, 1), dilation=(2, 1), groups=2)


# The functions that consumer.cpp calls by the same names.
FUNCTIONS: dict[str, Function] = {
    "rotation_shift": reference.rotation_shift,
    "rotation_shift_exact": lambda axis, angle: reference.rotation_shift(axis, angle, "exact"),
    "rotation_head": lambda map: composite(map, "linear"),
    "rotation_head_exact": lambda map: composite(map, "exact"),
    "fourier_shift": reference.fourier_shift,
    "fourier_shift_slice": reference.fourier_shift_slice,
    "fourier_shift_last": lambda weight, shift: reference.fourier_shift_slice(weight, shift, dim=-1, index=-1),
    "crossd_conv2d": conv2d,
    "crossd_conv2d_options": conv2d_options,
    "crossd_conv2d_same": lambda *inputs: conv2d(*inputs, padding="same"),
    "crossd_conv3d": conv3d,
    "sample_conv2d": sample_conv,
    "sample_conv2d_options": sample_conv_options,
    "sample_conv2d_same": lambda *inputs: sample_conv(*inputs, padding="same"),
    "sample_conv3d": lambda *inputs: sample_conv(*inputs, stride=2, padding=1),
}

# Sizes of the inputs in float64. The convolutions choose their method by pixels and channels: 400 pixels and 16
# channels, and groups, are one grouped convolution, the others one for each sample.
CASES: dict[str, list[tuple[int, ...]]] = {
    "rotation_shift": [(4, 3), (4,)],
    "rotation_shift_exact": [(4, 3), (4, 1)],
    "rotation_head": [(3, 4, 5, 6)],
    "rotation_head_exact": [(3, 4, 5, 6)],
    "fourier_shift:odd": [(2, 3, 3, 5, 3), (2, 3)],
    "fourier_shift:even": [(2, 3, 4, 2, 6), (2, 3)],
    "fourier_shift:one": [(2, 3, 1, 1, 1), (2, 3)],
    "fourier_shift_slice:hot": [(4, 3, 3, 3, 3), (3, 3)],
    "fourier_shift_slice:mixed": [(2, 2, 3, 4, 1), (2, 3)],
    "fourier_shift_slice:empty": [(2, 2, 3, 3, 3), (0, 3)],
    "fourier_shift_last": [(2, 2, 3, 4, 3), (2, 3)],
    "crossd_conv2d:loop": [(2, 3, 6, 6), (4, 3, 3, 3, 3), (2, 3)],
    "crossd_conv2d:grouped": [(2, 16, 22, 22), (2, 16, 3, 3, 3), (2, 3)],
    "crossd_conv2d:one": [(2, 3, 4, 4), (4, 3, 1, 1, 1), (2, 3)],
    "crossd_conv2d_options": [(2, 4, 13, 24), (6, 2, 3, 3, 3), (2, 3), (6,)],
    "crossd_conv2d_same": [(2, 3, 5, 6), (4, 3, 3, 4, 3), (2, 3), (4,)],
    "crossd_conv3d": [(2, 3, 5, 4, 6), (2, 3, 3, 3, 3), (2, 3), (2,)],
    "sample_conv2d:small": [(2, 3, 6, 6), (2, 4, 3, 3, 2)],
    "sample_conv2d:grouped": [(2, 16, 22, 22), (2, 2, 16, 3, 3)],
    "sample_conv2d_options": [(2, 4, 13, 24), (2, 6, 2, 3, 3), (6,)],
    "sample_conv2d_same": [(2, 3, 5, 6), (2, 4, 3, 4, 3), (4,)],
    "sample_conv3d": [(2, 3, 5, 4, 6), (2, 2, 3, 3, 3, 3), (2,)],
}


def random(name: str, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(sizes, dtype=dtype).div_(2 if "shift" in name else 1)


def case(name: str, function: Function, inputs: list[Tensor], second: bool) -> dict[str, Tensor]:
    """Entries of one case: inputs, probe, output, gradients, and directions with the second derivatives along them."""
    for tensor in inputs:
        tensor.requires_grad_()
    result = function(*inputs)
    probe = torch.randn_like(result)
    gradients = torch.autograd.grad((result * probe).sum(), inputs, create_graph=second)
    entries = {"output": result, "probe": probe}
    columns = {"input": inputs, "gradient": gradients}
    if second:
        columns["direction"] = [torch.randn_like(tensor) for tensor in inputs]
        total = sum(((g * d).sum() for g, d in zip(gradients, columns["direction"], strict=True)), torch.zeros(()))
        columns["second"] = torch.autograd.grad(total, inputs, materialize_grads=True)
    for column, tensors in columns.items():
        entries |= {f"{column}{i}": tensor for i, tensor in enumerate(tensors)}
    return {f"{name}/{key}": tensor.detach().clone() for key, tensor in entries.items()}


def all_cases() -> dict[str, Tensor]:
    entries: dict[str, Tensor] = {}
    for name, sizes in CASES.items():
        inputs = [torch.randn(size, dtype=torch.float64) for size in sizes]
        entries |= case(name, FUNCTIONS[name.partition(":")[0]], inputs, second=True)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name in ("fourier_shift_slice", "rotation_head", "sample_conv3d"):
            sizes = CASES.get(name) or CASES[f"{name}:hot"]
            inputs = [torch.randn(size).to(torch.float32 if size[1:] == (3,) else dtype) for size in sizes]
            entries |= case(f"{name}:{dtype}".replace("torch.", ""), FUNCTIONS[name], inputs, second=False)
    return entries | training()


def training() -> dict[str, Tensor]:
    """What training the layer of consumer.cpp comes to, with torch's optimizer on the reference."""
    sizes = [(4, 3, 1, 1), (4, 4, 1, 1), (5, 3, 3, 3, 3), (5,)]
    parameters = [torch.randn(size, dtype=torch.float64) * 0.3 for size in sizes]
    input = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    target = F.conv2d(input, torch.randn(5, 3, 3, 3, dtype=torch.float64) * 0.3, padding=1)
    entries = {f"train/parameter{i}": tensor.clone() for i, tensor in enumerate(parameters)}
    optimizer = torch.optim.SGD([tensor.requires_grad_() for tensor in parameters], lr=0.1, momentum=0.9)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        map = F.conv2d(F.conv2d(input, parameters[0]).relu(), parameters[1])
        result = conv2d(input, parameters[2], composite(map, "linear"), parameters[3], padding=1)
        loss = F.mse_loss(result, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    entries |= {f"train/trained{i}": tensor.detach() for i, tensor in enumerate(parameters)}
    return entries | {"train/input": input, "train/target": target, "train/losses": torch.stack(losses)}
