"""Results for the calls in a draft: run here, or taken from recorded samples.

Calculate and Get thinking context run here, unless a global context defines an action
of that name. Concord has no environment for other actions. The project's samples record
what such calls returned, and the demo's simulator replays them. If neither knows a
call, the page says so; no result is invented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from actions.builtins import ENABLED_ACTIONS, LocalContext, built_in_handlers
from actions.definitions import ActionDefinition, check_parameters
from actions.demo import simulators
from actions.executor import (
    ActionFailed,
    Executor,
    Limits,
    clean_observation,
    not_enabled,
)
from actions.grammar import ActionCall
from actions.tags import JSON
from annotation.authoring.contexts import find_local
from annotation.authoring.export import for_export, sample_to_json
from annotation.models import Project, Sample, Turn

SAMPLES: Final = 5


class NoResult(Exception):
    """The result of a call is not known here; the message says so."""


@dataclass(frozen=True)
class Result:
    text: str
    origin: str
    """Where it comes from, in words for the person."""


def run_call(
    *,
    project: Project,
    call: ActionCall,
    definitions: Mapping[str, ActionDefinition],
    context_keys: Sequence[int] = (),
    earlier: int = 0,
) -> Result:
    """Return the result of a call; raise :class:`NoResult`.

    ``definitions``: those in force at the call. ``context_keys``: the contexts that the
    draft uses; samples with one of them are searched for the same call. ``earlier``:
    how often the draft made this very call before; an action that fails once may then
    succeed.
    """
    definition = definitions.get(call.name)
    if definition is None:
        message = _("No action is named “%(name)s” where it is called.")
        raise NoResult(message % {"name": call.name})
    if definition in ENABLED_ACTIONS:
        return Result(_run_built_in(project, definition, call), _("run here"))
    for sample in for_export(_recording(project, call, context_keys))[:SAMPLES]:
        document: dict[str, JSON] = sample_to_json(sample)
        handlers = simulators.handlers(document, turn=-1)
        if call.name not in handlers:
            continue
        executor = Executor(definitions.values(), handlers)
        text = ""
        for _again in range(min(earlier, 20) + 1):
            text = executor.execute(call).text
        if text not in (simulators.NOT_FOUND, not_enabled(call.name)):
            origin = _("as sample %(sample)s records it") % {"sample": sample}
            return Result(text, origin)
    raise NoResult(
        _(
            "No simulator knows what “%(name)s” returns for these parameters, and no "
            "sample of this project records it. Type the result, or pick an exception."
        )
        % {"name": call.name}
    )


def _run_built_in(
    project: Project, definition: ActionDefinition, call: ActionCall
) -> str:
    """Run a built-in action on this thread, so that it sees this transaction."""

    def search(query: str) -> list[LocalContext]:
        return find_local(project=project, query=query)

    errors = check_parameters(definition, call.parameters)
    if errors:
        raise NoResult(f"{call.name}: " + "; ".join(map(str, errors)))
    try:
        text = built_in_handlers(search)[call.name](dict(call.parameters))
    except ActionFailed as failure:
        text = str(failure)
    return clean_observation(text, Limits().characters)


def _recording(
    project: Project, call: ActionCall, context_keys: Sequence[int]
) -> QuerySet[Sample]:
    """Return the project's samples that contain the same call.

    With ``context_keys`` only samples that use one of these contexts.
    """
    turns = Turn.objects.filter(sample__project=project, response__contains=call.source)
    samples = Sample.objects.filter(project=project, pk__in=turns.values("sample"))
    if context_keys:
        samples = samples.filter(contexts__in=context_keys).distinct()
    return samples
