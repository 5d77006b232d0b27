"""What it takes to compile each NFNet, as it is and with its blocks stacked.

    python benchmarks/compile.py                              # F0, F1, F3, F6, F7: half an hour
    python benchmarks/compile.py --models nfnet_f0 nfnet_f6 --programs forward

From shapes alone: nothing is allocated or run. CPU seconds of tracing, lowering and compiling, and
the instructions of the optimized program.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from _measure import machine, markdown, peak_gigabytes

import nfx
from nfx.aot import compile_step
from nfx.graph import stack_blocks


OPTIMIZER = nfx.optim.nfnet_sgd(0.1, clipping=0.01)


def forward(model, images):
    return jax.vmap(model)(images)


def loss(model, images, labels):
    logits = forward(model, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(model, opt_state, images, labels):
    gradients = jax.grad(loss)(model, images, labels)
    updates, opt_state = OPTIMIZER.update(gradients, opt_state, model)
    return optax.apply_updates(model, updates), opt_state


def report(name, program, rewrite, size, batch):
    jax.clear_caches()
    model = jax.eval_shape(lambda: rewrite(nfx.create_model(name, key=jax.random.key(0))))
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    if program == "forward":
        return compile_step(forward, model, images).report
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    opt_state = jax.eval_shape(OPTIMIZER.init, model)
    return compile_step(train, model, opt_state, images, labels).report


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [f"nfnet_f{number}" for number in (0, 1, 3, 6, 7)]
    parser.add_argument("--models", nargs="+", default=names)
    parser.add_argument("--programs", nargs="+", default=["forward", "train"])
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    print(machine("jax", "equinox", "nfx") + "\n")
    rows = []
    for program in arguments.programs:
        for name in arguments.models:
            plain, stacked = (
                report(name, program, rewrite, arguments.size, arguments.batch)
                for rewrite in (lambda model: model, stack_blocks)
            )
            seconds = [
                [f"{s.cpu:.1f}" for s in (r.trace_seconds, r.lower_seconds, r.compile_seconds)]
                for r in (plain, stacked)
            ]
            rows.append(
                [
                    f"{name}, {program}",
                    " + ".join(seconds[0]),
                    " + ".join(seconds[1]),
                    f"{stacked.compile_seconds.cpu / plain.compile_seconds.cpu:.2f}",
                    f"{plain.hlo_instructions:,}",
                    f"{stacked.hlo_instructions:,}",
                    f"{(stacked.hlo_instructions or 0) / (plain.hlo_instructions or 1):.2f}",
                ]
            )
            print(rows[-1], flush=True)
    header = [
        f"batch {arguments.batch} @ {arguments.size}",
        "trace + lower + compile, CPU s",
        "stacked",
        "ratio of compile",
        "HLO instructions",
        "stacked",
        "ratio",
    ]
    print("\n" + markdown(header, rows))
    print(f"\nPeak memory of the process: {peak_gigabytes():.1f} GiB.")


if __name__ == "__main__":
    main()
