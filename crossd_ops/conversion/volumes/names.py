"""Names of functions of torch that leave the axes of their tensors alone, where they cannot be derived."""

from __future__ import annotations

# Of one tensor, whose axes the result has.
UNARY = (
    "alpha_dropout", "bfloat16", "bool", "byte", "char", "conj", "contiguous", "cpu", "cuda", "detach", "detach_",
    "dropout", "dropout_", "dropout3d", "feature_dropout", "feature_alpha_dropout", "clone", "double", "float",
    "half", "hardswish", "hardswish_", "int", "long", "logsigmoid", "hardtanh", "hardtanh_", "softsign",
    "tanhshrink", "to", "type", "short", "requires_grad_", "zero_", "fill_", "normal_", "uniform_", "bernoulli",
    "bernoulli_", "random_", "exponential_", "zeros_like", "ones_like", "empty_like", "rand_like", "randn_like",
    "randint_like", "full_like", "fix", "nan_to_num", "relu", "relu_", "relu6", "elu", "elu_", "selu", "selu_",
    "celu", "celu_", "leaky_relu", "leaky_relu_", "gelu", "silu", "silu_", "mish", "mish_", "sigmoid", "sigmoid_",
    "tanh", "tanh_", "softplus", "hardsigmoid", "hardsigmoid_", "hardshrink", "softshrink", "threshold",
    "threshold_", "rrelu", "rrelu_", "exp", "log", "sqrt", "rsqrt", "abs", "neg", "square", "sin", "cos", "ceil",
    "floor", "round", "sign", "reciprocal", "isnan", "isfinite", "isinf", "logical_not", "bitwise_not",
    "__neg__", "__pos__", "__abs__", "__invert__", "pin_memory", "share_memory_", "resolve_conj", "resolve_neg",
    "quantize_per_tensor", "dequantize", "new_tensor", "as_subclass", "as_tensor", "asarray",
)  # fmt: skip

# What they give is no tensor with axes of its own.
ASKED = (
    "backward", "data_ptr", "dense_dim", "dim_order", "element_size", "equal", "allclose", "get_device",
    "is_coalesced", "is_complex", "is_conj", "is_contiguous", "is_floating_point", "is_inference", "is_neg",
    "is_nonzero", "is_pinned", "is_same_size", "is_shared", "is_signed", "item", "nelement", "numel",
    "record_stream", "register_hook", "register_post_accumulate_grad_hook", "retain_grad",
    "storage_offset", "stride", "untyped_storage", "storage", "__bool__", "__float__", "__int__",
    "__index__", "__repr__", "__format__", "__len__", "__deepcopy__", "__reduce_ex__", "__dlpack_device__",
    "is_tensor", "result_type", "can_cast", "promote_types", "is_storage", "isreal",
)  # fmt: skip

# Element by element of several tensors; for the most part they are known by the tag of their operator.
POINTWISE = (
    "__add__", "__radd__", "__iadd__", "__sub__", "__rsub__", "__isub__", "__mul__", "__rmul__", "__imul__",
    "__truediv__", "__itruediv__", "__div__", "__rdiv__", "__idiv__", "__rtruediv__", "__pow__", "__rpow__",
    "__ipow__", "__mod__", "__rmod__", "__imod__", "__floordiv__", "__rfloordiv__", "__ifloordiv__", "__and__",
    "__rand__", "__iand__", "__or__", "__ror__", "__ior__", "__xor__", "__rxor__", "__ixor__", "__eq__", "__ne__",
    "__lt__", "__le__", "__gt__", "__ge__", "__lshift__", "__rlshift__", "__rshift__", "__rrshift__", "copy_",
    "type_as", "isclose", "masked_fill", "masked_fill_", "where", "floor_divide", "floor_divide_", "multiply",
    "multiply_", "divide", "divide_", "subtract", "subtract_", "negative", "negative_", "absolute", "absolute_",
    "greater", "greater_equal", "less", "less_equal", "not_equal", "arctan2", "sigmoid_focal_loss", "mse_loss",
    "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div",
    "soft_margin_loss", "poisson_nll_loss", "gaussian_nll_loss", "hinge_embedding_loss",
)  # fmt: skip
