"""What the public functions are made of: the compiled operators, their derivatives, and what stands in for them."""
