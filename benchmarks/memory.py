"""What rematerialization saves, and what it costs: from shapes alone.

    python benchmarks/memory.py                                   # NFNet-F3, 320 px, batch 8
    python benchmarks/memory.py --model nfnet_f0 --size 192

Temporaries are what the compiler sets aside for the gradient program beside its arguments and
results; FLOPs are counted on the graph, recomputation included.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from _measure import machine, markdown

import nfx
from nfx.aot import compile_step
from nfx.graph import stack_blocks


POLICIES = {
    "not stacked": lambda model: model,
    "stacked": stack_blocks,
    "stacked, remat='convs'": lambda model: stack_blocks(model, remat="convs"),
    "stacked, dots saveable": lambda model: stack_blocks(
        model, remat=jax.checkpoint_policies.dots_saveable
    ),
    "stacked, remat='full'": lambda model: stack_blocks(model, remat="full"),
}


def loss(model, images, labels):
    logits = jax.vmap(model)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def report(name, rewrite, size, batch):
    model = jax.eval_shape(lambda: rewrite(nfx.create_model(name, key=jax.random.key(0))))
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return compile_step(jax.grad(loss), model, images, labels).report


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="nfnet_f3")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    print(machine("jax", "equinox", "nfx") + "\n")
    rows, first = [], None
    for policy, rewrite in POLICIES.items():
        one = report(arguments.model, rewrite, arguments.size, arguments.batch)
        first = first or one
        temporaries, without = (r.memory.temporaries or 0 for r in (one, first))
        rows.append(
            [
                policy,
                f"{temporaries / 2**30:.2f}",
                f"{temporaries / without:.2f}",
                f"{one.graph_flops / 1e9:,.0f}",
                f"{one.graph_flops / first.graph_flops - 1:+.1%}",
                f"{one.compile_seconds.cpu:.0f}",
            ]
        )
        print(rows[-1], flush=True)
    title = f"{arguments.model} @ {arguments.size}, batch {arguments.batch}, gradients"
    header = [title, "temporaries, GiB", "ratio", "GFLOP", "more", "compile CPU s"]
    print("\n" + markdown(header, rows))


if __name__ == "__main__":
    main()
