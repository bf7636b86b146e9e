"""The compiled library: where it is, what was built, what keeps it from loading."""
