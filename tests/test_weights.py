"""Names of parameters elsewhere: complete both ways, and wrong in no silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfx
from nfx._tree import leaves_by_path
from nfx.models import CONVENTIONS
from nfx.weights import (
    from_official,
    from_timm,
    official_names,
    timm_names,
    to_official,
    to_timm,
)
from tests.reference import (
    create_abstract,
    golden_mapping,
    load_golden,
    meta,
    PARITY_CASES,
    tiny_overrides,
)


TINY = dict(num_classes=10, **tiny_overrides())


# The full sizes repeat the names of the small ones.
@pytest.mark.parametrize(
    "case", [case for case in PARITY_CASES if case not in ("official_nfnet_f1_64",)]
)
def test_weights_go_back_to_where_they_came_from(case):
    golden = load_golden(case)
    name, overrides = PARITY_CASES[case]
    mapping = golden_mapping(golden)
    like = create_abstract(name, num_classes=meta(golden)["num_classes"], **overrides)
    official = case.startswith("official")
    load, export = (from_official, to_official) if official else (from_timm, to_timm)
    back = export(load(mapping, like))
    assert back.keys() == mapping.keys()
    for key, array in mapping.items():
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], array, err_msg=key)


@pytest.mark.slow
def test_official_weights_pass_through_the_names_of_timm():
    golden = load_golden("official_tiny_48x40")
    model = from_official(golden_mapping(golden), create_abstract("nfnet_f0", **TINY))
    ported = create_abstract("timm/dm_nfnet_f0", **TINY, **CONVENTIONS["official"])
    again = from_timm(to_timm(model), ported)
    run = jax.jit(lambda model: jax.vmap(model)(jnp.ones((1, 48, 40, 3))))
    np.testing.assert_array_equal(run(again), run(model))
    back = leaves_by_path(from_timm(to_timm(model), model))
    for path, leaf in leaves_by_path(model).items():
        np.testing.assert_array_equal(back[path], leaf, err_msg=path)


@pytest.mark.slow
def test_the_conventions_of_the_lineages_are_not_the_same_function():
    golden = load_golden("official_tiny_48x40")
    model = from_official(golden_mapping(golden), create_abstract("nfnet_f0", **TINY))
    ported = from_timm(to_timm(model), create_abstract("timm/dm_nfnet_f0", **TINY))
    run = jax.jit(lambda model: jax.vmap(model)(jnp.ones((1, 48, 40, 3))))
    difference = np.abs(run(ported) - run(model)).max() / np.abs(run(model)).max()
    assert 1e-4 < difference < 0.2


@pytest.mark.slow
@pytest.mark.xdist_group("every model")
@pytest.mark.parametrize("name", nfx.list_models("timm/*"))
def test_every_leaf_has_a_name_of_its_own_in_timm(name):
    names = timm_names(create_abstract(name))
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("name", ["nfnet_f7", "nf_resnet600", "nf_regnet_b8", "nfnet_micro"])
def test_every_leaf_has_an_official_name_of_its_own(name):
    names = official_names(create_abstract(name))
    assert len(set(names.values())) == len(names)
    assert any("block_10/" in official for official in names.values()) or name == "nfnet_micro"


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("resnet50", official_names, "A BatchNormNet has no counterpart in the official code"),
        ("resnet50", timm_names, "A BatchNormNet has no counterpart among timm's NormFreeNets"),
        (
            "timm/eca_nfnet_l0",
            official_names,
            "no name in the official code: stages/0/blocks/0/attention/weight",
        ),
    ],
)
def test_models_that_are_not_there_are_refused(name, names, message):
    with pytest.raises(ValueError, match=message):
        names(create_abstract(name))


def tiny_mapping(lineage):
    model = create_abstract("nfnet_f0", **TINY)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), model)
    return (to_official if lineage == "official" else to_timm)(zeros), model


def test_every_problem_is_listed_at_once():
    mapping, model = tiny_mapping("official")
    del mapping["NFNet/~/nf_block_1/~/conv0/w"]
    mapping["NFNet/~/linear/w"] = np.zeros((192, 1000))
    mapping["NFNet/~/final_conv/bias"] = np.full(192, np.nan)
    mapping["NFNet/~/moving_average"] = np.zeros(3)
    with pytest.raises(ValueError, match="do not fit the model") as error:
        from_official(mapping, model)
    for part in (
        "no 'NFNet/~/nf_block_1/~/conv0/w' for 'stages/1/blocks/0/conv0/weight'",
        "'NFNet/~/linear/w' has shape (192, 1000), and 'head/weight' needs (192, 10)",
        "'NFNet/~/final_conv/bias' has values that are not finite",
        "the model has nothing for 'NFNet/~/moving_average', shape (3,)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda m: m.pop("head.fc.bias"), "no 'head.fc.bias' for 'head/bias'"),
        (lambda m: m.update(extra=np.zeros(2)), "nothing for 'extra', shape (2,)"),
        (lambda m: m.update({"head.fc.bias": np.zeros(9)}), "has shape (9,), and 'head/bias'"),
        (
            lambda m: m.update({"head.fc.weight": m["head.fc.weight"].T}),
            "has shape (192, 10), and 'head/weight' needs (10, 192): it looks transposed",
        ),
        (
            lambda m: m.update({"stem.conv2.weight": m["stem.conv2.weight"].transpose(2, 3, 1, 0)}),
            "needs (32, 16, 3, 3): it looks transposed",
        ),
        (lambda m: m.update({"head.fc.bias": np.full(10, np.inf)}), "that are not finite"),
        (lambda m: m.update({"head.fc.bias": np.zeros(10, int)}), "has dtype int64"),
    ],
)
def test_broken_weights_are_refused(break_it, message):
    mapping, model = tiny_mapping("timm")
    break_it(mapping)
    with pytest.raises(ValueError, match="do not fit the model") as error:
        from_timm(mapping, model)
    assert message in str(error.value)


def test_of_much_that_does_not_fit_the_first_is_listed_and_the_question_comes_last():
    _, model = tiny_mapping("timm")
    with pytest.raises(ValueError, match="do not fit the model") as error:
        from_timm({}, model)
    _, *listed, more, question = str(error.value).splitlines()
    assert len(listed) == 20
    assert more == f"  and {len(jax.tree.leaves(model)) - 20} more"
    assert question.startswith("Is it the variant they were made for")


def test_weights_of_half_precision_are_widened():
    mapping, model = tiny_mapping("timm")
    halves = {name: (array + 0.5).astype(np.float16) for name, array in mapping.items()}
    filled = from_timm(halves, model)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(filled))


def test_haiku_s_two_levels_are_joined():
    mapping, model = tiny_mapping("official")
    nested = {}
    for name, array in mapping.items():
        module, _, parameter = name.rpartition("/")
        nested.setdefault(module, {})[parameter] = array
    assert to_official(from_official(nested, model)).keys() == mapping.keys()


@pytest.mark.slow
def test_only_a_replaced_classifier_may_stay(key):
    mapping, _ = tiny_mapping("timm")
    other = {**TINY, "num_classes": 7}
    model = jax.jit(lambda: nfx.create_model("nfnet_f0", key=key, **other))()
    with pytest.raises(ValueError, match="do not fit"):
        from_timm(mapping, model)
    with pytest.warns(UserWarning, match=r"Left as they are in the model: head/weight \(192, 7\)"):
        filled = from_timm(mapping, model, strict=False)
    np.testing.assert_array_equal(filled.head.weight, model.head.weight)
    assert float(jnp.abs(filled.stem[0].weight).max()) == 0
    mapping["stem.conv1.bias"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"'stem.conv1.bias' has shape"):
        from_timm(mapping, model, strict=False)
    with pytest.raises(ValueError, match="cannot be left as they are: the model has shapes"):
        from_timm(tiny_mapping("timm")[0], create_abstract("nfnet_f0", **other), strict=False)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.pop("head.fc.bias"),
        lambda m: [m.pop("head.fc.bias"), m.pop("head.fc.weight")],
        lambda m: m.update({"head.fc.weight": np.full((10, 192), np.nan, np.float32)}),
        lambda m: m.update({"head.fc.weight": m["head.fc.weight"].T}),
        lambda m: m.update({"head.fc.weight": np.zeros((10, 7), np.float32)}),
        lambda m: m.update({"head.fc.weight": np.zeros((9, 192), np.float32)}),
    ],
)
def test_a_broken_classifier_is_not_a_replaced_one(key, spoil):
    mapping, _ = tiny_mapping("timm")
    spoil(mapping)
    for classes in (7, 10):
        model = create_abstract("nfnet_f0", **{**TINY, "num_classes": classes})
        with pytest.raises(ValueError, match="do not fit the model"):
            from_timm(mapping, model, strict=False)
