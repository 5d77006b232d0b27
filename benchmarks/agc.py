"""What adaptive gradient clipping costs in the step of the optimizer, beside optax's.

    python benchmarks/agc.py                      # NFNet-F6: a few minutes and 10 GB
    python benchmarks/agc.py --model nfnet_f0

For the tree as it is, and with the blocks of each stage stacked as for `scan` (on which optax's
clips the wrong units; it is here for its cost). The step is that of SGD with Nesterov momentum.
Times are of compiled steps called in turn; the HLO instructions are those XLA ends with.
"""

import argparse
import time
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nfx
from nfx._tree import leaves_by_path
from nfx.graph import stack_blocks
from nfx.optim import adaptive_grad_clip


def plain_tree(model):
    """The leaves by path, and their units."""
    return leaves_by_path(model), units_by_path(model)


def units_by_path(module):
    axes = jax.tree.structure(module).flatten_up_to(nfx.unit_axes(module))
    return dict(zip(leaves_by_path(module), axes, strict=True))


def stacked_tree(model):
    """The same with the alike blocks of every stage as one stack."""
    return plain_tree(jax.eval_shape(stack_blocks, model))


def compiled_step(clipping, leaves):
    optimizer = optax.chain(clipping, optax.sgd(0.1, momentum=0.9, nesterov=True))
    state = jax.eval_shape(optimizer.init, leaves)
    began = time.process_time()
    step = jax.jit(optimizer.update).lower(leaves, state, leaves).compile()
    seconds = time.process_time() - began
    instructions = sum(" = " in line for line in (step.as_text() or "").splitlines())
    return step, optimizer.init, instructions, seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nfnet_f6")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    model = jax.eval_shape(lambda: nfx.create_model(arguments.model, key=jax.random.key(0)))
    print(f"{arguments.model}: {nfx._tree.parameter_count(model):,} parameters", end="; ")
    print(f"jax {jax.__version__}, optax {optax.__version__}, {jax.devices()[0].device_kind}")
    for name, tree in (("plain", plain_tree), ("stacked", stacked_tree)):
        measure(name, *tree(model), arguments.rounds)


def measure(name, leaves, units, rounds):
    steps = {
        "SGD": compiled_step(optax.identity(), leaves),
        "SGD, global norm": compiled_step(optax.clip_by_global_norm(1.0), leaves),
        "SGD, AGC of optax": compiled_step(optax.adaptive_grad_clip(0.01), leaves),
        "SGD, AGC of nfx": compiled_step(adaptive_grad_clip(0.01, units=units), leaves),
    }
    rng = np.random.default_rng(0)
    params = {
        path: jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / 10)
        for path, leaf in leaves.items()
    }
    gradients = jax.tree.map(lambda p: p * 0.02, params)
    seconds = {method: [] for method in steps}
    for _ in range(rounds):
        for method, (step, init, _, _) in steps.items():
            state = init(params)
            jax.block_until_ready(state)
            began = time.perf_counter()
            jax.block_until_ready(step(gradients, state, params))
            seconds[method].append(time.perf_counter() - began)
    sgd, other = (median(seconds[method]) for method in ("SGD", "SGD, AGC of optax"))
    print(f"\n{name} tree, {len(leaves):,} leaves")
    print("                     ms   of SGD   of optax   HLO instructions   compile, CPU s")
    for method, (_, _, instructions, compiling) in steps.items():
        time_ = median(seconds[method])
        print(
            f"{method:<18} {time_ * 1e3:6.0f}   {time_ / sgd:6.2f}   {time_ / other:8.2f}   "
            f"{instructions:16,}   {compiling:14.1f}"
        )


if __name__ == "__main__":
    main()
