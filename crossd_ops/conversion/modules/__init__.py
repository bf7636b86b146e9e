"""Networks as trees of modules: walking, copying, and what a replacement inherits."""
