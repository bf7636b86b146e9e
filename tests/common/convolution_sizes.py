"""Images and volumes of sizes that lead to each way to convolve."""

from __future__ import annotations

import pytest

# Channels and pixels, by csrc/convolution/choice.h.
SIZES: dict[str, tuple[int, tuple[int, ...]]] = {
    "small": (4, (6, 7)),
    "matrix": (4, (48, 47)),
    "few pixels": (20, (7, 6)),
    "loop": (4, (182, 181)),
    "grouped": (16, (48, 47)),
    "small volume": (4, (6, 7, 5)),
    "volume": (16, (13, 14, 12)),
}
EVERY_SIZE = pytest.mark.parametrize("channels, pixels", SIZES.values(), ids=SIZES)
