"""The training run of `benchmarks.train`: epochs, checkpoints, tables of losses, plot."""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import signal
import sys
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import CONVOLUTIONS, build_model, use_channels_last
from benchmarks.progress import progress_bar
from benchmarks.train.data import TrainingData, make_loader, training_batches, validation_batches
from benchmarks.train.processes import Processes, StopRequest, weights_digest
from benchmarks.train.state import (
    StepTable,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
    write_whole,
)

# What a resumed run must have in common with the one that wrote the checkpoint.
_FIXED_OPTIONS = (
    "model",
    "conv",
    "width",
    "batch",
    "learning_rate",
    "weight_decay",
    "decay_every",
    "decay",
    "amp",
    "sync_bn",
    "channels_last",
    "seed",
)
_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A run, new or resumed. Raises ValueError where the options do not fit the data or the checkpoint."""

    def __init__(self, options: argparse.Namespace, data: TrainingData, processes: Processes) -> None:
        self.options, self.data, self.processes = options, data, processes
        self.device = processes.device
        self._layout = torch.channels_last if options.channels_last else torch.contiguous_format
        random.seed(options.seed)
        torch.manual_seed(options.seed)
        sizes = {"classes": data.classes, "in_channels": data.shape[0], "width": options.width}
        model = build_model(options.model, CONVOLUTIONS[options.conv], **sizes)
        self.model = model.to(self.device)
        if options.channels_last:
            use_channels_last(self.model)
        if options.sync_bn and processes.world > 1:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, options.decay_every, options.decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.amp == "fp16")
        self.epoch = self.position = self.step = 0
        self._pending: list[tuple[int, float, Tensor]] = []
        self._batches(epoch=0)
        self._open_folder()
        self.wrapped = processes.wrap(self.model)

    def run(self, stop: StopRequest) -> bool:
        """Train to the last epoch; False where a stop was requested, after the end of that step."""
        while self.epoch < self.options.epochs:
            if not self._train_epoch(stop):
                self._save()
                self._say(
                    f"stopped by {signal.Signals(stop.signal or signal.SIGTERM).name} after step {self.step}; "
                    f"{self._checkpoint} is whole, --resume goes on from it"
                )
                return False
            self._validate()
            self._plot()
            self.scheduler.step()
            self.epoch, self.position = self.epoch + 1, 0
            self._save()
        digests = set(self.processes.gather(weights_digest(self.model)))
        if len(digests) > 1:
            raise RuntimeError(f"weights: expected the same in all processes, got {len(digests)} different sets")
        self._say(f"done: {self.step} steps; weights {digests.pop()} in each of {self.processes.world} process(es)")
        return True

    def _open_folder(self) -> None:
        """Read the checkpoint where there is one, and make the tables go on from there."""
        out = self.options.out
        self._checkpoint = out / "checkpoint.pt"
        if self._checkpoint.exists():
            if not self.options.resume:
                raise ValueError(f"--out: expected a folder without a run, got {out} with one; --resume continues it")
            self._restore(load_checkpoint(self._checkpoint))
            self._say(f"resuming from step {self.step}, epoch {self.epoch + 1}")
        if not self.processes.is_first:
            return
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._losses = StepTable(out / "losses.csv", ["epoch", "learning_rate", "loss"], self.step)
            self._validation = StepTable(out / "validation.csv", ["epoch", "loss", "accuracy"], self.step)
        except OSError as error:
            raise ValueError(f"--out: expected a folder that can be written, got {out} ({error.strerror})") from error

    def _fixed(self) -> dict[str, Any]:
        fixed = {name: getattr(self.options, name) for name in _FIXED_OPTIONS}
        return {**fixed, "data": self.data.description, "processes": self.processes.world}

    def _restore(self, state: dict[str, Any]) -> None:
        for name, value in self._fixed().items():
            before = state.get("options", {}).get(name)
            if before != value:
                option = f"--{name.replace('_', '-')}" if hasattr(self.options, name) else name
                raise ValueError(f"{option}: expected {before}, as in {self._checkpoint}, got {value}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
        set_random_state(state["random"][self.processes.rank], self.device)

    def _save(self) -> None:
        self._write_losses()
        states = self.processes.gather(random_state(self.device))
        if not self.processes.is_first:
            return
        self._losses.sync()
        self._validation.sync()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": states,
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "options": self._fixed(),
        }
        save_checkpoint(self._checkpoint, state)

    def _batches(self, epoch: int) -> list[list[int]]:
        share = {"rank": self.processes.rank, "world": self.processes.world}
        return training_batches(len(self.data.train), self.options.batch, seed=self.options.seed, epoch=epoch, **share)

    def _loader(self, images: Any, batches: list[list[int]]) -> Any:
        workers = self.options.workers
        if workers is None:
            workers = 0 if self.data.in_memory else 4
        return make_loader(images, batches, workers=workers, pinned=self.device.type == "cuda")

    def _train_epoch(self, stop: StopRequest) -> bool:
        """Train on the rest of the epoch; False where a stop was requested."""
        batches = self._batches(self.epoch)
        self.wrapped.train()
        title = f"epoch {self.epoch + 1}/{self.options.epochs}"
        hidden = not self.processes.is_first
        with progress_bar(total=len(batches), initial=self.position, desc=title, unit="step", disable=hidden) as bar:
            for images, targets in self._loader(self.data.train, batches[self.position :]):
                self._train_step(images, targets)
                bar.update()
                if self.step % self.options.log_every == 0:
                    bar.set_postfix_str(f"loss {self._write_losses():.4f}")
                if self.processes.any(stop.signal is not None):
                    return False
                if self.step % self.options.checkpoint_every == 0 and self.position < len(batches):
                    self._save()
        return True

    def _train_step(self, images: Tensor, targets: Tensor) -> None:
        images = images.to(self.device, non_blocking=True, memory_format=self._layout)
        targets = targets.to(self.device, non_blocking=True)
        with self._autocast():
            loss = nn.functional.cross_entropy(self.wrapped(images), targets)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.position += 1
        self._pending.append((self.step, self.scheduler.get_last_lr()[0], loss.detach()))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.options.amp == "none":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, _AUTOCAST_TYPES[self.options.amp])

    def _write_losses(self) -> float:
        """Write the losses since the last time, averaged over the processes; the newest. The only wait for the GPU."""
        if not self._pending:
            return float("nan")
        steps, rates, losses = zip(*self._pending, strict=True)
        self._pending = []
        means = (self.processes.sum(torch.stack(losses)) / self.processes.world).tolist()
        if self.processes.is_first:
            rows = zip(steps, rates, means, strict=True)
            self._losses.append([[step, self.epoch + 1, repr(rate), repr(mean)] for step, rate, mean in rows])
        return means[-1]

    @torch.no_grad()
    def _validate(self) -> None:
        """Mean loss, and share of images or pixels that are classified right, over all validation images."""
        self._write_losses()
        share = {"rank": self.processes.rank, "world": self.processes.world}
        batches = validation_batches(len(self.data.validation), self.options.batch, **share)
        self.processes.share_buffers(self.model)
        self.model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        for images, targets in self._loader(self.data.validation, batches):
            with self._autocast():
                scores = self.model(images.to(self.device, memory_format=self._layout)).float().cpu()
            loss = nn.functional.cross_entropy(scores, targets, reduction="sum").item()
            sums += torch.tensor([loss, (scores.argmax(1) == targets).sum().item(), targets.numel()])
        loss_sum, right, count = self.processes.sum(sums).tolist()
        if self.processes.is_first:
            self._validation.append([[self.step, self.epoch + 1, repr(loss_sum / count), repr(right / count)]])
            self._say(f"epoch {self.epoch + 1}: validation loss {loss_sum / count:.4f}, accuracy {right / count:.4f}")

    def _plot(self) -> None:
        if not self.processes.is_first:
            return
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(8, 4.5))
        for table, style, label in ((self._losses, "-", "training"), (self._validation, "o-", "validation")):
            columns = table.columns()
            axes.plot(columns["step"], columns["loss"], style, label=label, markersize=4)
        title = f"{self.options.model}, {self.options.conv} convolutions"
        axes.set(xlabel="step", ylabel="cross-entropy", title=title)
        axes.legend()
        picture = io.BytesIO()
        figure.savefig(picture, dpi=120, bbox_inches="tight", format="png")
        plt.close(figure)
        write_whole(self.options.out / "losses.png", picture.getvalue())

    def _say(self, text: str) -> None:
        if self.processes.is_first:
            print(text, file=sys.stderr, flush=True)
