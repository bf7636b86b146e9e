"""One training step of a whole network: forward, loss, backward, optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.profiler import record_function

import crossd_ops
from benchmarks.models import CONVOLUTIONS, build_model, use_channels_last

# How each variant convolves: (a key of CONVOLUTIONS, whether by the torch.fft expansion, whether compiled).
VARIANTS: dict[str, tuple[str, bool, bool]] = {
    "plain": ("plain", False, False),
    "fused": ("crossd", False, False),
    "expansion": ("crossd", True, False),
    "compiled_expansion": ("crossd", True, True),
}

# Profiler ranges of a step; what lies outside of both is the backward pass.
FORWARD_RANGE, OPTIMIZER_RANGE = "network/forward", "network/optimizer"


@dataclass(frozen=True)
class NetworkCase:
    """What is trained: names and numbers only, so that a measuring process can be told."""

    model: str
    batch: int
    size: int = 224
    autocast: bool = False  # bfloat16
    channels_last: bool = False
    classes: int = 1000
    width: int | None = None

    @property
    def label(self) -> str:
        """As the tables show it."""
        extras = (" bf16" if self.autocast else "") + (" channels-last" if self.channels_last else "")
        return f"{self.model} B={self.batch} {self.size}x{self.size}{extras}"


class TrainingStep:
    """A network, the optimizer that Cross-D networks were published with, and one batch; calling it makes a step."""

    def __init__(self, case: NetworkCase, variant: str, device: torch.device, seed: int) -> None:
        convolution, expanded, compiled = VARIANTS[variant]
        torch.manual_seed(seed)
        self.case, self.device = case, device
        model = build_model(case.model, CONVOLUTIONS[convolution], classes=case.classes, width=case.width)
        self.model = model.to(device)
        if case.channels_last:
            use_channels_last(self.model)
        self.call: Callable[[Tensor], Tensor] = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.backend = "reference" if expanded else crossd_ops.backend(device)
        self.set_batch(case.batch)

    def set_batch(self, batch: int) -> None:
        """Another batch of random images and labels, of so many samples."""
        generator = torch.Generator().manual_seed(batch)
        size, dense = self.case.size, self.case.model == "unet"
        labels = (batch, size, size) if dense else (batch,)
        layout = torch.channels_last if self.case.channels_last else torch.contiguous_format
        images = torch.randn(batch, 3, size, size, generator=generator)
        self.images = images.to(self.device, memory_format=layout)
        self.targets = torch.randint(self.case.classes, labels, generator=generator).to(self.device)

    def __call__(self) -> Tensor:
        """One step; the loss."""
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.case.autocast else contextlib.nullcontext()
        with crossd_ops.use_backend(self.backend):
            with record_function(FORWARD_RANGE), autocast:
                loss = nn.functional.cross_entropy(self.call(self.images), self.targets)
            loss.backward()
            with record_function(OPTIMIZER_RANGE):
                self.optimizer.step()
                self.optimizer.zero_grad()
        return loss.detach()
