"""Parameters from elsewhere, and back."""

from nfx.weights._official import (
    from_official as from_official,
    official_names as official_names,
    to_official as to_official,
)
