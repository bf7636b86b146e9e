"""python -m crossd_ops profile: each layer of a network, each method of its convolution, what is chosen and why."""
