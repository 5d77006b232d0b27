"""Parameters and multiply-accumulates of every model, against the published ones.

`python -m tests.test_sizes` writes the table that nfx carries.
"""

import csv
import io
import re
from pathlib import Path

import jax
import pytest

import nfx
from nfx._files import write_whole
from nfx._tree import parameter_count
from nfx.aot import count_macs, model_macs
from nfx.models import model_sizes, model_variant, ModelSize
from tests.reference import create_abstract, every_model, GOLDEN


def read_published():
    with (GOLDEN / "sizes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield row.pop("name"), {field: int(value) for field, value in row.items()}


PUBLISHED = dict(read_published())
ROOT = Path(__file__).parents[1]
SIZES = ROOT / "nfx" / "models" / "sizes.csv"

STALE = "the table is stale: python -m tests.test_sizes"

# Models whose sizes nobody else published.
OWN = ["nfnet_nano", "nfnet_micro", "resnet50", "se_resnext50_d", "se_resnext_micro"]


def measure(name):
    model, variant = create_abstract(name), model_variant(name)
    macs = {size: model_macs(model, size) for size in {variant.train_size, variant.test_size}}
    return ModelSize(parameter_count(model), macs[variant.train_size], macs[variant.test_size])


def test_every_model_is_published_or_nfx_s_own():
    known = {*PUBLISHED, *OWN}
    new = set(nfx.list_models()) - known
    assert not new, "their published sizes belong into the golden file, or their names into OWN"
    assert set(nfx.list_models()) == known


@pytest.mark.xdist_group("every model")  # traced once, by one worker
@pytest.mark.parametrize("name", every_model(others=pytest.mark.slow))
def test_parameters_are_as_many_as_published(name):
    model = create_abstract(name)
    assert parameter_count(model) == model_sizes()[name].parameters, STALE
    if name in PUBLISHED:
        assert parameter_count(model) == PUBLISHED[name]["parameters"]
        assert len(jax.tree.leaves(model)) == PUBLISHED[name]["arrays"]


@pytest.mark.xdist_group("every model")
@pytest.mark.parametrize("name", every_model(others=pytest.mark.long))
def test_multiply_accumulates_are_as_many_as_published(name):
    found = measure(name)
    assert found == model_sizes()[name], STALE
    if name in OWN:
        return
    published, variant = PUBLISHED[name], model_variant(name)
    sizes = (variant.train_size, variant.test_size)
    assert sizes == (published["train_size"], published["test_size"])
    for size, macs in zip(sizes, found[1:], strict=True):
        expected = published["train_macs" if size == sizes[0] else "test_macs"]
        if name.startswith("timm/"):
            assert abs(macs - expected) <= 1e-3 * expected + 0.5e6  # they are rounded to 1e6
        else:
            assert macs_by_official_formula(name, size, macs) == expected


def macs_by_official_formula(name, size, macs):
    """Turns a count on the graph into the official one, which is off in two ways.

    It divides the sizes of maps exactly, where 240 pixels halve to 7.5 and not 8; and in
    NF-ResNets it counts the first 1x1 convolution of a strided block after the stride.
    """
    if size % 32:
        macs = scaled_macs(name, size)
    if name.startswith("nf_resnet"):
        widths = (256, 512, 1024, 2048)
        for stage in (1, 2, 3):
            pixels = (size // (4 * 2 ** (stage - 1))) ** 2
            macs -= pixels * 3 // 4 * widths[stage - 1] * widths[stage] // 4
    return macs


def scaled_macs(name, size):
    """The count at a size that divides exactly, scaled: `a * size**2 + b` in any network."""
    model = create_abstract(name)
    small, large = model_macs(model, 64), model_macs(model, 128)
    per_pixel = (large - small) / (128**2 - 64**2)
    return int(small + per_pixel * (size**2 - 64**2))


@pytest.mark.parametrize("blocks", [50, 101, 152, 200, 288, 600])
def test_nf_resnets_with_squeeze_excite_have_the_published_parameters(blocks):
    published = {
        50: 35_635_704, 101: 63_562_505, 152: 86_565_402, 200: 93_153_834, 288: 213_422_472,
        600: 440_150_896,
    }  # fmt: skip
    model = create_abstract(f"nf_resnet{blocks}", squeeze_excite_ratio=0.25)
    assert parameter_count(model) == published[blocks]


def test_macs_are_those_of_matrix_products_and_convolutions():
    shaped = lambda *shape: jax.ShapeDtypeStruct(shape, jax.numpy.float32)
    product = lambda a, b: a @ b
    assert count_macs(product, shaped(3, 4), shaped(4, 5)) == 3 * 4 * 5
    repeated = lambda a, b: jax.lax.scan(lambda c, _: (c @ b, None), a, length=7)
    assert count_macs(jax.jit(repeated), shaped(4, 4), shaped(4, 4)) == 7 * 4**3
    convolution = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )
    macs = count_macs(convolution, shaped(1, 8, 8, 6), shaped(3, 3, 3, 10))
    assert macs == 4 * 4 * 10 * 3 * 3 * 3


def test_every_model_is_in_the_table_of_the_documentation():
    """By its name, or from the first to the last of a series."""
    page = (ROOT / "docs" / "models.md").read_text()
    table = page[: page.index("\n\nWhere the official code")]
    families = {re.sub(r"\d.*", "", name) for name in nfx.list_models()}
    assert {family for family in families if family not in table} == set()


def write_table(file):
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["name", *ModelSize._fields])
    writer.writerows([name, *measure(name)] for name in nfx.list_models())


if __name__ == "__main__":
    counted = io.StringIO()
    write_table(counted)
    write_whole(SIZES, counted.getvalue())
