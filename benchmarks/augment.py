"""What augmentation costs on the device, stage by stage, beside timm and Pillow on the host.

    pip install timm torch
    taskset -c 0 python benchmarks/augment.py                # a minute
    taskset -c 0 python benchmarks/augment.py --step         # and its share of a step of NFNet-F0

CPU time of an image, in batches, by compiled programs and timm's transforms called in turn in one
process. All end with normalization. timm's RandAugment has fifteen operations, of which each is
applied always here, as in the paper (half the time is its default); its MixUp and CutMix draw for
each image, and it starts from decoded images as ours does. `--no-timm` leaves it out.
"""

import argparse
import importlib

import jax
import jax.numpy as jnp
import numpy as np
from _measure import interleave, machine, markdown

import nfx
from nfx.augment import augment_batch, Augmentation, RandAugmentRules
from nfx.data import Batch
from nfx.sharding import make_mesh
from nfx.train import create_state, make_train_step, Preprocessing


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RULES: tuple[RandAugmentRules, ...] = ("official", "corrected")
STAGES = {
    "normalize": Augmentation(flip=False),
    "flip": Augmentation(),
    "MixUp": Augmentation(flip=False, mixup_alpha=0.2),
    "CutMix": Augmentation(flip=False, cutmix=True),
    "MixUp and CutMix": Augmentation(flip=False, mixup_alpha=0.2, cutmix=True),
    "erase": Augmentation(flip=False, erase_probability=0.25),
}
LAYERS = {
    f"RandAugment, {layers} layers, {rules}": Augmentation(
        flip=False, randaugment_layers=layers, randaugment_rules=rules
    )
    for rules in RULES
    for layers in (2, 4)
}
RECIPES = {
    f"NFNet: 4 layers, MixUp and CutMix, flip, {rules}": Augmentation(
        mixup_alpha=0.2, cutmix=True, randaugment_layers=4, randaugment_rules=rules
    )
    for rules in RULES
}


def device_call(augmentation, images):
    """Compiles what an augmentation does to a batch, and returns a call of it."""
    count = len(images)
    inputs = (jax.random.split(jax.random.key(0), count), jnp.arange(count), images)
    targets = jax.nn.one_hot(jnp.arange(count), 1000)
    run = lambda *args: augment_batch(augmentation, *args, mean=MEAN, std=STD)
    compiled = jax.jit(run).lower(*inputs, targets).compile()
    return lambda: jax.block_until_ready(compiled(*inputs, targets))


def host_call(layers, whole, images):
    """Returns a call of timm's transforms on a batch: RandAugment, and flip and mixing if whole."""
    # Not among what nfx is checked with.
    torch, data, pillow = map(importlib.import_module, ("torch", "timm.data", "PIL.Image"))
    torch.set_num_threads(1)
    randaugment = data.auto_augment.rand_augment_transform(
        f"rand-m10-n{layers}-p1", {"translate_pct": 0.45, "img_mean": (128, 128, 128)}
    )
    mixup = data.Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, mode="elem", num_classes=1000)
    labels = torch.arange(len(images))
    mean, std = (255 * torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    rng = np.random.default_rng(0)
    mirror = pillow.Transpose.FLIP_LEFT_RIGHT

    def one(image):
        if whole and rng.random() < 0.5:
            image = image.transpose(mirror)
        image = randaugment(image) if layers else image
        return np.moveaxis(np.asarray(image), -1, 0)

    def call():
        pixels = [one(pillow.fromarray(image)) for image in images]
        batch = torch.from_numpy(np.stack(pixels)).float()
        if whole:
            batch, _ = mixup(batch, labels)
        return (batch - mean) / std

    return call


def milliseconds(timings, count):
    return {name: 1000 * timing.cpu / count for name, timing in timings.items()}


def compare(arguments):
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    images = pictures(shape)
    augmentations = STAGES | LAYERS | RECIPES
    calls = {name: device_call(each, jnp.asarray(images)) for name, each in augmentations.items()}
    peers = {}
    if not arguments.no_timm:
        calls["timm: normalize"] = host_call(0, False, images)
        peers["normalize"] = "timm: normalize"
        for layers in (2, 4):
            calls[f"timm: RandAugment, {layers} layers"] = host_call(layers, False, images)
            rules = [
                f"RandAugment, {layers} layers, {rules}" for rules in ("official", "corrected")
            ]
            peers |= dict.fromkeys(rules, f"timm: RandAugment, {layers} layers")
        calls["timm: 4 layers, MixUp and CutMix, flip"] = host_call(4, True, images)
        peers |= dict.fromkeys(RECIPES, "timm: 4 layers, MixUp and CutMix, flip")
    spent = milliseconds(interleave(calls, arguments.rounds), arguments.batch)
    rows = [
        [name, f"{each:.3f}", f"{spent[peers[name]] / each:.1f}" if name in peers else ""]
        for name, each in spent.items()
    ]
    title = f"{arguments.size} px, batch {arguments.batch}"
    print("\n" + markdown([title, "CPU ms an image", "times as fast as timm"], rows), flush=True)


def pictures(shape):
    """Noise on slopes, so that pixels repeat, as they do in photographs, and not only those."""
    count, height, width, channels = shape
    y, x = np.mgrid[:height, :width]
    slopes = np.random.default_rng(0).uniform(-0.5, 0.5, (count, 2, channels))
    smooth = 128 + slopes[:, 0, None, None] * y[..., None] + slopes[:, 1, None, None] * x[..., None]
    noise = np.random.default_rng(1).normal(0, 12, shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def share_of_a_step(arguments):
    """Prints what the recipe takes of a training step at batch 8 and 192 pixels."""
    count, size = 8, 192
    images = pictures((count, size, size, 3))
    augmentation = RECIPES["NFNet: 4 layers, MixUp and CutMix, flip, official"]
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    optimizer = nfx.optim.nfnet_sgd(0.1, clipping=0.01)
    build = lambda: nfx.create_model("nfnet_f0", key=jax.random.key(0))
    state = [create_state(build, optimizer, mesh)]
    step = make_train_step(optimizer, Preprocessing(MEAN, STD, augmentation), mesh)
    batch = Batch(images, np.arange(count, dtype=np.int32))

    def run():
        state[0] = jax.block_until_ready(step(state[0], batch, jax.random.key(1))[0])

    calls = {"step": run, "augmentation": device_call(augmentation, jnp.asarray(images))}
    # Not in turn: the memory of a step is given back while the next call runs.
    timings = {
        name: interleave({name: call}, arguments.rounds)[name] for name, call in calls.items()
    }
    spent = milliseconds(timings, count)
    rows = [[name, f"{each:.2f}", f"{each / spent['step']:.2%}"] for name, each in spent.items()]
    header = [f"nfnet_f0 @ {size}, batch {count}", "CPU ms an image", "share"]
    print("\n" + markdown(header, rows), flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-timm", action="store_true")
    parser.add_argument("--step", action="store_true", help="also a training step of NFNet-F0")
    arguments = parser.parse_args()
    print(machine("jax", "nfx", *(() if arguments.no_timm else ("timm", "torch", "pillow"))))
    compare(arguments)
    if arguments.step:
        share_of_a_step(arguments)


if __name__ == "__main__":
    main()
