"""Convolutions: whatever their platform and however they are derived, XLA's grouped convolution.

Values are compared in float64, and no test needs to know how a convolution is computed.
"""

import collections
import functools as ft
import math
from typing import NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from nfx.aot import count_macs
from nfx.nn import convolve, LOWERINGS, window_padding
from nfx.nn._formulations import Geometry
from nfx.nn._stack import _saves_convolutions


class Case(NamedTuple):
    """The arguments of a convolution. `inputs` and `outputs` are those of a group."""

    image: tuple[int, int] = (7, 6)
    size: int = 3
    stride: int = 1
    padding: str = "SAME"
    groups: int = 1
    inputs: int = 2
    outputs: int = 3
    batch: int = 3

    @property
    def arguments(self):
        return dict(stride=self.stride, padding=self.padding, groups=self.groups)

    @property
    def images(self):
        return (self.batch, *self.image, self.inputs * self.groups)

    @property
    def kernel(self):
        return (self.size, self.size, self.inputs, self.outputs * self.groups)

    @property
    def geometry(self):
        pixels = window_padding(self.padding, self.size)
        if isinstance(pixels, str):
            windows = (self.size, self.size), (self.stride, self.stride)
            pixels = jax.lax.padtype_to_pads(self.image, *windows, pixels)
        pixels = tuple(map(tuple, pixels))
        sizes = (self.image, (self.size, self.size))
        return Geometry(*sizes, pixels, self.stride, self.groups, self.inputs)

    def random(self, dtype=jnp.float32):
        """Images, a kernel and a direction of change for each."""
        rng = np.random.default_rng(0)
        shapes = 2 * (self.images, self.kernel)
        return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


CASES = {
    "dense": Case(),
    "dense, stride 2": Case(stride=2),
    "dense, stride 2, symmetric": Case(stride=2, padding="symmetric"),
    "dense, stride 3, one image": Case((8, 10), stride=3, padding="symmetric", batch=1),
    "5x5": Case((6, 9), 5),
    "5x5, stride 2": Case((6, 9), 5, 2),
    "5x5, stride 3, symmetric": Case((11, 8), 5, 3, "symmetric"),
    "2x2, stride 2": Case((5, 8), 2, 2),
    "larger than the image": Case((2, 3), 5),
    "stride larger than the image": Case((2, 2), 3, 3),
    "1x1": Case(size=1),
    "1x1, stride 2": Case(size=1, stride=2),
    "1x1, stride 3, symmetric, one image": Case((8, 9), 1, 3, "symmetric", batch=1),
    "1x1, 2 groups": Case(size=1, groups=2),
    "1x1, 3 groups, stride 2": Case(size=1, groups=3, stride=2),
    "a pair": Case(groups=2),
    "a pair, stride 2, one image": Case((8, 6), stride=2, groups=2, batch=1),
    "4 groups, stride 2, symmetric": Case((5, 6), 3, 2, "symmetric", groups=4),
    "6 groups, stride 2, symmetric": Case((8, 6), 3, 2, "symmetric", groups=6),
    "3 groups, 5x5, stride 3": Case((8, 11), 5, 3, groups=3, outputs=2),
    "3 groups": Case(groups=3, inputs=4),
    "a channel a group": Case(groups=4, inputs=1, outputs=2),
    "6 groups of 17, stride 2": Case((5, 4), stride=2, groups=6, inputs=17, outputs=2),
    "17 groups": Case((5, 4), groups=17),
    "17 groups, stride 2": Case((5, 4), stride=2, groups=17, batch=1),
    "17 pairs, symmetric": Case((5, 4), padding="symmetric", groups=34, inputs=1),
    "tall": Case((30, 3)),
    "tall, 5x5, symmetric, one image": Case((32, 5), 5, padding="symmetric", batch=1),
    "tall, stride 2": Case((60, 4), stride=2, batch=5),
    "tall, stride 3, symmetric": Case((91, 7), 5, 3, "symmetric"),
    "tall, stride 2, larger stride than kernel": Case((61, 2), 1, 2, groups=3),
    "tall, 3 groups, stride 2": Case((60, 4), stride=2, groups=3, outputs=2),
    "tall, 17 groups": Case((30, 3), groups=17, inputs=1, outputs=1),
    "2 groups of 64": Case((4, 3), groups=2, inputs=64, outputs=2),
    "2 groups of 64, stride 2": Case((4, 3), stride=2, groups=2, inputs=64, outputs=2),
    "17 groups of 64, stride 2": Case((3, 4), stride=2, groups=17, inputs=64, outputs=1),
}

# One for each way through the tables, with and without stride.
FEW = (
    "dense, stride 2, symmetric", "1x1, stride 2", "4 groups, stride 2, symmetric", "3 groups",
    "17 groups", "tall, 3 groups, stride 2",
)  # fmt: skip

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
few = pytest.mark.parametrize("case", [CASES[name] for name in FEW], ids=FEW)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def reference(x, kernel, case):
    """The whole batch by XLA's grouped convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (case.stride, case.stride),
        window_padding(case.padding, case.size),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=case.groups,
    )


def ours(x, kernel, case):
    return jax.vmap(lambda image: convolve(image, kernel, **case.arguments))(x)


def theirs_of_each(x, kernel, case):
    """As `convolve`: of one image."""
    return reference(x[None], kernel, case)[0]


def ours_of_each(x, kernel, case):
    return convolve(x, kernel, **case.arguments)


def loss_of(function, case):
    """A function whose derivatives of all orders depend on both arguments."""
    return lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel, case)))


def assert_close(found, expected, tolerance=1e-12):
    """Trees are equal up to a share of the largest entry of each leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=1e-300))


# The tables


def computed_by_rows(case, passes=("convolution", "input_gradient", "kernel_gradient")):
    """By pass, a function of its operands that returns what each row of the tables gives."""
    geometry = case.geometry
    rows = [row for table in LOWERINGS.values() for row in table if row.holds(geometry)]
    return {
        name: lambda a, b, name=name: [getattr(row, name)(a, b, geometry) for row in rows]
        for name in passes
    }


@cases
def test_every_formulation_is_the_convolution_or_its_gradient(case, x64):
    x, kernel, _, _ = case.random(jnp.float64)

    @jax.jit
    def run(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: reference(x, kernel, case), x, kernel)
        cotangent = jnp.cos(y)
        operands = ((x, kernel), (cotangent, kernel), (x, cotangent))
        passes = computed_by_rows(case).values()
        found = [compute(*args) for compute, args in zip(passes, operands, strict=True)]
        return found, (y, *pull(cotangent))

    found, expected = run(x, kernel)
    assert case.geometry.output == expected[0].shape[1:3]
    for each, gradient in zip(found, expected, strict=True):
        assert len(each) >= len(LOWERINGS)
        assert_close(each, [gradient] * len(each))


def test_the_cases_reach_every_row():
    for platform, table in LOWERINGS.items():
        for row in table:
            taken = [case for case in CASES.values() if first(platform, case) is row]
            assert {case.stride > 1 for case in taken} == {True, False}, (platform, row.shapes)


def first(platform, case):
    return next(row for row in LOWERINGS[platform] if row.holds(case.geometry))


@st.composite
def drawn_cases(draw):
    side, few = st.integers(1, 9), st.integers(1, 4)
    return Case(
        image=draw(st.tuples(side, side)),
        size=draw(st.integers(1, 5)),
        stride=draw(st.integers(1, 4)),
        padding=draw(st.sampled_from(["SAME", "symmetric"])),
        groups=draw(st.sampled_from([1, 2, 3, 4, 17, 34])),
        inputs=draw(few),
        outputs=draw(few),
        batch=draw(few),
    )


@given(drawn_cases())
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_any_convolution_and_its_gradients_are_those_of_xla(case):
    assume(min(case.geometry.output) > 0)
    with jax.enable_x64(True):
        x, kernel, _, _ = case.random(jnp.float64)
        run = lambda f: jax.value_and_grad(loss_of(f, case), (0, 1))
        both = jax.jit(lambda *args: (run(ours)(*args), run(reference)(*args)))
        assert_close(*both(x, kernel), 1e-11)


# Transformations

TRANSFORMED = {
    "value": lambda f, x, k, dx, dk: f(x, k),
    "jvp by both": lambda f, x, k, dx, dk: jax.jvp(f, (x, k), (dx, dk)),
    "jvp by the images": lambda f, x, k, dx, dk: jax.jvp(lambda x: f(x, k), (x,), (dx,)),
    "jvp by the kernel": lambda f, x, k, dx, dk: jax.jvp(lambda k: f(x, k), (k,), (dk,)),
    "gradient by the images": lambda f, x, k, dx, dk: jax.grad(total(f))(x, k),
    "gradient by the kernel": lambda f, x, k, dx, dk: jax.grad(total(f), 1)(x, k),
    "Hessian times a vector": lambda f, x, k, dx, dk: jax.jvp(both(f), (x, k), (dx, dk)),
    "gradient of the gradient": lambda f, x, k, dx, dk: jax.grad(
        lambda *args: sum(jnp.sum(jnp.cos(g)) for g in both(f)(*args)), (0, 1)
    )(x, k),
    "third derivative": lambda f, x, k, dx, dk: jax.jvp(
        lambda *args: jax.jvp(both(f), args, (dx, dk))[1], (x, k), (dx, dk)
    ),
}


def total(f):
    return lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel)))


def both(f):
    return jax.grad(total(f), (0, 1))


@few
def test_derivatives_of_all_orders_are_those_of_xla(case, x64):
    arguments = case.random(jnp.float64)

    @jax.jit
    def run(*arguments):
        each = (lambda *args, f=f: f(*args, case) for f in (ours, reference))
        return [{name: how(f, *arguments) for name, how in TRANSFORMED.items()} for f in each]

    assert_close(*run(*arguments), 1e-11)


MAPPED = {"images": (0, None), "kernels": (None, 0), "both": (0, 0)}


@few
def test_maps_over_images_kernels_and_both_are_loops(case, x64):
    x, kernel, _, dk = case.random(jnp.float64)
    kernels = jnp.stack([kernel, dk, kernel - dk])

    @jax.jit
    def run(x, kernels):
        found = {}
        for name, f in (("ours", ours_of_each), ("theirs", theirs_of_each)):
            one = lambda x, kernel, f=f: f(x, kernel, case)
            every = {"value": one, "gradients": both(one)}
            found[name] = {
                f"{how} over {over}": jax.vmap(function, axes)(
                    x if axes[0] == 0 else x[0], kernels if axes[1] == 0 else kernel
                )
                for how, function in every.items()
                for over, axes in MAPPED.items()
            }
        return found["ours"], found["theirs"]

    assert_close(*run(x, kernels), 1e-11)


def test_maps_over_other_axes_and_twice_are_loops(x64):
    case = CASES["4 groups, stride 2, symmetric"]
    x, kernel, dx, dk = case.random(jnp.float64)
    x, kernel = jnp.stack([x, dx], axis=2), jnp.stack([kernel, dk], axis=-1)
    run = lambda f: jax.vmap(
        jax.vmap(both(lambda x, k: f(x, k, case)), (0, None)), (2, 4), out_axes=1
    )
    expected = run(theirs_of_each)(x, kernel)
    assert_close(jax.jit(run(ours_of_each))(x, kernel), expected, 1e-11)


@few
def test_gradients_of_each_example_are_those_of_a_loop(case, x64):
    x, kernel, _, _ = case.random(jnp.float64)
    gradient = jax.jit(jax.grad(loss_of(ours_of_each, case), 1))
    mapped = jax.jit(jax.vmap(gradient, (0, None)))(x, kernel)
    assert_close(mapped, jnp.stack([gradient(image, kernel) for image in x]), 1e-11)
    assert_close(
        jnp.sum(mapped, axis=0), jax.jit(jax.grad(loss_of(ours, case), 1))(x, kernel), 1e-11
    )


@pytest.mark.parametrize(
    "case",
    [Case((3, 2), 3, 2, groups=2, inputs=1, outputs=1, batch=1), Case((3, 2), 1, 2, batch=1)],
)
def test_hessians_are_those_of_xla(case, x64):
    x, kernel, _, _ = case.random(jnp.float64)
    run = lambda f: jax.jit(jax.hessian(loss_of(f, case), (0, 1)))(x, kernel)
    assert_close(run(ours), run(reference), 1e-11)


def test_runs_without_jit(x64):
    case = CASES["a pair"]
    x, kernel, _, _ = case.random(jnp.float64)
    run = lambda f: jax.grad(lambda k: jnp.sum(jnp.sin(f(x[0], k, case))))(kernel)
    assert_close(run(ours_of_each), run(theirs_of_each))


def test_runs_op_by_op_where_nans_are_looked_for(x64):
    """As JAX does to say which operation it was."""
    case = CASES["a pair"]
    x, kernel, _, _ = case.random(jnp.float64)
    run = jax.grad(lambda k: jnp.sum(jnp.sin(ours_of_each(x[0], k, case))))
    expected = run(kernel)
    with jax.disable_jit():
        assert_close(run(kernel), expected)
    jitted = jax.jit(ours_of_each, static_argnums=2)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jax.block_until_ready(jitted(jnp.full_like(x[0], jnp.inf), 0 * kernel, case))


def test_kernels_are_square():
    with pytest.raises(ValueError, match="and kernels are square"):
        convolve(jnp.ones((8, 8, 2)), jnp.ones((1, 3, 2, 4)), stride=1, padding="SAME", groups=1)


# Precision


@few
def test_half_precision_accumulates_in_single(case):
    """Of positive numbers, whose sum over 64 images would stop growing in bfloat16."""
    case = case._replace(batch=64)
    x, kernel, _, _ = case.random(jnp.bfloat16)
    x, kernel = abs(x), abs(kernel)
    by_kernel = computed_by_rows(case, ["kernel_gradient"])["kernel_gradient"]

    @jax.jit
    def run(x, kernel):
        y, pull = jax.vjp(lambda *args: ours(*args, case), x, kernel)
        ones = jnp.ones_like(y)
        return y, pull(ones), by_kernel(x, ones)

    y, gradients, tables = run(x, kernel)
    for found in (y, *gradients, *tables):
        assert found.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        x, kernel = (np.asarray(a, np.float64) for a in (x, kernel))
        expected, pull = jax.vjp(lambda *args: reference(*args, case), x, kernel)
        expected_gradients = pull(jnp.ones_like(expected))
    ulp = 2.0**-8
    wide = lambda a: np.asarray(a, np.float64)
    np.testing.assert_allclose(wide(y), expected, rtol=2 * ulp)
    np.testing.assert_allclose(wide(gradients[0]), expected_gradients[0], rtol=2 * ulp)
    for gradient in (gradients[1], *tables):
        np.testing.assert_allclose(wide(gradient), expected_gradients[1], rtol=2 * ulp)


def test_half_precision_accumulates_in_single_with_a_kernel_for_each_image():
    """Which is a sum of products, one for each pixel of the kernel."""
    case = CASES["5x5"]._replace(inputs=16)
    x, kernel, _, _ = case.random(jnp.bfloat16)
    x, kernel = abs(x), abs(kernel)
    mapped = jax.vmap(lambda x, k: ours_of_each(x, k, case))
    found, pull = jax.vjp(mapped, x, jnp.stack([kernel] * case.batch))
    by_images, _ = pull(jnp.ones_like(found))
    wide = lambda a: np.asarray(a, np.float64)
    with jax.enable_x64(True):
        expected, pull = jax.vjp(lambda x: reference(x, wide(kernel), case), wide(x))
        (expected_by_images,) = pull(jnp.ones_like(expected))
    np.testing.assert_allclose(wide(found), expected, rtol=2.0**-8)
    np.testing.assert_allclose(wide(by_images), expected_by_images, rtol=2.0**-8)


# Meshes

MODES = (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit)
modes = pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])


def mesh_of(mode):
    """Half of its devices have nothing of their own to do."""
    return jax.make_mesh((4, 2), ("data", "idle"), axis_types=(mode, mode))


def mean_loss(x, kernel, case):
    return jnp.mean(jnp.sin(ours(x, kernel, case)))


def sharded(mesh, case):
    """Images over the mesh and a kernel that all devices have."""
    x, kernel, _, _ = case.random()
    x = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    return x, jax.device_put(kernel, jax.NamedSharding(mesh, jax.P()))


@ft.cache
def gradients_on_one_device(case):
    x, kernel, _, _ = case.random()
    return jax.jit(jax.grad(lambda *args: mean_loss(*args, case), (0, 1)))(x, kernel)


@modes
@few
def test_gradients_in_shard_map_are_those_of_one_device(case, mode):
    case = case._replace(batch=8)
    mesh = mesh_of(mode)
    loss = jax.shard_map(
        lambda x, kernel: jax.lax.pmean(mean_loss(x, kernel, case), "data"),
        mesh=mesh, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P(),
    )  # fmt: skip
    with jax.set_mesh(mesh):
        found = jax.jit(jax.grad(loss, (0, 1)))(*sharded(mesh, case))
    assert_close(found, gradients_on_one_device(case), 1e-5)


@few
@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_a_sharded_batch_are_those_of_one_device(case, mode):
    case = case._replace(batch=8)
    mesh = mesh_of(mode)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.grad(lambda *args: mean_loss(*args, case), (0, 1)))(
            *sharded(mesh, case)
        )
    assert_close(found, gradients_on_one_device(case), 1e-5)


@pytest.mark.parametrize("name", ["4 groups, stride 2, symmetric", "2 groups of 64, stride 2"])
def test_a_sharded_batch_is_one_for_every_row(name):
    """Those of other platforms too: XLA's partitioner is the same."""
    case = CASES[name]._replace(batch=8)
    x, kernel, _, _ = case.random()
    y = jnp.cos(reference(x, kernel, case))
    passes = computed_by_rows(case)

    @jax.jit
    def run(x, kernel, y):
        operands = ((x, kernel), (y, kernel), (x, y))
        return [f(*args) for f, args in zip(passes.values(), operands, strict=True)]

    mesh = mesh_of(jax.sharding.AxisType.Auto)
    expected = run(x, kernel, y)
    with jax.set_mesh(mesh):
        y = jax.device_put(y, jax.NamedSharding(mesh, jax.P("data")))
        assert_close(run(*sharded(mesh, case), y), expected, 1e-5)


@few
def test_in_explicit_mode_outputs_are_split_as_the_batch_is(case):
    case = case._replace(batch=8)
    mesh = mesh_of(jax.sharding.AxisType.Explicit)
    x, kernel, _, _ = case.random()
    expected = jax.jit(lambda *args: ours(*args, case))(x, kernel)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda *args: ours(*args, case))(*sharded(mesh, case))
    assert found.sharding.spec[0] == "data"
    assert_close(found, expected, 1e-5)


# Platforms


def grouped_convolutions(function, case, *platforms):
    """By platform, how many convolutions of a program have groups, by features or by batch."""
    x, kernel, _, _ = map(jax.typeof, case.random())
    traced = jax.jit(function).trace(x, kernel)
    counts = []
    for platform in platforms:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        one = lambda line: "feature_group_count = 1 :" in line and "batch_group_count = 1 :" in line
        counts.append(sum(not one(line) for line in lines))
    return counts


@cases
def test_programs_are_those_of_their_platform(case):
    """Without groups on a CPU, nor anywhere by the kernel: of that, the value has the only ones."""
    small = case.groups > 1 and case.inputs < 64
    by_images, by_kernel = (jax.grad(loss_of(ours, case), argument) for argument in (0, 1))
    assert grouped_convolutions(by_images, case, "cpu", "tpu", "cuda") == [0, 2 * small, 2 * small]
    assert grouped_convolutions(by_kernel, case, "cpu", "tpu", "cuda") == [0, small, small]


def test_the_count_of_groups_sees_those_of_xla():
    case = CASES["a pair"]
    assert grouped_convolutions(loss_of(reference, case), case, "cpu", "tpu") == [1, 1]
    gradient = jax.grad(loss_of(reference, case), 1)
    assert grouped_convolutions(gradient, case, "cpu", "tpu") == [2, 2]


@few
def test_one_exported_program_for_three_platforms_and_any_batch(case):
    x, kernel, _, _ = case.random()
    gradient = jax.jit(jax.value_and_grad(loss_of(ours, case), (0, 1)))
    batch = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((*batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(gradient, platforms=("cpu", "tpu", "cuda"))(
        images, jax.typeof(kernel)
    )
    loaded = jax.export.deserialize(exported.serialize())
    assert loaded.platforms == ("cpu", "tpu", "cuda")
    assert_close(loaded.call(x, kernel), gradient(x, kernel), 1e-6)


# Programs


def equations(jaxpr):
    """Names of all primitives, with those of inner programs."""
    names = collections.Counter()
    for equation in jaxpr.eqns:
        names[equation.primitive.name] += 1
        for inner in jex.jaxprs_in_params(equation.params):
            names += equations(inner)
    return names


@pytest.mark.parametrize(
    ("policy", "forward"),
    [
        (_saves_convolutions, 2),
        (jax.checkpoint_policies.nothing_saveable, 4),
        (jax.checkpoint_policies.everything_saveable, 2),
    ],
)
def test_saved_convolutions_are_not_recomputed(policy, forward):
    case = Case(groups=2, inputs=2, outputs=2)
    x, kernel, _, _ = case.random()

    def twice(x, kernel):
        return jnp.sum(jnp.sin(ours(jnp.sin(ours(x, kernel, case)), kernel, case)))

    gradient = jax.grad(jax.checkpoint(twice, policy=policy), 1)
    counts = equations(jax.make_jaxpr(gradient)(x, kernel).jaxpr)
    assert counts["nfx_convolution"] == forward
    assert (counts["nfx_input_gradient"], counts["nfx_kernel_gradient"]) == (1, 2)
    assert counts["conv_general_dilated"] == 0


@cases
def test_multiply_accumulates_are_those_of_the_closed_form(case):
    x, kernel, _, _ = map(jax.typeof, case.random())
    y = (case.batch, *case.geometry.output, case.outputs * case.groups)
    one = math.prod(y) * case.size**2 * case.inputs
    loss = loss_of(ours, case)
    assert count_macs(loss, x, kernel) == one
    assert count_macs(loss_of(reference, case), x, kernel) == one
    assert count_macs(jax.grad(loss, 1), x, kernel) == 2 * one
    assert count_macs(jax.grad(loss, (0, 1)), x, kernel) == 3 * one


@few
def test_multiply_accumulates_of_maps_are_those_of_each(case):
    x, kernel, _, _ = map(jax.typeof, case.random())
    gradients = jax.grad(loss_of(ours_of_each, case), (0, 1))
    one = count_macs(loss_of(ours, case), x, kernel)
    assert count_macs(jax.vmap(gradients, (0, None)), x, kernel) == 3 * one


# Arguments


@pytest.mark.parametrize(
    ("channels", "kernel", "groups", "message"),
    [
        (4, (3, 3, 2, 4), 1, r"x has shape \(5, 5, 4\).*with groups=1, x must have 2 channels, wh"),
        (4, (3, 3, 4, 4), 2, "with groups=2, x must have 8 channels"),
        (4, (3, 3, 2, 3), 2, "the kernel's outputs must be a multiple of the groups"),
    ],
)
def test_channels_and_groups_must_agree(channels, kernel, groups, message):
    with pytest.raises(ValueError, match=message):
        convolve(
            jnp.ones((5, 5, channels)), jnp.ones(kernel), stride=1, padding="SAME", groups=groups
        )


def test_a_batch_is_no_image(key):
    # What checks shapes would refuse it first, in these tests alone.
    convolve_anything = getattr(convolve, "__wrapped__", convolve)
    with pytest.raises(ValueError, match=r"takes one image, .*jax\.vmap makes it take a batch"):
        convolve_anything(
            jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4)), stride=1, padding="SAME", groups=1
        )


@pytest.mark.parametrize("size", [1, 3])
def test_dtypes_must_agree(size):
    kernel = jnp.ones((size, size, 2, 3), jnp.bfloat16)
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(TypeError, match="x is float32 and the kernel bfloat16"),
    ):
        convolve(jnp.ones((5, 5, 2)), kernel, stride=1, padding="SAME", groups=1)
