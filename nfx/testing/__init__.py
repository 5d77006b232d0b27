"""Laws of clipping, weight standardization, layers, samplers and rewrites, to try on one's own.

Everything here needs the extra `nfx[testing]`.
"""

from nfx.testing._clipping import (
    check_clipping as check_clipping,
    CLIPPING_LAWS as CLIPPING_LAWS,
)
from nfx.testing._law import Law as Law, LawViolation as LawViolation
from nfx.testing._layers import (
    check_example_independence as check_example_independence,
    check_variance_ledger as check_variance_ledger,
    check_variance_preserving as check_variance_preserving,
)
from nfx.testing._rewrites import check_rewrite as check_rewrite, REWRITE_LAWS as REWRITE_LAWS
from nfx.testing._sharding import check_sharding_invariant as check_sharding_invariant
from nfx.testing._standardization import (
    check_standardization as check_standardization,
    STANDARDIZATION_LAWS as STANDARDIZATION_LAWS,
)
