"""Whole networks in training: time, memory, and where the time goes."""
