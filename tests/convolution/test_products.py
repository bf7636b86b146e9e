"""Products of columns round float32 on a GPU where convolutions may: csrc/convolution/methods/products.h."""

from __future__ import annotations

from convolution.test_gpu_branch import output_of

COMPARE = """
import itertools
import torch
from torch.profiler import profile
from crossd_ops import crossd_conv2d, crossd_conv3d, sample_conv2d, sample_conv3d, use_backend
from crossd_ops.tuning import choice

OPERATORS = {(2, True): sample_conv2d, (3, True): sample_conv3d, (2, False): crossd_conv2d, (3, False): crossd_conv3d}

def products(operator, given, options):
    with profile() as profiler:
        output = operator(*given, **options)
        found = torch.autograd.grad(output, given, torch.cos(output.detach()))
    names = [event.name for event in profiler.events()]
    return (output, *found), names.count("aten::bmm"), names.count("crossd_ops::image_to_columns")

def compare(sizes, channels, kernel, groups, stride, channels_last, is_given=True, samples=3):
    torch.manual_seed(1)
    axes = len(sizes)
    input = torch.randn(samples, channels, *sizes)
    if channels_last:
        input = input.contiguous(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)
    of_samples = (samples,) if is_given else ()
    weight = torch.randn(*of_samples, 6 * groups, channels // groups, *(kernel,) * (axes if is_given else 3))
    given = [input, weight] if is_given else [input, weight, torch.randn(samples, 3)]
    given = [tensor.requires_grad_() for tensor in given]
    options = {"stride": stride, "padding": kernel // 2, "groups": groups}
    numbers = stride, kernel // 2, 1, groups
    for way in (False, True):  # so small a problem might take another method
        found = choice.explain(*given[:2], None if is_given else given[2], numbers, backward=way, on_gpu=True)
        choice.set_method(found.key, "matrix")
    operator = OPERATORS[axes, is_given]
    results, of_library, columns = products(operator, given, options)
    with use_backend("reference"):
        wanted, _, _ = products(operator, [tensor.detach().double().requires_grad_() for tensor in given], options)
    for result, expected in zip(results, wanted):
        assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()
    return of_library, columns

# Pixels, channels and elements of kernels, whole vectors and not; one pixel; the columns are the image.
CASES = [
    ((4, 4, 4), 8, 2, 1, 1), ((5, 4, 3), 3, 2, 1, 2), ((3, 3, 3), 5, 3, 1, 1), ((2, 2, 2), 4, 1, 1, 1),
    ((3, 5, 3), 7, 1, 1, 1), ((1, 1, 1), 8, 3, 1, 1), ((4, 4, 4), 6, 2, 2, 1), ((9, 8), 9, 3, 3, 1),
    ((8, 8), 6, 2, 2, 2), ((1, 7), 15, 1, 3, 1),
]
for case, channels_last in itertools.product(CASES, (False, True)):
    assert compare(*case, channels_last)[0] == 0, case
for channels_last in (False, True):
    assert compare((4, 5, 4), 8, 2, 1, 1, channels_last, is_given=False)[0] == 0  # of an even size
# Some samples at a time.
assert compare((54, 54, 54), 8, 3, 1, 1, True, samples=2)[1] > 2
torch.backends.cudnn.allow_tf32 = False
assert compare(*CASES[0], False)[0] == 3
"""


def test_columns_are_multiplied_in_tiles_where_float32_may_be_rounded() -> None:
    """As accurate as any here, where there are no tensor cores; the library has no product of theirs."""
    output_of(COMPARE)
