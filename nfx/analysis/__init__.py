"""Looking into models."""

from nfx.analysis._signal import (
    SignalPropagation as SignalPropagation,
    signal_propagation as signal_propagation,
    trace_statistics as trace_statistics,
)
