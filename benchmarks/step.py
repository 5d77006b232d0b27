"""A forward pass and a training step, beside timm on PyTorch and a naive formulation.

    pip install timm torch torchvision
    python benchmarks/step.py                                       # NFNet-F0, 192 px, batch 4
    python benchmarks/step.py --model nf_resnet50 --size 224
    taskset -c 0 python benchmarks/step.py --programs forward --batch 1

The alternatives are called in turn in one process, and PyTorch gets as many threads as there are
cores. "naive" is the same network with XLA's grouped convolution and its gradients, and with
weight standardization over four axes: what the official code compiles to. "folded" and "stacked"
are rewrites of `nfx.graph`. timm runs eagerly in channels-last memory, which is its fastest here;
`--torch-compile` adds torch.compile. The programs:

- forward: logits, in inference;
- gradients: forward and backward pass of the cross-entropy;
- step: the same, adaptive gradient clipping and SGD with Nesterov momentum.
"""

import argparse
import contextlib
import importlib
import os
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import interleave, machine, markdown, peak_gigabytes

import nfx
from nfx.graph import fold_weight_standardization, stack_blocks
from nfx.nn import window_padding


TIMM = {"nfnet_f0": "dm_nfnet_f0"}


def grouped_convolution(x, kernel, *, stride, padding, groups):
    """As `nfx.nn.convolve`, left to XLA."""
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (stride, stride),
        window_padding(padding, kernel.shape[0]),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )[0]


def standardize(weight, gain, *, eps=1e-4, axis_name=None):
    fan_in = np.prod(weight.shape[:-1])
    mean, variance = jnp.mean(weight, axis=(0, 1, 2)), jnp.var(weight, axis=(0, 1, 2))
    return (weight - mean) * (gain * jax.lax.rsqrt(jnp.maximum(fan_in * variance, eps)))


@contextlib.contextmanager
def naive_layers():
    jax.clear_caches()
    rules = {"official": standardize, "timm": standardize}
    with (
        mock.patch("nfx.nn._conv.convolve", grouped_convolution),
        mock.patch("nfx.nn._conv.STANDARDIZATIONS", rules),
    ):
        yield
    jax.clear_caches()


def forward(model, images):
    return jax.vmap(model)(images)


def loss(model, images, labels):
    logits = forward(model, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


OPTIMIZER = nfx.optim.nfnet_sgd(0.1, clipping=0.01)


def update(state, images, labels):
    model, opt_state = state
    gradients = jax.grad(loss)(model, images, labels)
    updates, opt_state = OPTIMIZER.update(gradients, opt_state, model)
    return optax.apply_updates(model, updates), opt_state


def nfx_call(program, model, images, labels):
    """Compiles a program and returns a call of it."""
    if program == "forward":
        compiled = jax.jit(forward).lower(model, images).compile()
        return lambda: jax.block_until_ready(compiled(model, images))
    if program == "gradients":
        compiled = jax.jit(jax.grad(loss)).lower(model, images, labels).compile()
        return lambda: jax.block_until_ready(compiled(model, images, labels))
    state = jax.tree.map(jnp.copy, (model, OPTIMIZER.init(model)))
    compiled = jax.jit(update, donate_argnums=0).lower(state, images, labels).compile()
    held = [state]

    def step():
        held[0] = jax.block_until_ready(compiled(held[0], images, labels))

    return step


def nfx_calls(program, name, images, labels, chosen):
    model = jax.jit(lambda key: nfx.create_model(name, key=key))(jax.random.key(0))
    variants = {"nfx": lambda model: model}
    if program == "forward":
        variants["nfx, folded"] = fold_weight_standardization
    else:
        variants["nfx, stacked"] = stack_blocks
        variants["nfx, stacked, convs saved"] = lambda model: stack_blocks(model, remat="convs")
    calls = {
        variant: nfx_call(program, jax.jit(rewrite)(model), images, labels)
        for variant, rewrite in variants.items()
        if chosen is None or variant in chosen
    }
    if chosen is None or "naive" in chosen:
        with naive_layers():
            calls["naive"] = nfx_call(program, model, images, labels)
    return calls


def timm_calls(program, name, images, labels, with_compile):
    # Not among what nfx is checked with.
    timm, torch, agc = map(importlib.import_module, ("timm", "torch", "timm.utils.agc"))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = timm.create_model(TIMM.get(name, name)).to(memory_format=torch.channels_last)
    network.train(program != "forward")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    pixels = torch.from_numpy(np.moveaxis(np.asarray(images), -1, 1).copy())
    pixels = pixels.to(memory_format=torch.channels_last)
    targets = torch.from_numpy(np.asarray(labels)).long()
    clipped = [p for name, p in network.named_parameters() if not name.startswith("head.fc.w")]

    def call(run):
        if program == "forward":
            with torch.inference_mode():
                return run(pixels)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(run(pixels), targets).backward()
        if program == "step":
            agc.adaptive_clip_grad(clipped, clip_factor=0.01)
            optimizer.step()
        return None

    calls = {"timm": lambda: call(network)}
    if with_compile:
        compiled = torch.compile(network)
        calls["timm, compiled"] = lambda: call(compiled)
    return calls


def run(program, arguments):
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    images = jax.random.normal(jax.random.key(1), shape)
    labels = jax.random.randint(jax.random.key(2), shape[:1], 0, 1000)
    calls = {} if arguments.no_timm else timm_calls(
        program, arguments.model, images, labels, arguments.torch_compile
    )  # fmt: skip
    calls |= nfx_calls(program, arguments.model, images, labels, arguments.only)
    timings = interleave(calls, arguments.rounds)
    title = f"{arguments.model} @ {arguments.size}, batch {arguments.batch}: {program}"
    rows = []
    for name, timing in timings.items():
        ratios = [
            f"{timings[peer].cpu / timing.cpu:.2f}" if peer in timings else ""
            for peer in ("timm", "naive")
        ]
        rows.append([name, f"{timing.cpu:.3f}", f"{timing.wall:.3f}", *ratios])
    header = [title, "CPU s", "wall s", "times as fast as timm", "as naive"]
    print("\n" + markdown(header, rows), flush=True)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="nfnet_f0")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", nargs="+", default=["forward", "gradients", "step"])
    parser.add_argument("--only", nargs="+", help="variants of nfx, and naive")
    parser.add_argument("--no-timm", action="store_true")
    parser.add_argument("--torch-compile", action="store_true")
    arguments = parser.parse_args()
    peers = () if arguments.no_timm else ("torch", "timm")
    print(machine("jax", "equinox", "nfx", *peers))
    for program in arguments.programs:
        run(program, arguments)
    print(f"\nPeak memory of the process: {peak_gigabytes():.1f} GiB.")


if __name__ == "__main__":
    main()
