"""Networks whose code was written for images, run on volumes: what each call of torch means there, or a refusal."""
