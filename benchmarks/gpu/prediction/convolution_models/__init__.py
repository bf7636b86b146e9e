"""Models of the kernels of convolutions, beside tiles_models.py."""
