"""The training script: killed anywhere it resumes bit for bit, in several processes it agrees, bad input is refused."""

from __future__ import annotations

import csv
import importlib.util
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.train.state import load_checkpoint, save_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES, BATCH, EPOCHS = 26, 4, 3
STEPS = EPOCHS * (IMAGES // BATCH)

needs_packages = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="the training script needs matplotlib (the bench extra)",
)
needs_fork = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a fork server is at hand on Linux alone")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as those of MedMNIST."""
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    arrays = {}
    for part, count in (("train", IMAGES), ("val", 9)):
        arrays[f"{part}_images"] = generator.integers(0, 256, (count, 16, 16), dtype=np.uint8)
        arrays[f"{part}_labels"] = generator.integers(0, 3, (count, 1), dtype=np.uint8)
    np.savez(path, **arrays)
    return path


def arguments(images: Path, out: Path, *more: str) -> list[str]:
    """A run of a few seconds with a checkpoint after every other step."""
    sizes = ["--width", "4", "--batch", str(BATCH), "--epochs", str(EPOCHS), "--decay-every", "2"]
    often = ["--checkpoint-every", "2", "--log-every", "1"]
    return ["--data", str(images), "--out", str(out), "--device", "cpu", *sizes, *often, *more]


def train(run: list[str], log: Path) -> None:
    """Body of a process: `benchmarks.train` with these arguments, its output in `log`."""
    from benchmarks.train.__main__ import main

    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.exit(main(run))


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Makes processes that have imported everything, in which no thread of torch's was ever started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.train.loop", "benchmarks.train", "matplotlib.pyplot"])
    return context


def start(processes: ForkServerContext, run: list[str], log: Path) -> ForkServerProcess:
    process = processes.Process(target=train, args=(run, log))
    process.start()
    return process


def run_whole(processes: ForkServerContext, run: list[str], log: Path) -> int | None:
    process = start(processes, run, log)
    process.join(120)
    return process.exitcode


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(one: object, other: object, place: str = "") -> None:
    """Equal to the last bit, through nested containers."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{place}/{number}")
    else:
        assert one == other, place


@pytest.fixture(scope="module")
def uninterrupted(images: Path, processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("uninterrupted")
    assert run_whole(processes, arguments(images, out), out / "log") == 0, (out / "log").read_text()
    return out


def assert_same_run(out: Path, expected: Path) -> None:
    for name in ("losses.csv", "validation.csv"):
        assert (out / name).read_text() == (expected / name).read_text()
    assert_same(load_checkpoint(out / "checkpoint.pt"), load_checkpoint(expected / "checkpoint.pt"))


@needs_packages
@needs_fork
def test_a_run_writes_everything(uninterrupted: Path) -> None:
    losses = read_table(uninterrupted / "losses.csv")
    assert [int(row["step"]) for row in losses] == list(range(1, STEPS + 1))
    assert [float(row["learning_rate"]) for row in losses[-7:]] == [1e-3, *[1e-4] * 6]
    assert len({row["loss"] for row in losses}) == STEPS
    validation = read_table(uninterrupted / "validation.csv")
    assert [row["epoch"] for row in validation] == ["1", "2", "3"]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in validation)
    assert (uninterrupted / "losses.png").read_bytes().startswith(b"\x89PNG")
    state = load_checkpoint(uninterrupted / "checkpoint.pt")
    assert {"model", "optimizer", "scheduler", "scaler", "random", "epoch", "position", "step"} <= state.keys()
    assert state["model"]["layer1.0.conv1.weights_3d"].shape == (4, 4, 3, 3, 3)
    assert (state["epoch"], state["position"], state["step"]) == (EPOCHS, 0, STEPS)
    assert "done" in (uninterrupted / "log").read_text()


@needs_packages
@needs_fork
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_runs_end_as_if_undisturbed(
    images: Path, uninterrupted: Path, processes: ForkServerContext, tmp_path: Path, seed: int
) -> None:
    moments = random.Random(seed)
    run, log, kills = arguments(images, tmp_path, "--resume"), tmp_path / "log", 0
    for kill_step in sorted(moments.sample(range(1, STEPS), 3)):
        process = start(processes, run, log)
        # Waits for progress rather than for a time: where the machine is slow, kills hit training all the same.
        table, deadline = tmp_path / "losses.csv", time.monotonic() + 60
        while process.is_alive() and time.monotonic() < deadline:
            if table.exists() and table.read_text().count("\n") > kill_step:
                break
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills > 0
    assert run_whole(processes, run, log) == 0, log.read_text()
    assert_same_run(tmp_path, uninterrupted)


@needs_packages
@needs_fork
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_saves(
    images: Path, uninterrupted: Path, processes: ForkServerContext, tmp_path: Path, number: signal.Signals
) -> None:
    run, log = arguments(images, tmp_path, "--resume", "--checkpoint-every", "1000"), tmp_path / "log"
    process = start(processes, run, log)
    table = tmp_path / "losses.csv"
    while process.is_alive() and not (table.exists() and table.read_text().count("\n") > 2):
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    step = load_checkpoint(tmp_path / "checkpoint.pt")["step"]
    assert 2 <= step < STEPS
    assert f"stopped by {number.name} after step {step}" in log.read_text()
    assert len(read_table(table)) == step
    assert run_whole(processes, run, log) == 0
    assert f"resuming from step {step}" in log.read_text()
    assert_same_run(tmp_path, uninterrupted)


@needs_packages
@needs_fork
def test_a_finished_run_is_left_as_it_is(
    images: Path, uninterrupted: Path, processes: ForkServerContext, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    before = {path.name: path.read_bytes() for path in uninterrupted.iterdir() if path.name != "log"}
    assert run_whole(processes, arguments(images, uninterrupted), log) == 2
    assert f"--out: expected a folder without a run, got {uninterrupted} with one" in log.read_text()
    other_batch = [*arguments(images, uninterrupted, "--resume"), "--batch", "8"]
    assert run_whole(processes, other_batch, log) == 2
    assert f"--batch: expected 4, as in {uninterrupted / 'checkpoint.pt'}, got 8" in log.read_text()
    assert run_whole(processes, arguments(images, uninterrupted, "--resume"), log) == 0
    assert before == {path.name: path.read_bytes() for path in uninterrupted.iterdir() if path.name != "log"}


@needs_packages
@needs_fork
def test_more_epochs_go_on_with_the_random_numbers_of_the_checkpoint(
    images: Path, uninterrupted: Path, processes: ForkServerContext, tmp_path: Path
) -> None:
    state = load_checkpoint(uninterrupted / "checkpoint.pt")
    state["random"][0]["torch"] = torch.Generator().manual_seed(77).get_state()
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    run = arguments(images, tmp_path, "--resume", "--epochs", str(EPOCHS + 1))
    assert run_whole(processes, run, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    after = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (after["epoch"], after["step"]) == (EPOCHS + 1, STEPS * (EPOCHS + 1) // EPOCHS)
    assert_same(after["random"], state["random"])


@needs_packages
@needs_fork
@pytest.mark.parametrize("damage", ["cut short", "one bit", "not a checkpoint"])
def test_a_damaged_checkpoint_is_refused(
    images: Path, uninterrupted: Path, processes: ForkServerContext, tmp_path: Path, damage: str
) -> None:
    content = bytearray((uninterrupted / "checkpoint.pt").read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    elif damage == "one bit":
        content[len(content) // 2] ^= 4
    else:
        content = bytearray(b"something else")
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    assert run_whole(processes, arguments(images, tmp_path, "--resume"), tmp_path / "log") == 2
    log = (tmp_path / "log").read_text()
    assert f"checkpoint: expected a whole one, got {path}, which is damaged" in log
    assert "Traceback" not in log
    assert path.read_bytes() == content


@needs_packages
def test_two_processes_agree(images: Path, tmp_path: Path) -> None:
    # batch statistics of a layer's last, 1x1 map take two images or more in each process
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = [*command, "-m", "benchmarks.train", *arguments(images, tmp_path, "--epochs", "2", "--resume")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(run, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert "in each of 2 process(es)" in completed.stderr
    rows = read_table(tmp_path / "losses.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 1 + 2 * (IMAGES // (2 * BATCH))))
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert len(state["random"]) == 2
    assert not any(name.startswith("module.") for name in state["model"])


@needs_packages
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "argument --batch: expected a positive integer, got '0'"),
        (["--learning-rate", "-1"], "argument --learning-rate: expected a number from 0, got '-1'"),
        (["--model", "vgg"], "argument --model: invalid choice: 'vgg'"),
        (["--amp", "fp16"], "--amp: expected none or bf16 on a CPU, got fp16"),
        (["--sync-bn"], "--sync-bn: expected GPUs, got a CPU"),
        (["--workers", "-1"], "--workers: expected an integer from 0, got -1"),
        (["--device", "cuda"], "torch finds no CUDA device here"),
    ],
)
def test_bad_options_are_refused(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from benchmarks.train.__main__ import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main(["--data", "head", "--out", str(tmp_path), *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
