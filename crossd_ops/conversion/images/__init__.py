"""Networks whose code was written for volumes, run on images: calls that mean the same for both, or a refusal."""
