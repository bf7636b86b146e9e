"""The processes of a training run: one, or those that torchrun started."""

from __future__ import annotations

import hashlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Processes:
    """This process among its peers; every method here is called by all of them."""

    def __init__(self, device: str) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)
        self._host_group: Any = None
        if self.world > 1:
            dist.init_process_group("nccl" if on_gpu else "gloo")
            # Agreeing on small things must not wait for the GPU.
            self._host_group = dist.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, on the CPU."""
        total = values.detach().cpu()
        if self.world > 1:
            dist.all_reduce(total, group=self._host_group)
        return total

    def any(self, condition: bool) -> bool:
        """Whether the condition holds in any process."""
        return self.sum(torch.tensor(int(condition))).item() > 0 if self.world > 1 else condition

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._host_group)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Every process takes the running statistics of the first, which are those of a checkpoint."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1:
            dist.destroy_process_group()


def weights_digest(model: nn.Module) -> str:
    """A digest of all parameters, bit for bit."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class StopRequest:
    """Turns SIGTERM and SIGINT, inside a `with` block, into a request that is looked at between steps.

    A second signal changes nothing: torchrun passes on what the terminal has already sent.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def __enter__(self) -> StopRequest:
        self._handlers = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
