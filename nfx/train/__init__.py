"""Training and evaluation."""

from nfx.train._bad_images import BadImagesLog as BadImagesLog, read_bad_images as read_bad_images
from nfx.train._boards import (
    Board as Board,
    check_wandb as check_wandb,
    open_boards as open_boards,
)
from nfx.train._display import Display as Display, timed as timed
from nfx.train._errors import (
    NotFiniteError as NotFiniteError,
    RunDirectoryError as RunDirectoryError,
    TrainingError as TrainingError,
    TrainingStopped as TrainingStopped,
)
from nfx.train._gradients import check_microbatches as check_microbatches
from nfx.train._hang import hang_files as hang_files, HangWatch as HangWatch
from nfx.train._lock import lock_directory as lock_directory
from nfx.train._loop import (
    Cadence as Cadence,
    Due as Due,
    Evaluation as Evaluation,
    Observer as Observer,
    run_evaluation as run_evaluation,
    run_training as run_training,
)
from nfx.train._losses import (
    one_hot as one_hot,
    smoothed_cross_entropy as smoothed_cross_entropy,
)
from nfx.train._metrics import MetricsLog as MetricsLog, read_metrics as read_metrics
from nfx.train._nonfinite import (
    NonfiniteLog as NonfiniteLog,
    NonfiniteStep as NonfiniteStep,
    read_nonfinite as read_nonfinite,
)
from nfx.train._options import StepOptions as StepOptions
from nfx.train._outcomes import (
    make_outcome_step as make_outcome_step,
    Outcomes as Outcomes,
    run_outcomes as run_outcomes,
)
from nfx.train._pace import Pace as Pace, without_pace as without_pace
from nfx.train._placement import (
    idle_axes as idle_axes,
    shard_gradients as shard_gradients,
    shard_model as shard_model,
    state_shardings as state_shardings,
    state_specs as state_specs,
)
from nfx.train._plan import (
    ExpectedCollectives as ExpectedCollectives,
    LeafPlan as LeafPlan,
    Plan as Plan,
    plan_step as plan_step,
)
from nfx.train._plan_table import plan_tables as plan_tables
from nfx.train._plots import (
    draw_clipped_shares as draw_clipped_shares,
    plot_clipping as plot_clipping,
)
from nfx.train._precision import (
    apply_precisely as apply_precisely,
    Precision as Precision,
    PrecisionName as PrecisionName,
    PRECISIONS as PRECISIONS,
)
from nfx.train._preprocessing import (
    augment_examples as augment_examples,
    AugmentedExamples as AugmentedExamples,
    Preprocessing as Preprocessing,
)
from nfx.train._processes import (
    any_process as any_process,
    compile_for_all as compile_for_all,
    initialize_processes as initialize_processes,
    is_first_process as is_first_process,
    number_of_first as number_of_first,
    ProcessOptions as ProcessOptions,
    wait_for_all as wait_for_all,
)
from nfx.train._run_directory import (
    check_free as check_free,
    has_begun as has_begun,
    make_directory as make_directory,
    RunDirectory as RunDirectory,
)
from nfx.train._signals import stop_on_signals as stop_on_signals, StopRequest as StopRequest
from nfx.train._step import (
    abstract_state as abstract_state,
    create_state as create_state,
    EvaluationCounts as EvaluationCounts,
    infer as infer,
    make_evaluation_step as make_evaluation_step,
    make_train_step as make_train_step,
    Metrics as Metrics,
    start_state as start_state,
    StepMetrics as StepMetrics,
    TrainState as TrainState,
)
