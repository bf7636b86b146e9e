"""Checkpoints of the published code, read into networks of this package and written from them."""

from .published import CheckpointReport, load_published, save_published, with_early_heads

__all__ = ["CheckpointReport", "load_published", "save_published", "with_early_heads"]
