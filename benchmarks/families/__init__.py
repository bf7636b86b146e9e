"""Which networks people use can be converted, and what keeps the others: `python -m benchmarks.families --help`."""
