"""Several processes: DistributedDataParallel equals one process on the joined batch, or the mean of two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crossd_ops import CrossDConv2d


def network() -> nn.Sequential:
    """With a 1x1 layer, whose head takes no part; in evaluation mode, since each process has a BatchNorm of its own."""
    torch.manual_seed(1)
    layers = CrossDConv2d(3, 6, 3, padding=1), nn.ReLU(), CrossDConv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).eval()


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def train(model: nn.Module, batch: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def gradients(model: nn.Module, batches: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Sum over the batches, in training mode: heads normalise by what they see. Not synchronised but at the last."""
    model.train()
    distributed = isinstance(model, DistributedDataParallel)
    for number, batch in enumerate(batches):
        if distributed and number < len(batches) - 1:
            with model.no_sync():
                model(batch).square().mean().backward()
        else:
            model(batch).square().mean().backward()
    plain = model.module if distributed else model
    return {name: parameter.grad.clone() for name, parameter in plain.named_parameters()}


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mine = images()[2 * rank : 2 * rank + 2]
    model = DistributedDataParallel(network())
    train(model, mine)
    results = {"state": model.module.state_dict()}
    results["gradients"] = gradients(DistributedDataParallel(network()), (mine,))
    results["accumulated"] = gradients(DistributedDataParallel(network()), (mine, -mine))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found; both are started once, since to start them is what takes time."""
    folder: Path = tmp_path_factory.mktemp("distributed")
    mp.spawn(_train, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_equal_one(results: list[dict[str, Any]]) -> None:
    model = network()
    train(model, images())
    for found in results:
        torch.testing.assert_close(found["state"], dict(model.state_dict()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gradients", "accumulated"])
def test_gradients_of_norms_of_their_own_are_averaged(results: list[dict[str, Any]], kind: str) -> None:
    halves = []
    for half in images().split(2):
        batches = (half,) if kind == "gradients" else (half, -half)
        halves.append(gradients(network(), batches))
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    for found in results:
        torch.testing.assert_close(found[kind], mean, rtol=1e-4, atol=1e-7)
    assert all(not results[0][kind][name].any() for name in mean if name.startswith("2.rotation_params"))
    assert any(not torch.allclose(halves[0][name], halves[1][name]) for name in mean), "the processes' data is the same"
