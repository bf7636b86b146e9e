"""python -m benchmarks.transfer: from 2D training to volumes, recipe by recipe."""
