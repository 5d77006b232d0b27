"""Weight standardization: the reference's outputs. Its laws are in `test_laws.py`."""

import jax.numpy as jnp
import numpy as np

from nfx.nn import standardize_weight, standardize_weight_timm
from tests.reference import load_golden


def test_kernels_are_those_of_the_golden_file():
    golden = load_golden("ws")
    for case in range(int(golden["n"])):
        weight, gain = jnp.asarray(golden[f"{case}/w"]), jnp.asarray(golden[f"{case}/gain"])
        actual = standardize_weight(weight, gain)
        # The official code leaves 1.5e-5 of rounding on a constant kernel; the exact value is 0.
        constant = float(jnp.max(jnp.var(weight, axis=tuple(range(weight.ndim - 1))))) < 1e-12
        atol = 2e-5 if constant else 1e-6
        np.testing.assert_allclose(actual, golden[f"{case}/out"], rtol=1e-5, atol=atol)
        if f"{case}/timm_rule_f64" in golden:
            expected = golden[f"{case}/timm_rule_f64"]
            timm = standardize_weight_timm(weight, gain)
            np.testing.assert_allclose(timm, expected, rtol=1e-5, atol=1e-6)
