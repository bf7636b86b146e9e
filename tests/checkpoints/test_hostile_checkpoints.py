"""Files that pretend to be checkpoints: refused in words, with nothing executed and nothing loaded."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import crossd_ops
from crossd_ops import CrossDConv2d, load_published, save_published


def network() -> nn.Sequential:
    return nn.Sequential(CrossDConv2d(2, 3, 3, bias=False), nn.ReLU(), CrossDConv2d(3, 2, 3, bias=False))


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class SetsState(Calls):
    """The same by way of a state that is handed to a class of ours, which a reader must not look up either."""

    def __reduce__(self) -> tuple[Any, ...]:
        return SetsState, (int,), {"call": self.call}

    def __setstate__(self, state: dict[str, Any]) -> None:
        function, arguments = state["call"]
        function(*arguments)


def attacks(mark: Path) -> dict[str, object]:
    """Values that leave a file when their loading runs what they ask for."""
    touch = Calls(Path.touch, mark)
    return {
        "a function": touch,
        "a shell": Calls(os.system, f"touch {mark}"),
        "eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        "a file that is opened": Calls(open, str(mark), "w"),
        "a state": SetsState(Path.touch, mark),
        "inside of options": argparse.Namespace(lr=0.1, hook=touch),
        "as a key": {touch.call[0]: touch},
        "deep in a list": [[({"value": touch},)]],
        "in an attribute of a tensor": tensor_with(touch),
    }


def tensor_with(value: object) -> torch.Tensor:
    tensor = torch.zeros(2)
    tensor.hook = value  # type: ignore[attr-defined]
    return tensor


def zipped(value: object, path: Path) -> None:
    torch.save(value, path)


def of_old_torch(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def pickled(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("save", [zipped, of_old_torch, pickled], ids=lambda save: save.__name__)
@pytest.mark.parametrize("attack", attacks(Path()))
def test_nothing_of_a_malicious_file_runs(attack: str, save: Callable[[object, Path], None], tmp_path: Path) -> None:
    mark, path, model = tmp_path / "ran", tmp_path / "model.pth", network()
    before = copy.deepcopy(model.state_dict())
    save({"model": model.state_dict(), "extra": attacks(mark)[attack]}, path)
    with pytest.raises(ValueError, match=r"model\.pth: expected (tensors and plain values alone|a checkpoint)"):
        load_published(model, path)
    assert not mark.exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("attack", ["a function", "a shell", "eval", "a file that is opened", "inside of options"])
def test_the_attacks_would_work(attack: str, tmp_path: Path) -> None:
    """Read without care they run: the test above refuses something."""
    mark, path = tmp_path / "ran", tmp_path / "model.pth"
    zipped(attacks(mark)[attack], path)
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.filterwarnings("ignore:.*(torch.jit|TorchScript)")
def test_a_script_is_no_checkpoint(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "model.pth"))
    with pytest.raises(ValueError, match=r"model\.pth: expected"):
        load_published(network(), tmp_path / "model.pth")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "model.pth", network()
    save_published(network(), path)
    before, whole = copy.deepcopy(model.state_dict()), path.read_bytes()
    for length in [*range(0, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.pth: expected a checkpoint, got a file that is truncated"):
            load_published(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    path, saved, model = tmp_path / "model.pth", network(), network()
    save_published(saved, path)
    load_published(model, path.rename(tmp_path / "notes.txt"))
    assert torch.equal(model[0].weights_3d, saved[0].weights_3d)
    other = tmp_path / "model.pth"
    other.write_text("notes")
    with pytest.raises(ValueError, match=r"model\.pth: expected a checkpoint"):
        load_published(model, other)


def test_saving_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt, a full disk, a folder in the way: the file that was there stays as it was."""
    path = tmp_path / "model.pth"
    save_published(network(), path)
    before = path.read_bytes()

    def interrupted(value: object, file: BinaryIO) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_published(network(), path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
    with pytest.raises(FileNotFoundError, match="expected a file in a folder that exists"):
        save_published(network(), tmp_path / "none" / "model.pth")
    with pytest.raises(IsADirectoryError, match="expected a file, got the folder"):
        save_published(network(), tmp_path)


def test_saving_writes_through_links(tmp_path: Path) -> None:
    """What a link leads to is replaced, in its own folder; the links stay."""
    model, folder = network(), tmp_path / "folder"
    folder.mkdir()
    target, link, second = folder / "model.pth", tmp_path / "best.pth", tmp_path / "last.pth"
    link.symlink_to("folder/model.pth")  # relative to the link, and to nothing yet
    second.symlink_to(link)
    for path in (link, second):
        save_published(network(), path)
        save_published(model, path)
        assert link.is_symlink() and second.is_symlink() and not target.is_symlink()
        assert [*folder.iterdir()] == [target] and {*tmp_path.iterdir()} == {folder, link, second}
        loaded = network()
        load_published(loaded, target)
        assert torch.equal(loaded[0].weights_3d, model[0].weights_3d)
        target.unlink()
    save_published(model, tmp_path / "folder" / ".." / "best.pth")
    assert link.is_symlink() and target.is_file()
    folder.joinpath("model.pth").unlink()
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match=r"expected a file in a folder that exists, got .*folder/model\.pth"):
        save_published(model, link)


def test_saving_replaces_no_pipe_and_no_circle_of_links(tmp_path: Path) -> None:
    pipe, circle = tmp_path / "pipe", tmp_path / "circle"
    os.mkfifo(pipe)
    circle.symlink_to(circle)
    for path in (pipe, circle):
        with pytest.raises(OSError, match=r"path: expected a file, got .*, which is a device, a pipe, or a link"):
            save_published(network(), path)
    assert pipe.is_fifo() and circle.is_symlink()


@pytest.mark.parametrize("length", [1, 253, 255])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, length: int) -> None:
    path, model = tmp_path / ("n" * length), network()
    save_published(model, path)
    save_published(model, path)
    load_published(network(), path)
    assert [*tmp_path.iterdir()] == [path]
    with pytest.raises(OSError):
        save_published(model, tmp_path / ("n" * 256))


def test_what_is_no_spectrum_is_refused() -> None:
    model = nn.Sequential(CrossDConv2d(2, 3, 3, bias=False))
    for wrong in (torch.zeros(3, 2, 3, 3, 3), torch.zeros(3, 2, 3, 3, dtype=torch.complex64)):
        with pytest.raises(ValueError, match=r"0\.weights_fft: expected complex \(O, C, K, K, K\)"):
            load_published(model, {"0.weights_fft": wrong})


class OwnConv2d(nn.Conv2d):
    """A convolution of someone's own, which may compute anything."""


class OwnCrossDConv2d(CrossDConv2d):
    """The same of ours."""


def test_layers_of_ones_own_are_not_saved_as_published(tmp_path: Path) -> None:
    pruned = prune.l1_unstructured(CrossDConv2d(2, 2, 3, bias=False), "weights_3d", 0.5)
    cases = {
        "a OwnConv2d": OwnConv2d(2, 2, 1, bias=False),
        "a OwnCrossDConv2d": OwnCrossDConv2d(2, 2, 3, bias=False),
        "weights_3d is computed from other parameters": pruned,
    }
    for reason, layer in cases.items():
        with pytest.raises(ValueError, match=f"1: {reason}"):
            save_published(nn.Sequential(CrossDConv2d(2, 2, 3, bias=False), layer), tmp_path / "model.pth")
    for layer in (OwnCrossDConv2d(2, 2, 3), pruned):
        with pytest.raises(ValueError, match="expected plain CrossDConv2d layers, got others: 0"):
            crossd_ops.with_early_heads(nn.Sequential(layer))


def test_a_compiled_network_is_what_it_wraps(tmp_path: Path) -> None:
    model = network()
    save_published(torch.compile(model), tmp_path / "model.pth")
    other = network()
    load_published(torch.compile(other), tmp_path / "model.pth")
    assert torch.equal(other[2].weights_3d, model[2].weights_3d)
