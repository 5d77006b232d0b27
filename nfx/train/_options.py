"""How a step is computed: the choices that training, its plan and its gradient share."""

from typing import NamedTuple

from nfx.sharding import Communication, FULLY_SHARDED, Rules
from nfx.train._precision import Precision


class StepOptions(NamedTuple):
    """How a step of training is computed.

    Attributes:
        rules: How the state is split over "fsdp": see `state_shardings`.
        communication: In which dtypes parameters and gradients go between devices.
        precision: In which dtypes the network computes.
        microbatches: In how many parts, one after the other, each device takes its examples, for
            activations of one part at a time. The step is the same but for rounding.
        frozen_statistics: Whether a batch-normalized model keeps its running averages, and
            normalizes by them as in inference: for one whose layers of that kind are not trained.
    """

    rules: Rules = FULLY_SHARDED
    communication: Communication = Communication()
    precision: Precision = Precision()
    microbatches: int = 1
    frozen_statistics: bool = False
