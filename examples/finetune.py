r"""Fine-tune weights from elsewhere: load, adapt, freeze the backbone by path, train.

    python examples/finetune.py timm/dm_nfnet_f0.dm_in1k --size 64
    python examples/finetune.py weights.npz --model nfnet_f0 --train "head/.*" "final_conv/.*"

Weights come from the Hugging Face Hub, or from a file; the images are those that nfx carries.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

import nfx
from nfx.augment import normalize
from nfx.data import evaluation_batches, load_sample, training_batches
from nfx.optim import train_only


parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("weights", help="a repository on the hub, or a file")
parser.add_argument("--model", help="which model a file is of: see `nfx models`")
parser.add_argument("--train", nargs="+", default=[r"head/.*"], help="patterns of leaf paths")
parser.add_argument("--size", type=int, default=28, help="side that images are resized to")
parser.add_argument("--steps", type=int, default=200)
arguments = parser.parse_args()

splits = load_sample()
key = jax.random.key(0)
model: PyTree = nfx.load_pretrained(arguments.weights, model=arguments.model)
if model.stem[0].weight.shape[2] == 3:  # the images are gray
    model = nfx.graph.adapt_input_channels(model, 1)
model = nfx.graph.reset_classifier(model, len(splits.train.class_names), key=key)
optimizer = train_only(optax.adamw(3e-3), arguments.train)


def prepare(images):
    shape = (len(images), arguments.size, arguments.size, 1)
    return jax.image.resize(normalize(images, (0.286,), (0.353,)), shape, "cubic")


def mean_loss(model, images, labels):
    logits = jax.vmap(model)(prepare(images))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@jax.jit
def step(model, opt_state, images, labels):
    loss, gradients = jax.value_and_grad(mean_loss)(model, images, labels)
    updates, opt_state = optimizer.update(gradients, opt_state, model)
    return optax.apply_updates(model, updates), opt_state, loss


@jax.jit
def correct(model, images, labels):
    return jnp.sum(jnp.argmax(jax.vmap(model)(prepare(images)), axis=-1) == labels)


opt_state = optimizer.init(model)
batches = training_batches(splits.train, 32, seed=0)
for number in range(1, arguments.steps + 1):
    model, opt_state, loss = step(model, opt_state, *next(batches))
    if number % 50 == 0 or number == arguments.steps:
        print(f"step {number}  loss {loss:.3f}")

right = sum(int(correct(model, *batch)) for batch in evaluation_batches(splits.test, 100))
print(f"test accuracy {right / len(splits.test):.1%}")
