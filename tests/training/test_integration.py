"""The layers in other people's code: copies, pickles, subclasses, networks, the trainers of Lightning and MONAI."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_zoo
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import crossd_ops
from crossd_ops.operators.descriptions import DESCRIPTIONS

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "2d": lambda: crossd_ops.CrossDConv2d(3, 4, 3, padding=1, rotation="exact", dim=1),
    "2d, fixed shift": lambda: fixed(crossd_ops.CrossDConv2d(3, 4, 3, padding=1)),
    "3d": lambda: crossd_ops.CrossDConv3d(3, 4, 3, padding=1),
    "3d, fixed shift": lambda: fixed(crossd_ops.CrossDConv3d(3, 4, 3, padding=1)),
    "early": lambda: crossd_ops.CrossDConv2dEarly(3, 4, 3, padding=1),
}


def fixed(layer: Any) -> nn.Module:
    layer.fix_shift(torch.tensor([0.3, -1.2, 0.7]))
    return layer


def through_pickle(layer: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(layer))


def through_a_file(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


# --- copies ---


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file])
@pytest.mark.parametrize("name", LAYERS)
def test_copies_compute_the_same_and_share_nothing(name: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    layer = LAYERS[name]()
    input = torch.randn(2, 3, *(6,) * (3 if name.startswith("3d") else 2))
    layer(input).sum().backward()  # copies have to work for layers in use, too
    twin = copied(layer)
    assert repr(twin) == repr(layer)
    torch.testing.assert_close(twin.eval()(input), layer.eval()(input), rtol=0, atol=0)
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            tensor.zero_()
    assert layer(input).abs().max() > 0
    if "fixed" in name:
        assert torch.equal(layer.fixed_shift, torch.tensor([0.3, -1.2, 0.7]))


def test_reports_are_values(compiled_library: None) -> None:
    report = crossd_ops.self_test("cpu")
    assert pickle.loads(pickle.dumps(report)) == report


# --- subclasses, and modules around the layers ---


class Normalised(crossd_ops.CrossDConv2d):
    """Weight standardisation: a subclass that changes what the layer convolves with, and adds a parameter."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weights_3d
        variance, mean = torch.var_mean(weight, dim=(1, 2, 3, 4), keepdim=True)
        weight = self.gain * (weight - mean) / (variance + 1e-5).sqrt()
        shift = self.predict_shift(input)
        return crossd_ops.crossd_conv2d(input, weight, shift, self.bias, self.stride, self.padding)


def test_subclass() -> None:
    layer = Normalised(3, 4, 3, stride=2, padding=1)
    input = torch.randn(2, 3, 8, 8)
    layer(input).square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert layer.gain.grad is not None and layer.gain.grad.abs().min() > 0
    twin = Normalised(3, 4, 3, stride=2, padding=1)
    twin.load_state_dict(layer.state_dict())
    torch.testing.assert_close(twin.eval()(input), layer.eval()(input))
    assert repr(layer).startswith("Normalised(")


class Classifier(nn.Module):
    """A network of the layers among torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            crossd_ops.CrossDConv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            crossd_ops.CrossDConv2d(6, 8, 3, stride=2),
            nn.ReLU(),
        )
        self.output = nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.output(self.features(image).mean((2, 3)))


def bright_or_dark() -> TensorDataset:
    labels = torch.arange(16) % 2
    return TensorDataset(torch.randn(16, 1, 8, 8) * 0.1 + labels.view(-1, 1, 1, 1), labels)


def accuracy(model: nn.Module) -> float:
    images, labels = bright_or_dark().tensors
    with torch.no_grad():
        return float((model.eval()(images).argmax(1) == labels).float().mean())


def test_module_around_the_layers() -> None:
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(20):
        for image, label in DataLoader(bright_or_dark(), 8):
            optimizer.zero_grad()
            F.cross_entropy(model(image), label).backward()
            optimizer.step()
    assert accuracy(model) == 1
    assert sum(isinstance(module, crossd_ops.CrossDConv2d) for module in model.modules()) == 2
    assert all(parameter.dtype is torch.float64 for parameter in model.double().parameters())


# --- trainers ---


def test_lightning(tmp_path: Path) -> None:
    model_zoo.library("torchvision")  # Lightning's metrics import it, and cannot where it does not fit this torch
    lightning = pytest.importorskip("lightning")

    class Training(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.02)

    module = Training()
    trainer = lightning.Trainer(
        max_epochs=20, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(module, DataLoader(bright_or_dark(), 8))
    assert accuracy(module.model) == 1
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    restored = Training.load_from_checkpoint(checkpoint)
    images = bright_or_dark().tensors[0]
    torch.testing.assert_close(restored.eval().model(images), module.eval().model(images))


def test_monai_trainer() -> None:
    pytest.importorskip("ignite")
    engines = pytest.importorskip("monai.engines")
    model = Classifier()
    data = [{"image": image, "label": label} for image, label in bright_or_dark()]
    trainer = engines.SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=20,
        train_data_loader=DataLoader(data, 8),
        network=model,
        optimizer=torch.optim.Adam(model.parameters(), 0.02),
        loss_function=nn.CrossEntropyLoss(),
    )
    trainer.run()
    assert accuracy(model) == 1


def test_monai_sliding_windows() -> None:
    inferers = pytest.importorskip("monai.inferers")
    model = nn.Sequential(crossd_ops.CrossDConv2d(1, 2, 3, padding=1)).eval()
    image = torch.randn(1, 1, 12, 12)
    with torch.no_grad():
        got = inferers.sliding_window_inference(image, roi_size=(6, 6), sw_batch_size=2, predictor=model, overlap=0)
        expected = torch.cat([torch.cat([model(part) for part in row.split(6, 3)], 3) for row in image.split(6, 2)], 2)
    torch.testing.assert_close(got, expected)


# --- torch.ops ---


def test_operators_are_documented(compiled_library: None) -> None:
    registered = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("crossd_ops::")}
    assert registered == {f"crossd_ops::{name}" for name in DESCRIPTIONS}
    for name, description in DESCRIPTIONS.items():
        operator = getattr(torch.ops.crossd_ops, name)
        assert inspect.getdoc(operator) == inspect.getdoc(operator.default) == inspect.cleandoc(description)
        arguments = [argument.name for argument in operator.default._schema.arguments]
        listed = description.split("Args:")[1].split("Returns:")[0]
        assert [argument for argument in arguments if argument not in listed] == []
