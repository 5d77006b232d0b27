"""Looking into models."""

from nfx.analysis._signal import (
    Signal as Signal,
    signal_propagation as signal_propagation,
    signal_statistics as signal_statistics,
    SignalPropagation as SignalPropagation,
    tap_signal as tap_signal,
)
