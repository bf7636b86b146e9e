"""FSDP2 (fully_shard) on two processes: equal to one process, with the 3D weights sharded by output channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from crossd_ops import CrossDConv2d

STEPS = 3


def network() -> nn.Sequential:
    """Two shifted layers, one with a number of channels that two processes do not share evenly, and a 1x1 layer.

    In evaluation mode: each process has running statistics of its own.
    """
    torch.manual_seed(1)
    layers = (
        CrossDConv2d(3, 5, 3, padding=1),
        nn.ReLU(),
        CrossDConv2d(5, 6, 3, stride=2, bias=False),
        CrossDConv2d(6, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(*layers).double().eval()


def images() -> Tensor:
    return torch.randn(4, 3, 9, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def train(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """AdamW steps; the gradients of the last. Weight decay and moments tell a gradient of 0 from none at all."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def train_sharded(rank: int, reshard: bool) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,))
    model = network()
    sharded_in_forward: list[bool] = []
    for layer in model:
        if isinstance(layer, CrossDConv2d):
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
            layer.rotation_params.register_forward_pre_hook(
                lambda _, __, layer=layer: sharded_in_forward.append(isinstance(layer.weights_3d, DTensor))
            )
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    assert isinstance(model[0].weights_3d, DTensor)
    assert model[0].weights_3d.to_local().shape == (3 - rank, 3, 3, 3, 3)
    gradients = train(model, images()[2 * rank : 2 * rank + 2])
    return {
        "gradients": {name: gradient.full_tensor() for name, gradient in gradients.items()},
        "state": get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)),
        "sharded_in_forward": sharded_in_forward,
    }


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for reshard in (False, True):
        torch.save(train_sharded(rank, reshard), f"{folder}/{rank}-{reshard}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each process found; both are started once, since to start them is what takes time."""
    folder = tmp_path_factory.mktemp("fsdp")
    mp.spawn(_train, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("reshard", [False, True], ids=["kept", "gathered again"])
def test_sharded_training_equals_one_process(folder: Path, reshard: bool) -> None:
    model = network()
    gradients = train(model, images())
    expected = model.state_dict()
    processes = [torch.load(folder / f"{rank}-{reshard}.pt", weights_only=True) for rank in range(2)]
    for found in processes:
        torch.testing.assert_close(found["gradients"], gradients, rtol=1e-8, atol=1e-12)
        assert all(not found["gradients"][name].any() for name in gradients if name.startswith("3.rotation_params"))
        assert found["sharded_in_forward"] == [False] * 2 * STEPS
    whole = processes[0]["state"]  # gathered on both processes
    assert list(whole) == list(expected)
    torch.testing.assert_close(whole, dict(expected), rtol=1e-8, atol=1e-11)
    network().load_state_dict(whole)
