"""The CUDA kernels that make columns and take them back, run by the emulator, and under sanitizers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from emulator.build import EMULATOR, assert_check_passes, compile_program, why_not
from emulator.columns_harness import EmulatedColumns

CHECK = EMULATOR / "columns_check.cpp"


@pytest.mark.parametrize(
    ("variant", "options"), [("plain", ()), ("address", ("--one-order",)), ("thread", ("--one-order", "brief"))]
)
def test_kernels_agree_with_the_definition(variant: str, options: tuple[str, ...]) -> None:
    """In three orders of threads, bit for bit the same."""
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    assert_check_passes(compile_program(CHECK, variant), *options)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("channels", [3, 24])
def test_columns_are_those_of_unfold(channels: int, memory_format: torch.memory_format) -> None:
    """Another's definition; torch's fold adds up in another order."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    image = torch.randn(2, channels, 9, 11).contiguous(memory_format=memory_format)
    numbers = (3, 4), (2, 1), (1, 2), (2, 1)
    emulated = EmulatedColumns()
    kernel, stride, padding, dilation = numbers
    expected = F.unfold(image, kernel, dilation, padding, stride)
    found = emulated.image_to_columns(image, *numbers)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    emulated.columns_to_image(found, image, *numbers)
    torch.testing.assert_close(image, F.fold(expected, (9, 11), kernel, dilation, padding, stride))


def test_channels_behind_those_of_the_image_stay() -> None:
    """Of a part of a channels-last image that begins and goes on at whole vectors, but does not end there."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    larger = torch.zeros(2, 40, 5, 6, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    image, numbers = larger[:, :36], ((3, 3), (1, 1), (1, 1), (1, 1))
    EmulatedColumns().columns_to_image(torch.ones(2, 36 * 9, 30, dtype=torch.bfloat16), image, *numbers)
    assert image.amin() == 4 and image.amax() == 9
    assert not larger[:, 36:].any()


def test_columns_that_do_not_fit_are_refused() -> None:
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    with pytest.raises(RuntimeError, match=r"columns: expected pixels and paddings below 2\^31, got 2147483651"):
        EmulatedColumns().image_to_columns(torch.zeros(1, 1, 4, 4), (3, 3), (2**31 - 1, 1), (2**31 - 1, 1), (1, 1))
