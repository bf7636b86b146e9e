"""The shifts recorded on data, and that recording leaves no trace in the model."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossd_ops
from crossd_ops.conversion.calibration import calibrate, mean_shifts


class Network(nn.Module):
    """Two layers, one of them used twice and called by keyword, and one that evaluation leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = crossd_ops.CrossDConv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = crossd_ops.CrossDConv2d(4, 4, 3, padding=1)
        self.auxiliary = crossd_ops.CrossDConv2d(4, 1, 3)

    def forward(self, input: Tensor) -> Tensor:
        features = self.norm(self.first(input))
        features = self.twice(self.twice(input=features))
        return features + self.auxiliary(features).mean() if self.training else features


BATCHES = [torch.randn(size, 2, 6, 5, generator=torch.Generator().manual_seed(size)) for size in (3, 2)]


def inputs_of(model: nn.Module, batches: list[Tensor]) -> dict[str, list[Tensor]]:
    """What every layer was called with in evaluation, by hooks on a copy."""
    model, seen = copy.deepcopy(model).eval(), {}
    for name, module in model.named_modules():
        if isinstance(module, crossd_ops.CrossDConv2d):
            seen[name] = []
            module.register_forward_pre_hook(
                lambda _, positional, named, name=name: seen[name].append((*positional, *named.values())[0]),
                with_kwargs=True,
            )
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return seen


def test_every_sample_of_every_layer_is_recorded() -> None:
    model = Network()
    shifts = calibrate(model, BATCHES, progress=False)
    assert {name: tuple(values.shape) for name, values in shifts.items()} == {
        "first": (5, 3),
        "twice": (10, 3),
        "auxiliary": (0, 3),
    }
    model.eval()
    for name, inputs in inputs_of(model, BATCHES).items():
        if inputs:
            layer = model.get_submodule(name)
            expected = torch.cat([layer.predict_shift(input) for input in inputs])
            torch.testing.assert_close(shifts[name], expected.detach())
    for values in shifts.values():
        assert values.dtype is torch.float32 and values.device.type == "cpu" and not values.requires_grad


@pytest.mark.parametrize(
    "wrap",
    [
        lambda input: (input, torch.zeros(len(input))),
        lambda input: [input],
        lambda input: {"label": 0, "image": input},
        lambda input: {"input": input},
    ],
    ids=["tuple", "list", "image", "input"],
)
def test_kinds_of_batches(wrap: Any) -> None:
    model = Network()
    expected = calibrate(model, BATCHES, progress=False)
    torch.testing.assert_close(calibrate(model, (wrap(input) for input in BATCHES), progress=False), expected)


def test_data_loader() -> None:
    model = Network()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(BATCHES)), batch_size=2)
    got, expected = calibrate(model, loader, progress=True), calibrate(model, BATCHES, progress=False)
    torch.testing.assert_close(got["first"], expected["first"])


def test_what_is_no_tensor_reaches_the_model_as_it_is() -> None:
    class OfPaths(Network):
        def forward(self, input: str) -> Tensor:
            return super().forward(torch.full((2, 2, 4, 4), float(len(input))))

    assert calibrate(OfPaths(), ["a", "bc"], progress=False)["first"].shape == (4, 3)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model = Network().train()
    model.norm.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]

    def batches() -> Iterator[Tensor]:
        yield from BATCHES
        if fails:
            raise RuntimeError("no more data")

    if fails:
        with pytest.raises(RuntimeError, match="no more data"):
            calibrate(model, batches(), progress=False)
    else:
        calibrate(model, batches(), progress=False)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_half_precision_models_and_wrappers() -> None:
    model = Network().to(torch.bfloat16)
    shifts = calibrate(nn.DataParallel(model), [batch.bfloat16() for batch in BATCHES], progress=False)
    assert shifts["module.first"].dtype is torch.float32


def test_compiled_model() -> None:
    model = Network()
    compiled = torch.compile(model, backend="aot_eager")
    model.eval()
    with torch.no_grad():
        compiled(BATCHES[0])
    got = calibrate(compiled, BATCHES, progress=False)
    torch.testing.assert_close(got["_orig_mod.first"], calibrate(model, BATCHES, progress=False)["first"])


def test_a_fixed_shift_is_what_a_layer_uses() -> None:
    model = Network()
    model.first.fix_shift(torch.tensor([0.5, 1.0, 2.0]))
    shifts = calibrate(model, BATCHES, progress=False)
    torch.testing.assert_close(shifts["first"], torch.tensor([0.5, 1.0, 2.0]).expand(5, 3))


def test_works_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert len(calibrate(Network(), BATCHES)["first"]) == 5


def test_mean_shifts() -> None:
    model = Network()
    shifts = calibrate(model, BATCHES, progress=False)
    with pytest.warns(UserWarning, match="auxiliary"):
        means = mean_shifts(model, BATCHES, progress=False)
    torch.testing.assert_close(means["first"], shifts["first"].mean(0))
    assert means["auxiliary"].tolist() == [1, 1, 1]
    with pytest.warns(UserWarning, match="auxiliary"):
        torch.testing.assert_close(mean_shifts(model, shifts), means)


def test_errors() -> None:
    model = Network()
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(model, [], progress=False)
    with pytest.raises(TypeError, match="iterable of batches, got Tensor"):
        calibrate(model, BATCHES[0])
    with pytest.raises(TypeError, match="iterable of batches, got int"):
        calibrate(model, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="iterable of batches, got dict"):
        calibrate(model, {"image": BATCHES[0]})
    with pytest.raises(ValueError, match="'image' or 'input' in a dictionary, got \\['pixels'\\]"):
        calibrate(model, [{"pixels": BATCHES[0]}], progress=False)
    with pytest.raises(ValueError, match="first item"):
        calibrate(model, [()], progress=False)
    with pytest.raises(ValueError, match="expected Cross-D convolutions"):
        calibrate(nn.Conv2d(1, 1, 1), BATCHES)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        calibrate("model", BATCHES)  # type: ignore[arg-type]


def test_errors_of_recorded_shifts() -> None:
    model = nn.Sequential(crossd_ops.CrossDConv2d(2, 4, 3))
    with pytest.raises(ValueError, match=r"none of \['0'\] and unknown \['first'\]"):
        mean_shifts(model, {"first": torch.ones(1, 3)})
    with pytest.raises(ValueError, match=r"\(N, 3\) for 0, got \(3,\)"):
        mean_shifts(model, {"0": torch.ones(3)})
    with pytest.raises(ValueError, match="NaN or infinity in 0"):
        mean_shifts(model, {"0": torch.full((2, 3), torch.nan)})
