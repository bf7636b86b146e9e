"""python -m benchmarks.train: a training script for one process or torchrun."""
