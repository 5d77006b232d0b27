"""Looking into models."""

from nfx.analysis._signal import (
    signal_propagation as signal_propagation,
    SignalPropagation as SignalPropagation,
    trace_statistics as trace_statistics,
)
