"""What help(torch.ops.crossd_ops.NAME) says: the operators below autograd, for those who register or export them.

Users call the functions and layers of crossd_ops, which differentiate and check arguments for every backend.
"""

from __future__ import annotations

import torch

DESCRIPTIONS: dict[str, str] = {
    "fourier_shift": """Translates a 3D weight by each sample's fractional shift, circularly; no autograd.

    Re IFFT3(FFT3(weight) exp(-2 pi i shift . f)), arXiv 2411.02441; see crossd_ops.fourier_shift.

    Args:
        weight: (O, C, Kd, Kh, Kw), each kernel size from 1 to 15; any strides; float64, float32, bfloat16, float16.
        shift: (B, 3), in elements along (d, h, w); float64 for a float64 weight, else float32.
        dim: spatial axis of the slice, 0 to 2; without an index, 0.
        index: position of the slice, 0 to K - 1; None: the whole weight.
        dtype: of the result.

    Returns:
        (B, O, C, Kd, Kh, Kw), without axis `dim` of the three where an index is given; contiguous.

    Raises:
        ValueError: what was expected and what came.
    """,
    "fourier_shift_backward": """The gradient of fourier_shift; no autograd.

    Args:
        grad: as the result of fourier_shift, any strides.
        weight, shift, dim, index: as given to fourier_shift.
        need_weight, need_shift: which of the two gradients to compute.

    Returns:
        (gradient of weight, gradient of shift), each of the size and dtype of its tensor, or (0,) where not needed.

    Raises:
        ValueError: what was expected and what came.
    """,
    "rotation_head": """The shift of each sample from a map of scores; no autograd.

    Softmax-weighted mean over the pixels of each channel, then axis, angle and shift: see crossd_ops.rotation_shift.

    Args:
        map: (B, 4, H, W), at least one pixel; any strides; float64, float32, bfloat16, float16.
        exact: Rodrigues' rotation instead of the linear one.

    Returns:
        shift (B, 3), in elements, and statistics (B, 4, 3) for rotation_head_backward: maximum, sum of exponentials
        and weighted mean of each channel; float32, or float64 for a float64 map.

    Raises:
        ValueError: what was expected and what came.
    """,
    "rotation_head_backward": """The gradient of rotation_head; no autograd.

    Args:
        grad_shift: (B, 3), as the shift.
        map, exact: as given to rotation_head.
        statistics: as returned by it.

    Returns:
        The gradient of the map, with its size, dtype and, where they leave no holes, strides.

    Raises:
        ValueError: what was expected and what came.
    """,
    "predict_shift": """The whole rotation head, from the input of a layer to its shift; no autograd.

    1x1 convolution to 16 channels, batch norm, ReLU, 1x1 convolution to 4 channels, rotation_head; nothing in between
    is stored.

    Args:
        input: (B, C, H, W), no size 0; any strides; float32, bfloat16 or float16, as each tensor here for itself.
        weight1, bias1: of the first convolution, (16, C, 1, 1) and (16,).
        gain, offset: of the batch norm, (16,) each.
        mean, variance: statistics to use, (16,) each; None, both: those of the batch.
        epsilon: of the batch norm.
        weight2, bias2: of the second convolution, (4, 16, 1, 1) and (4,).
        exact: as for rotation_head.
        running_mean, running_variance: of a batch norm in training, (16,) each, moved by this batch; None, both: none.
        batches: how many it saw, an int64, counted up; None: not counted.
        momentum: share of this batch; None: that of a mean over all batches.

    Returns:
        shift (B, 3), statistics (B, 4, 3) as of rotation_head, and the mean and biased variance (16,) that were used.

    Raises:
        ValueError: what was expected and what came.
    """,
    "predict_shift_backward": """The gradients of predict_shift; no autograd.

    Args:
        grad_shift: (B, 3), as the shift.
        input, weight1, bias1, gain, offset, epsilon, weight2, bias2, exact: as given to predict_shift.
        mean, variance, statistics: as returned by it.
        training: mean and variance are those of the batch, so they depend on the input.
        need_input, need_parameters: which gradients to compute.
        grad_beside: another gradient of the input, of its size and type, added to this one; None: nothing is.

    Returns:
        Gradients of input, weight1, bias1, gain, offset, weight2 and bias2, (0,) where not needed.

    Raises:
        ValueError: what was expected and what came.
    """,
    "convolution": """crossd_ops.crossd_conv2d or, of volumes, crossd_conv3d; no autograd.

    Args:
        input: (B, C * groups, ...), any strides.
        weight: (O, C, Kd, Kh, Kw), each kernel size from 1 to 15; of any of the supported types, whatever the input's.
        shift: (B, 3), in elements along (d, h, w).
        bias: (O,) of the input's type or, beside a half type, float32, or None.
        place: stride, padding and dilation, each once or along each axis, and groups: 4 ints, or 7 of images and 10 of
            volumes. Of images may follow dim, the spatial axis of the slice, 0 to 2, and index, its position, 0 to
            K - 1; otherwise it is the middle one along the first axis. Volumes take the whole weight.

    Returns:
        (B, O, ...) in the memory format of input: contiguous or channels-last, as of torch's own convolutions.

    Raises:
        ValueError: what was expected and what came.
    """,
    "convolution_backward": """The gradients of convolution; no autograd.

    Args:
        grad: as the result of convolution, any strides.
        input, weight, shift, place: as given to convolution.
        need_input, need_weight, need_shift: which gradients to compute.

    Returns:
        Gradients of input, weight and shift, each of the size and dtype of its tensor, or (0,) where not needed; that
        of input in its memory format, the others contiguous.

    Raises:
        ValueError: what was expected and what came.
    """,
    "sample_convolution": """crossd_ops.sample_conv2d or, of volumes, sample_conv3d; no autograd.

    Args:
        input: (B, C * groups, ...), any strides.
        weight: (B, O, C, ...), the kernels of each sample, of the input's type; any strides.
        bias: (O,) of the input's type or, beside a half type, float32, or None.
        place: stride, padding and dilation, each once or along each axis, and groups: 4 ints, or 7 of images and 10 of
            volumes.

    Returns:
        (B, O, ...) in the memory format of input: contiguous or channels-last, as of torch's own convolutions.

    Raises:
        ValueError: what was expected and what came.
    """,
    "sample_convolution_backward": """The gradients of sample_convolution; no autograd.

    Args:
        grad: as the result of sample_convolution, any strides.
        input, weight, place: as given to sample_convolution.
        need_input, need_weight: which gradients to compute.

    Returns:
        Gradients of input and weight, each of the size and dtype of its tensor, or (0,) where not needed; that of input
        in its memory format, the other contiguous.

    Raises:
        ValueError: what was expected and what came.
    """,
    "explain_convolution": """How convolution, or convolution_backward, would convolve, and why; nothing is computed.

    Args:
        input, weight, shift, place: as given to convolution; only sizes, types and memory format are looked at. Without
            a shift as given to sample_convolution.
        backward: of convolution_backward, or sample_convolution_backward.
        on_gpu: as if the tensors lay on a GPU.
        need_input: as given to convolution_backward.

    Returns:
        JSON: key of the problem, chosen method and why; of each method whether it is possible, its bytes, multiply-adds
        and, on a GPU, seconds. See crossd_ops.tuning.choice.

    Raises:
        ValueError: what was expected and what came.
    """,
    "allow_tf32": """Whether torch lets float32 round to TF32 on a GPU, from now on, in this process.

    The functions of crossd_ops say it before each call, as torch.backends.cudnn.conv.fp32_precision and
    torch.backends.cuda.matmul.fp32_precision have it. What this library convolves goes by the former alone.

    Args:
        convolutions: whether they may; at the beginning they may.
        products: whether those of matrices may; at the beginning not. Where they may and convolutions may not, none
            stands for a convolution.

    Returns:
        Nothing.
    """,
    "set_convolution_method": """Has a problem convolved by a method from now on, in this process.

    Args:
        key: of the problem, from explain_convolution.
        method: "grouped", "loop", "matrix", "small", "tiles" or "shared"; None: what the library chooses.

    Returns:
        Nothing.

    Raises:
        ValueError: what was expected and what came. A method that the problem cannot have is refused when it is used.
    """,
}


def attach() -> None:
    """Puts the descriptions where help() looks for them; a library that did not load has no operators."""
    for name, description in DESCRIPTIONS.items():
        if hasattr(torch.ops.crossd_ops, name):
            operator = getattr(torch.ops.crossd_ops, name)
            operator.__doc__ = operator.default.__doc__ = description
