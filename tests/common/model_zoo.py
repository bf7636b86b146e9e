"""Networks of torchvision, timm and MONAI to convert, some of each family, with inputs small enough to be quick."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.families.packages import import_torchvision


class Network(NamedTuple):
    """One network of the zoo: what builds it, and the (C, H, W) of its input."""

    build: Callable[[], nn.Module]
    input: tuple[int, int, int]


@functools.cache
def library(name: str) -> ModuleType:
    """torchvision, timm or MONAI; skips the test where it is not installed, or does not fit this torch."""
    try:
        if name != "monai":
            import_torchvision()
        return importlib.import_module(name)
    except Exception as error:
        # Not only ImportError: a torchvision built for another torch fails in ways of its own.
        pytest.skip(f"{name} does not import: {error!r}")


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model: nn.Module = library("torchvision").models.get_model(name, weights=None, num_classes=5, **options)
        return model

    return build


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model: nn.Module = library("timm").create_model(name, num_classes=5, **options)
        return model

    return build


def _monai_resnet() -> nn.Module:
    library("monai")
    nets = importlib.import_module("monai.networks.nets")
    model: nn.Module = nets.resnet18(spatial_dims=2, n_input_channels=1, num_classes=5)
    return model


def _monai_unet() -> nn.Module:
    library("monai")
    nets = importlib.import_module("monai.networks.nets")
    model: nn.Module = nets.UNet(
        spatial_dims=2, in_channels=1, out_channels=5, channels=(8, 16, 32), strides=(2, 2), num_res_units=2
    )
    return model


def _nnunet() -> nn.Module:
    library("dynamic_network_architectures")
    unets = importlib.import_module("dynamic_network_architectures.architectures.unet")
    model: nn.Module = unets.ResidualEncoderUNet(
        input_channels=1, n_stages=3, features_per_stage=(8, 16, 32), conv_op=nn.Conv2d,
        kernel_sizes=[[3, 3]] * 3, strides=[[1, 1], [2, 2], [2, 2]], n_blocks_per_stage=(1, 1, 1), num_classes=5,
        n_conv_per_stage_decoder=(1, 1), conv_bias=True, norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    )  # fmt: skip
    return model


def _smp(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        package = library("segmentation_models_pytorch")
        model: nn.Module = getattr(package, name)("resnet18", encoder_weights=None, classes=5)
        return model

    return build


_NO_EXTRAS = {"aux_logits": False, "init_weights": False}
_NO_BACKBONE = {"weights_backbone": None}

ZOO = {
    "torchvision/alexnet": Network(_torchvision("alexnet"), (3, 64, 64)),
    "torchvision/convnext_tiny": Network(_torchvision("convnext_tiny"), (3, 32, 32)),
    "torchvision/deeplabv3": Network(_torchvision("deeplabv3_mobilenet_v3_large", **_NO_BACKBONE), (3, 32, 32)),
    "torchvision/densenet121": Network(_torchvision("densenet121"), (3, 32, 32)),
    "torchvision/efficientnet_b0": Network(_torchvision("efficientnet_b0"), (3, 32, 32)),
    "torchvision/googlenet": Network(_torchvision("googlenet", **_NO_EXTRAS), (3, 32, 32)),
    "torchvision/inception_v3": Network(_torchvision("inception_v3", **_NO_EXTRAS), (3, 75, 75)),
    "torchvision/mnasnet0_5": Network(_torchvision("mnasnet0_5"), (3, 32, 32)),
    "torchvision/mobilenet_v2": Network(_torchvision("mobilenet_v2"), (3, 64, 64)),
    "torchvision/mobilenet_v3_small": Network(_torchvision("mobilenet_v3_small"), (3, 32, 32)),
    "torchvision/regnet_y_400mf": Network(_torchvision("regnet_y_400mf"), (3, 32, 32)),
    "torchvision/resnet18": Network(_torchvision("resnet18"), (3, 32, 32)),
    "torchvision/resnext50_32x4d": Network(_torchvision("resnext50_32x4d"), (3, 64, 64)),
    "torchvision/shufflenet_v2_x0_5": Network(_torchvision("shufflenet_v2_x0_5"), (3, 32, 32)),
    "torchvision/squeezenet1_1": Network(_torchvision("squeezenet1_1"), (3, 64, 64)),
    "torchvision/swin_t": Network(_torchvision("swin_t"), (3, 32, 32)),
    "torchvision/vgg11": Network(_torchvision("vgg11"), (3, 32, 32)),
    "timm/convnextv2_atto": Network(_timm("convnextv2_atto"), (3, 32, 32)),
    "timm/dla46_c": Network(_timm("dla46_c"), (3, 32, 32)),
    "timm/dm_nfnet_f0": Network(_timm("dm_nfnet_f0"), (3, 33, 33)),
    "timm/dpn48b": Network(_timm("dpn48b"), (3, 64, 64)),
    "timm/edgenext_xx_small": Network(_timm("edgenext_xx_small"), (3, 64, 64)),
    "timm/fastvit_t8": Network(_timm("fastvit_t8"), (3, 64, 64)),
    "timm/ghostnet_050": Network(_timm("ghostnet_050"), (3, 32, 32)),
    "timm/hrnet_w18_small": Network(_timm("hrnet_w18_small"), (3, 32, 32)),
    "timm/mobileone_s0": Network(_timm("mobileone_s0"), (3, 32, 32)),
    "timm/mobilevit_xxs": Network(_timm("mobilevit_xxs"), (3, 64, 64)),
    "timm/nf_regnet_b0": Network(_timm("nf_regnet_b0"), (3, 32, 32)),
    "timm/repvgg_a0": Network(_timm("repvgg_a0"), (3, 32, 32)),
    "timm/res2net50_14w_8s": Network(_timm("res2net50_14w_8s"), (3, 32, 32)),
    "timm/resnest14d": Network(_timm("resnest14d"), (3, 32, 32)),
    "timm/resnetv2_50x1_bit": Network(_timm("resnetv2_50x1_bit"), (3, 32, 32)),
    "timm/skresnet18": Network(_timm("skresnet18"), (3, 32, 32)),
    "timm/test_nfnet": Network(_timm("test_nfnet"), (3, 32, 32)),
    "timm/tf_efficientnet_b0": Network(_timm("tf_efficientnet_b0"), (3, 33, 33)),
    "timm/tf_mixnet_s": Network(_timm("tf_mixnet_s"), (3, 33, 33)),
    "timm/vit_tiny_r_s16_p8": Network(_timm("vit_tiny_r_s16_p8_224", img_size=64), (3, 64, 64)),
    "timm/xception41": Network(_timm("xception41"), (3, 32, 32)),
    "monai/resnet18": Network(_monai_resnet, (1, 32, 32)),
    "monai/unet": Network(_monai_unet, (1, 32, 32)),
    "nnU-Net/ResidualEncoderUNet": Network(_nnunet, (1, 32, 32)),
    "segmentation_models_pytorch/DeepLabV3Plus": Network(_smp("DeepLabV3Plus"), (3, 32, 32)),
}


def images_for(network: Network, count: int) -> Tensor:
    """Images that differ at large, as real ones do: deep networks see hardly a difference between two of noise."""
    channels, *size = network.input
    coarse = F.interpolate(torch.randn(count, channels, 3, 3), size, mode="bilinear")
    return 2 * coarse + 0.5 * torch.randn(count, *network.input)


def output_of(model: nn.Module, input: Tensor) -> Tensor:
    """What the model says, where it says it in a dictionary too."""
    output = model(input)
    result: Tensor = output["out"] if isinstance(output, dict) else output
    return result


@torch.no_grad()
def enliven(model: nn.Module, input: Tensor) -> None:
    """Makes the output of a fresh network depend on its input, and on all of its layers.

    Fresh networks hide what a conversion does wrong: blocks that end in weights of 0 or 1e-6 count for nothing, and
    normalisation by statistics of nothing leaves of the image only rounding.
    """
    for parameter in model.parameters():
        if (parameter == parameter.flatten()[0]).all():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    output_of(model, input)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
