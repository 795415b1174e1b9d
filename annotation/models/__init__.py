"""The rows of writing and judging; imported by `annotation` and `training`.

Each file imports only those before it: ``projects``, ``samples``, ``responses``,
``slots``, ``pairs``, ``judgments``, ``guidelines``.
"""

from annotation.models.guidelines import (
    GuidelineExample,
    GuidelineReading,
    GuidelineVersion,
)
from annotation.models.judgments import (
    Adjudication,
    Judgment,
    JudgmentQuerySet,
)
from annotation.models.pairs import (
    CONSISTENT_BY_RULE,
    Pair,
    PairOrigin,
    PairQuerySet,
    PairSource,
    Reason,
    Verdict,
)
from annotation.models.projects import (
    USER,
    Membership,
    Project,
    ProjectQuerySet,
    Role,
    text_hash,
)
from annotation.models.responses import (
    PolicyRole,
    Producer,
    ProducerSource,
    SampledResponse,
)
from annotation.models.samples import (
    Comment,
    Draft,
    InputKind,
    ReferenceResponse,
    Sample,
    SampleContext,
    SampleQuerySet,
    SampleStatus,
    SampleVersion,
    Scope,
    Situation,
    ThinkingContext,
    Turn,
)
from annotation.models.slots import (
    QueueCursor,
    Skip,
    Slot,
    SlotQuerySet,
    SlotState,
    Touch,
)

__all__ = [
    "CONSISTENT_BY_RULE",
    "USER",
    "Adjudication",
    "Comment",
    "Draft",
    "GuidelineExample",
    "GuidelineReading",
    "GuidelineVersion",
    "InputKind",
    "Judgment",
    "JudgmentQuerySet",
    "Membership",
    "Pair",
    "PairOrigin",
    "PairQuerySet",
    "PairSource",
    "PolicyRole",
    "Producer",
    "ProducerSource",
    "Project",
    "ProjectQuerySet",
    "QueueCursor",
    "Reason",
    "ReferenceResponse",
    "Role",
    "Sample",
    "SampleContext",
    "SampleQuerySet",
    "SampleStatus",
    "SampleVersion",
    "SampledResponse",
    "Scope",
    "Situation",
    "Skip",
    "Slot",
    "SlotQuerySet",
    "SlotState",
    "ThinkingContext",
    "Touch",
    "Turn",
    "Verdict",
    "text_hash",
]
