"""The rows of the trainer; imported by all of `training` except its engine.

Each file imports only those before it: ``snapshots``, ``runs``, then ``checkpoints``
and ``iterations``.
"""

from training.models.checkpoints import (
    ENSEMBLE,
    JUDGES,
    Checkpoint,
    CheckpointQuerySet,
    InputRole,
    Promotion,
    Proposal,
    ProposalState,
    Retention,
    RunInput,
)
from training.models.iterations import (
    RUN_STEPS,
    STEP_ORDER,
    Iteration,
    IterationChange,
    IterationQuerySet,
    IterationState,
    IterationStep,
    StepName,
    StepState,
)
from training.models.runs import (
    ACTIVE_STATES,
    FINAL_STATES,
    LEARNS_FROM_JUDGMENTS,
    LEAVES_A_POLICY,
    SHORT,
    Device,
    Metric,
    Run,
    RunKind,
    RunNote,
    RunQuerySet,
    RunSample,
    RunState,
    run_name,
)
from training.models.snapshots import (
    Snapshot,
    SnapshotQuerySet,
)

__all__ = [
    "ACTIVE_STATES",
    "ENSEMBLE",
    "FINAL_STATES",
    "JUDGES",
    "LEARNS_FROM_JUDGMENTS",
    "LEAVES_A_POLICY",
    "RUN_STEPS",
    "SHORT",
    "STEP_ORDER",
    "Checkpoint",
    "CheckpointQuerySet",
    "Device",
    "InputRole",
    "Iteration",
    "IterationChange",
    "IterationQuerySet",
    "IterationState",
    "IterationStep",
    "Metric",
    "Promotion",
    "Proposal",
    "ProposalState",
    "Retention",
    "Run",
    "RunInput",
    "RunKind",
    "RunNote",
    "RunQuerySet",
    "RunSample",
    "RunState",
    "Snapshot",
    "SnapshotQuerySet",
    "StepName",
    "StepState",
    "run_name",
]
