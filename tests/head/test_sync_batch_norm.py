"""SyncBatchNorm, in the network and in its heads: two processes equal one on the joined batch."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crossd_ops import CrossDConv2d

SAMPLES = {0: slice(0, 2), 1: slice(2, 5)}  # uneven: a mean of the processes' means would be wrong
MOMENTUM = 0.1


class SyncBatchNormOnCPU(nn.modules.batchnorm._BatchNorm):
    """What nn.SyncBatchNorm does in training: it refuses CPU tensors, and DistributedDataParallel refuses it there."""

    def forward(self, input: Tensor) -> Tensor:
        axes = (0, *range(2, input.dim()))
        count = input.new_tensor([input.numel() / input.shape[1]])
        dist.all_reduce(count)
        mean = differentiable.all_reduce(input.sum(axes)) / count
        centred = input - mean[:, None, None]
        variance = differentiable.all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(variance * count / (count - 1), MOMENTUM)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def network() -> nn.Sequential:
    """In double precision: rounding between the sums of one process and of two is no matter."""
    torch.manual_seed(1)
    layers = (
        CrossDConv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        CrossDConv2d(6, 5, 3, stride=2, padding=1, rotation="exact"),
        CrossDConv2d(5, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(*layers).double().train()


def images() -> Tensor:
    return torch.randn(5, 3, 9, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def converted() -> nn.Sequential:
    """The network as torch converts it, with layers that also run here in the converted ones' places."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = SyncBatchNormOnCPU
    return model


def train(model: nn.Module, batch: Tensor, share: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Two steps: the outputs, and the gradients of the second. The loss is a sum times `share`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    outputs = []
    for _ in range(2):
        optimizer.zero_grad()
        outputs.append(model(batch))
        (outputs[-1].square().sum() * share).backward()
        optimizer.step()
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    return torch.stack(outputs).detach(), {name: value.grad for name, value in plain.named_parameters()}


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = converted()
    # DistributedDataParallel takes the mean of the gradients of two processes.
    outputs, gradients = train(DistributedDataParallel(model), images()[SAMPLES[rank]], 2.0)
    result = {"outputs": outputs, "gradients": gradients, "state": model.state_dict()}
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_synchronised_norms_equal_one(tmp_path: Path) -> None:
    mp.spawn(_train, (str(tmp_path),), nprocs=2)
    model = network()
    outputs, gradients = train(model, images(), 1.0)
    for rank, samples in SAMPLES.items():
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["outputs"], outputs[:, samples], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found["gradients"], gradients, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found["state"], dict(model.state_dict()), rtol=1e-9, atol=1e-11)
    assert gradients["0.rotation_params.1.weight"].abs().max() > 1e-6, "the heads' norms take no part"


def test_conversion_reaches_the_heads_and_keeps_names_and_values() -> None:
    model = network()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert [type(norm) for norm in norms] == [nn.SyncBatchNorm] * 4
    assert all(
        type(module.rotation_params[1]) is nn.SyncBatchNorm
        for module in model.modules()
        if isinstance(module, CrossDConv2d)
    )
    assert list(model.state_dict()) == list(state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    plain = network()
    torch.testing.assert_close(model(images()), plain(images()))  # one process: nothing to synchronise
    torch.testing.assert_close(model.eval()(images()), plain.eval()(images()))
