"""Makes the golden files `timm_small_*.npz` and `timm_views.npz`, with timm 1.0.31.

`python make_timm.py` writes them beside itself. It needs torch, torchvision and timm, and not nfx.
The networks were run on torch 2.13.0; their parameters follow from their names and shapes in timm:
those of normalizer-free networks by `rules.timm_param`, those of batch-normalized ones by
`batch_norm_param` below.
"""

import json
import math
from pathlib import Path

import numpy as np
import rules
import timm
import torch
from PIL import Image
from timm.data import create_transform
from timm.models.resnet import Bottleneck, ResNet


# Members of families whose published sizes would take long to compile.
SMALL = {
    "timm_small_nfnet": (
        "nfnet_f0", dict(depths=(1, 2, 1, 1), channels=(32, 64, 96, 96), group_size=16),
    ),
    "timm_small_nf_regnet": (
        "nf_regnet_b0", dict(depths=(1, 2, 1, 1), channels=(32, 64, 96, 128)),
    ),
    "timm_small_nf_seresnet": (
        "nf_seresnet26", dict(depths=(1, 2, 1, 1), channels=(64, 128, 192, 256)),
    ),
    "timm_small_nf_ecaresnet": (
        "nf_ecaresnet26", dict(depths=(1, 2, 1, 1), channels=(64, 128, 192, 256)),
    ),
}  # fmt: skip

BATCH_NORM = {
    "timm_small_resnet": {},
    "timm_small_se_resnext_d": dict(
        cardinality=8, base_width=16, stem_width=32, stem_type="deep", avg_down=True,
        block_args=dict(attn_layer="se"),
    ),
}  # fmt: skip


# Evaluation: sides of images, and what becomes of each: size, share of the side, mode.
IMAGES = [(37, 53), (64, 41), (50, 50), (9, 100), (1, 1)]
VIEWS = [
    (size, crop, mode)
    for size, crop in ((24, 0.9), (27, 0.875), (33, 1.0))
    for mode in ("center", "squash")
]


def batch_norm_param(name, shape):
    if len(shape) > 1:
        return rules.make_array(name, shape, 1 / math.sqrt(math.prod(shape[1:])), 0.0)
    return rules.make_array(name, shape, 0.1, 1.0 if name.endswith("weight") else 0.0)


def run(model, make_parameter, shape):
    """Logits, loss and the norm of each gradient, in the mode that the model is in."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(make_parameter(name, tuple(parameter.shape))))
    count, *_ = shape
    images = torch.from_numpy(rules.make_input(*shape).transpose(0, 3, 1, 2).copy())
    logits = model(images)
    labels = torch.from_numpy(rules.make_labels(count, 10)).long()
    smoothing = rules.LABEL_SMOOTHING
    loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    loss.backward()
    norms = [float(parameter.grad.double().norm()) for parameter in parameters.values()]
    return images, {
        "logits": logits.detach().numpy(),
        "loss": loss.detach().numpy(),
        "param_names": list(parameters),
        "param_shapes": [str(list(parameter.shape)) for parameter in parameters.values()],
        "grad_l2": np.asarray(norms),
        "meta": json.dumps({"num_classes": 10, "input_shape_nhwc": [*shape, 3]}),
    }


def make_views():
    rng = np.random.default_rng(0)
    arrays = {}
    for height, width in IMAGES:
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        arrays[f"image/{height}x{width}"] = pixels
        for size, crop, mode in VIEWS:
            transform = create_transform(
                (3, size, size), interpolation="bicubic", crop_pct=crop, crop_mode=mode,
                normalize=False,
            )  # fmt: skip
            seen = transform(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
            arrays[f"view/{height}x{width}/{mode}/{size}/{crop}"] = seen
    return arrays


def main():
    folder = Path(__file__).parent
    np.savez_compressed(folder / "timm_views.npz", **make_views())
    for name, (base, overrides) in SMALL.items():
        model = timm.create_model(base, num_classes=10, **overrides).eval()
        images, results = run(model, rules.timm_param, (2, 64, 64))
        with torch.no_grad():
            pool = model.forward_head(model.forward_features(images), pre_logits=True).numpy()
        np.savez_compressed(folder / f"{name}.npz", pool=pool, **results)
    for name, arguments in BATCH_NORM.items():
        model = ResNet(Bottleneck, [1, 2, 1, 1], num_classes=10, **arguments).train()
        images, results = run(model, batch_norm_param, (4, 64, 64))
        means = {key: value for key, value in model.named_buffers() if key.endswith("mean")}
        norms = np.asarray([float(value.double().norm()) for value in means.values()])
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
        with torch.no_grad():
            initial = model.eval()(images).numpy()
        np.savez_compressed(
            folder / f"{name}.npz", logits_initial=initial, running_mean_names=list(means),
            running_mean_l2=norms, **results,
        )  # fmt: skip


if __name__ == "__main__":
    main()
