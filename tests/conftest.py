"""Fixtures of the whole suite: the backends, and tensors to try them on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

import crossd_ops
from crossd_ops.library import loaded
from crossd_ops.operators import backends

BACKENDS = ("reference", "compiled", "emulated")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def compiled_library() -> None:
    """Skips where the compiled operators do not load."""
    if loaded.load_error:
        pytest.skip(loaded.load_error)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn, in force during the test; "emulated" runs the CUDA kernels on the CPU."""
    if request.param == "emulated":
        _register_emulated()
    elif request.param == "compiled":
        request.getfixturevalue("compiled_library")
    with crossd_ops.use_backend(request.param):
        yield request.param


@functools.cache
def _register_emulated() -> None:
    from emulator.build import why_not
    from emulator.harness import EmulatedBackend
    from emulator.rotation_head_harness import EmulatedRotationHead

    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    shift, head = EmulatedBackend(), EmulatedRotationHead()
    operators = SimpleNamespace(
        fourier_shift=shift.fourier_shift,
        fourier_shift_backward=shift.fourier_shift_backward,
        rotation_head=head.rotation_head,
        rotation_head_backward=head.rotation_head_backward,
    )
    backends.register("emulated", operators)
