"""Whether convolutions of float32 may round to TF32 on a GPU: as torch's own may, told to the library.

Told before each call that it concerns (first_call.py), and whenever torch.compile or torch.export asks for sizes: what
they make calls the library itself, which then does what it was told last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_operators: Any = torch.ops.crossd_ops
_precision: Callable[[str, str], str] = torch._C._get_fp32_precision_getter


def is_allowed() -> bool:
    """What torch.backends.cudnn.conv.fp32_precision, or cudnn.allow_tf32, says now."""
    return _precision("cuda", "conv") == "tf32"


def follow_torch(input: Tensor) -> None:
    """Tells it to the library, where the type of the input asks for it.

    Every time: who uses C++ in the same process may have told something else since.
    """
    if input.dtype is torch.float32:
        _operators.allow_tf32.default(is_allowed())
