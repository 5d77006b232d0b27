"""Laws of clipping, weight standardization, layers and samplers, to try on one's own.

Everything here needs the extra `nfx[testing]`.
"""

from nfx.testing._arrays import array_strategy as array_strategy
from nfx.testing._clipping import (
    check_clipping as check_clipping,
    CLIPPING_LAWS as CLIPPING_LAWS,
)
from nfx.testing._law import Law as Law, LawViolation as LawViolation
from nfx.testing._sharding import check_sharding_invariant as check_sharding_invariant
