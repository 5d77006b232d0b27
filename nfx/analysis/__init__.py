"""Looking into models."""

from nfx.analysis._plot import plot_signal as plot_signal
from nfx.analysis._signal import (
    block_places as block_places,
    expected_signal as expected_signal,
    Signal as Signal,
    signal_propagation as signal_propagation,
    signal_statistics as signal_statistics,
    SignalPropagation as SignalPropagation,
    tap_signal as tap_signal,
)
