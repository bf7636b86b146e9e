"""Whether float32 may round to TF32 on a GPU, as torch's settings have it: told to the library.

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


def allowed() -> tuple[bool, bool]:
    """Of convolutions and of products of matrices.

    What torch.backends.cudnn.conv.fp32_precision and torch.backends.cuda.matmul.fp32_precision say now, by whichever
    name they were set.
    """
    return _precision("cuda", "conv") == "tf32", _precision("cuda", "matmul") == "tf32"


def follow_torch(input: Tensor) -> None:
    """Tells it to the library, where the type of the input asks for it.

    Every time: who uses C++ in the same process may have told something else since.
    """
    if input.dtype is torch.float32:
        _operators.allow_tf32.default(*allowed())
