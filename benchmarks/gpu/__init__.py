"""Everything that needs a GPU, in one command: build, tests, sanitizers, benchmarks (`python -m benchmarks.gpu`)."""
