"""Ahead of time: what a compiler makes of a program, before anything runs."""

from nfx._cache import enable_compilation_cache as enable_compilation_cache
from nfx._dtypes import Dtype as Dtype
from nfx.aot._collectives import (
    Collective as Collective,
    collectives as collectives,
    count_instructions as count_instructions,
)
from nfx.aot._compile import (
    compile_step as compile_step,
    CompiledProgram as CompiledProgram,
    DeviceMemoryError as DeviceMemoryError,
    lower as lower,
    LoweredProgram as LoweredProgram,
    Progress as Progress,
    silent as silent,
)
from nfx.aot._export import (
    export_classifier as export_classifier,
    ExportOptions as ExportOptions,
    pixels_to_logits as pixels_to_logits,
)
from nfx.aot._macs import (
    count_jaxpr_macs as count_jaxpr_macs,
    count_macs as count_macs,
    model_macs as model_macs,
)
from nfx.aot._report import (
    Memory as Memory,
    read_report as read_report,
    Report as Report,
    Seconds as Seconds,
)
from nfx.aot._tables import (
    diff as diff,
    diff_table as diff_table,
    Difference as Difference,
    report_table as report_table,
)
from nfx.aot._topology import (
    Chip as Chip,
    CHIPS as CHIPS,
    libtpu_version as libtpu_version,
    memory_limit as memory_limit,
    topology_devices as topology_devices,
    TopologyError as TopologyError,
)
