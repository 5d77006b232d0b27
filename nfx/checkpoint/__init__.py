"""Checkpoints: atomic, asynchronous, verified."""

from nfx.checkpoint._digest import leaf_digests as leaf_digests, tree_digest as tree_digest
from nfx.checkpoint._errors import (
    CheckpointError as CheckpointError,
    DamagedError as DamagedError,
    VANISHED as VANISHED,
)
from nfx.checkpoint._fallback import (
    damaged_checkpoints as damaged_checkpoints,
    first_whole as first_whole,
    restore_latest as restore_latest,
)
from nfx.checkpoint._files import find_damage as find_damage
from nfx.checkpoint._store import CheckpointStore as CheckpointStore, Which as Which
