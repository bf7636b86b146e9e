"""What users ask when something is odd: build_info, self_test, and the report of `python -m crossd_ops`."""
