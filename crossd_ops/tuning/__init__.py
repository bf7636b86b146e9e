"""Which method a per-sample convolution takes: what the library chooses and why, and what was measured instead."""
