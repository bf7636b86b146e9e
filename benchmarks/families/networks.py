"""The networks of the sweep: the smallest of each family, without pretrained weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from benchmarks.families.packages import import_package

Depth = dict[str, dict[str, int]]


class Network(NamedTuple):
    """What builds one, its input, channels and the size of a square image, and what `to_3d` is told of its depth."""

    build: Callable[[], nn.Module]
    channels: int = 3
    size: int = 32
    depth: Depth | None = None


# One of the smallest models of every family (module) of timm 1.0.31 that has convolutions beyond a patch embedding.
_TIMM = {
    "byoanet": "halonet_h1", "byobnet": "test_byobnet", "coat": "coat_lite_tiny", "convmixer": "convmixer_768_32",
    "convnext": "test_convnext", "cpubone": "cpubone_nano", "csatv2": "csatv2", "cspnet": "cs3darknet_s",
    "cspnext": "cspnext_tiny", "davit": "davit_tiny", "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0",
    "fasternet": "fasternet_t0", "fastvit": "fastvit_t8", "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050", "hardcorenas": "hardcorenas_a", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_small",
    "levit": "levit_conv_128s", "lowformer": "lowformer_b0", "mambaout": "test_mambaout", "maxxvit (CoAtNet)":
    "test_coatnet", "maxxvit (MaxViT)": "test_maxvit", "metaformer": "poolformer_s12",
    "mobilenetv3": "mobilenetv3_small_050", "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny",
    "nest": "nest_tiny", "nextvit": "nextvit_small", "nfnet": "test_nfnet", "pit": "pit_ti_224", "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny", "regnet": "regnetx_002", "repghost": "repghostnet_050", "repvit": "repvit_m0_9",
    "res2net": "res2net50_14w_8s", "resnest": "resnest14d", "resnet": "test_resnet", "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100", "selecsls": "selecsls42", "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1", "sknet": "skresnet18", "starnet": "starnet_s050", "swiftformer": "swiftformer_xs",
    "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_legacy_patch16_224", "tresnet": "tresnet_m",
    "twins": "twins_pcpvt_small", "vgg": "vgg11", "visformer": "visformer_tiny",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224", "vitamin": "vitamin_small_224", "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw", "xception": "legacy_xception", "xception_aligned": "xception41",
    "xcit": "xcit_nano_12_p16_224", "nasnet": "nasnetalarge", "pnasnet": "pnasnet5large",
}  # fmt: skip
_TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11",
)  # fmt: skip
_SEGMENTATION = ("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large")
# Sizes other than 32: what a network was built for, or the least that it takes.
_SIZES = {
    "inception_v3": 80, "inception_v4": 80, "inception_resnet_v2": 80, "nasnetalarge": 64, "pnasnet5large": 64,
    "halonet_h1": 256, "csatv2": 512, "efficientformer_l1": 224, "sequencer2d_s": 224, "xcit_nano_12_p16_224": 224,
    "test_coatnet": 160, "test_maxvit": 160, "maxvit_t": 224, "sam2_hiera_tiny": 224, "davit_tiny": 64,
    "focalnet_tiny_srf": 64, "mvitv2_tiny": 64, "tiny_vit_5m_224": 64, "twins_pcpvt_small": 64, "efficientvit_m0": 64,
    "iformer_t": 64, "vitamin_small_224": 224, "res2net50_14w_8s": 64, "resnest14d": 64, "poolformer_s12": 64,
    "alexnet": 64,
}  # fmt: skip
# A head that pools to 7 rows and has a kernel of 7: of the depth pools leave one slice.
_DEPTHS: dict[str, Depth] = {"vgg11": {"pre_logits.fc1": {"kernel": 1}}}
# Built for images of 64, where they are built for one size.
_BUILT_FOR_64 = (
    "coat_lite_tiny", "gcvit_xxtiny", "hiera_tiny_224", "nest_tiny", "pit_ti_224", "tnt_s_legacy_patch16_224",
    "visformer_tiny", "vit_tiny_r_s16_p8_224", "volo_d1_224", "efficientformerv2_s0", "levit_conv_128s",
)  # fmt: skip


def networks() -> dict[str, Network]:
    """Every network by its package and family."""
    found: dict[str, Network] = {}
    for name in ("resnet18", "test_convnext"):
        build = functools.partial(_timm, name, features_only=True)
        found[f"timm, features_only/{name}"] = Network(build)
    for name in _TORCHVISION:
        found[f"torchvision/{name}"] = Network(functools.partial(_torchvision, name), size=_SIZES.get(name, 32))
    for name in _SEGMENTATION:
        build = functools.partial(_torchvision, name, weights_backbone=None)
        found[f"torchvision/{name}"] = Network(build)
    for name, options in _MONAI.items():
        found[f"monai/{name}"] = Network(functools.partial(_monai, name, options), channels=1)
    for name in ("PlainConvUNet", "ResidualEncoderUNet"):
        found[f"nnU-Net/{name}"] = Network(functools.partial(_nnunet, name), channels=1)
    for name in ("Unet", "DeepLabV3Plus"):
        found[f"segmentation_models_pytorch/{name}"] = Network(functools.partial(_smp, name))
    found["torchxrayvision/DenseNet"] = Network(_xray, channels=1, size=224)
    for family, name in _TIMM.items():
        options = {"img_size": 64} if name in _BUILT_FOR_64 else {}
        size = 64 if options else _SIZES.get(name, 32)
        found[f"timm/{family}: {name}"] = Network(functools.partial(_timm, name, **options), 3, size, _DEPTHS.get(name))
    return found


_MONAI: dict[str, dict[str, Any]] = {
    "resnet18": {"n_input_channels": 1, "num_classes": 5},
    "UNet": {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2},
    "SegResNet": {"init_filters": 8},
    "DynUNet": {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32]},
    "BasicUNet": {"features": (8, 8, 16, 16, 32, 8)},
    "AttentionUnet": {"channels": (8, 16, 32), "strides": (2, 2)},
}


def _timm(name: str, **options: Any) -> nn.Module:
    if not options.get("features_only"):
        options["num_classes"] = 5
    model: nn.Module = import_package("timm").create_model(name, **options)
    return model


def _torchvision(name: str, **options: Any) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=False)
    model: nn.Module = import_package("torchvision").models.get_model(name, weights=None, num_classes=5, **options)
    return model


def _monai(name: str, options: dict[str, Any]) -> nn.Module:
    if name != "resnet18":
        options = {"in_channels": 1, "out_channels": 5, **options}
    model: nn.Module = getattr(import_package("monai.networks.nets"), name)(spatial_dims=2, **options)
    return model


def _nnunet(name: str) -> nn.Module:
    architectures = import_package("dynamic_network_architectures.architectures.unet")
    blocks = {"n_blocks_per_stage": (1, 1, 1)} if "Residual" in name else {"n_conv_per_stage": (2, 2, 2)}
    model: nn.Module = getattr(architectures, name)(
        input_channels=1, n_stages=3, features_per_stage=(8, 16, 32), conv_op=nn.Conv2d,
        kernel_sizes=[[3, 3], [3, 3], [3, 3]], strides=[[1, 1], [2, 2], [2, 2]], num_classes=5,
        n_conv_per_stage_decoder=(1, 1), conv_bias=True, norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, **blocks,
    )  # fmt: skip
    return model


def _smp(name: str) -> nn.Module:
    package = import_package("segmentation_models_pytorch")
    model: nn.Module = getattr(package, name)("resnet18", encoder_weights=None, classes=5)
    return model


def _xray() -> nn.Module:
    model: nn.Module = import_package("torchxrayvision").models.DenseNet(weights=None)
    return model
