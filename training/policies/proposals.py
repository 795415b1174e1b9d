"""Proposals: a promoted policy writes the next response of a person's draft.

A page creates the row, and a worker answers it by running ``training.engine.propose``.
The text enters the draft only when the person takes it over, and the draft then records
that (``proposal`` of the turn).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from actions.definitions import DefinitionError
from actions.json_values import JSONError
from annotation.access import WRITERS, require_role
from annotation.authoring.contexts import context_to_json
from annotation.authoring.drafts import Content, clean, document_of, existing_contexts
from annotation.models import Draft, Project, ThinkingContext
from records.checkpoints import CheckpointError, verify_checkpoint
from records.reading import parse_object
from records.responses import ProposalRequest, ProposedResponse
from training.models import ACTIVE_STATES, Proposal, ProposalState, Run
from training.runs.command import program_environment
from training.runs.starting_points import current_policy, newest_policy
from training.storage import store

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from actions.tags import JSON

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 120
"""How long the program may take before the proposal fails."""

GIVE_UP: Final = timedelta(seconds=3 * ANSWER_SECONDS)
"""How long a page waits for a worker to answer."""

one_at_a_time = threading.Lock()


class ProposalRefused(Exception):
    """No policy can answer this; the message says why."""


def ask_proposal(
    *, project: Project, draft: Draft, content: Content, turn: int, user: User
) -> Proposal:
    """Ask the current policy for the response to ``turn`` (from 0) of the draft.

    Where none is promoted yet, the newest one that finished its training is asked.
    ``content`` is the draft as the page has it, saved or not. An earlier unanswered
    proposal for this draft is cancelled. Raises ProposalRefused, and Http404 for a
    draft of somebody else.
    """
    policy = current_policy(project) or newest_policy(project)
    if policy is None:
        raise ProposalRefused(
            _("No policy has been trained in this project yet: there is none to ask.")
        )
    document = _document(draft, content, turn)
    with transaction.atomic():
        require_role(project, user, *WRITERS, deed="Asking for a proposal")
        draft = get_object_or_404(Draft, project=project, author=user, pk=draft.pk)
        Proposal.objects.filter(draft=draft, state=ProposalState.ASKED).update(
            state=ProposalState.FAILED,
            error=_("Another proposal was asked for."),
            answered_at=timezone.now(),
        )
        proposal = Proposal.objects.create(
            draft=draft,
            turn=turn,
            asked_by=user,
            checkpoint=policy,
            document=document,
        )
        transaction.on_commit(partial(_send, proposal.pk))
    return proposal


def answer_proposal(
    proposal_id: int, *, command: Sequence[str] | None = None
) -> Proposal | None:
    """Let the policy write the response; return None if the proposal was cancelled.

    Any error is written into the row, for the person who waits.
    """
    pending = Proposal.objects.filter(pk=proposal_id, state=ProposalState.ASKED)
    with one_at_a_time:
        proposal = pending.select_related("checkpoint").first()
        if proposal is None:
            return None
        text, error = _run(proposal, command)
    pending.update(
        state=ProposalState.FAILED if error else ProposalState.READY,
        text=text,
        error=error,
        answered_at=timezone.now(),
    )
    return Proposal.objects.get(pk=proposal_id)


def is_overdue(proposal: Proposal) -> bool:
    """Whether no worker has started the proposal in reasonable time."""
    return (
        proposal.state == ProposalState.ASKED
        and timezone.now() - proposal.created_at > GIVE_UP
    )


def take_over(content: Content, proposal: Proposal) -> Content:
    """Return ``content`` with the proposed text as the turn's response, marked as such."""
    turns = content.get("turns")
    turns = [*turns] if isinstance(turns, list) else []
    if proposal.turn < len(turns) and isinstance(one := turns[proposal.turn], dict):
        origin: dict[str, JSON] = {
            "checkpoint": proposal.checkpoint_id,
            "digest": proposal.checkpoint.digest,
            "text": proposal.text,
        }
        turns[proposal.turn] = {**one, "response": proposal.text, "proposal": origin}
    return content | {"turns": turns}


def _document(draft: Draft, content: Content, turn: int) -> dict[str, JSON]:
    known = {
        context.pk: context_to_json(context)
        for context in ThinkingContext.objects.filter(
            project=draft.project_id, pk__in=existing_contexts(content)
        )
    }
    try:
        document = document_of(content, known, f"draft-{draft.pk}")
    except (JSONError, DefinitionError) as error:
        raise ProposalRefused(
            _("The actions of a new context cannot be read: %(error)s")
            % {"error": error}
        ) from error
    turns = document["turns"]
    if not isinstance(turns, list) or not 0 <= turn < len(turns):
        raise ProposalRefused(_("The draft has no turn %(n)s.") % {"n": turn + 1})
    history = [{**one} for one in turns[: turn + 1] if isinstance(one, dict)]
    for number, one in enumerate(history, start=1):
        turn_input = one.get("input")
        is_last = number == len(history)
        says = turn_input.get("text") if isinstance(turn_input, Mapping) else ""
        if is_last and not str(says or "").strip():
            raise ProposalRefused(
                _("Turn %(n)s has no input yet: there is nothing to answer.")
                % {"n": number}
            )
        if not is_last and not str(one.get("response") or "").strip():
            raise ProposalRefused(
                _("Turn %(n)s has no response yet; the policy reads it as history.")
                % {"n": number}
            )
    history[-1]["response"] = ""
    return document | {"turns": [*history]}


def _run(proposal: Proposal, command: Sequence[str] | None) -> tuple[str, str]:
    """Return the text and "", or "" and the error."""
    checkpoint = proposal.checkpoint
    try:
        store.fetch(checkpoint)
        verify_checkpoint(checkpoint.directory, digest=checkpoint.digest)
    except CheckpointError as error:
        return "", _("The policy's files are not intact: %(why)s.") % {"why": error.why}
    except store.StoreError as error:
        return "", _("The policy's files cannot be fetched: %(why)s.") % {"why": error}
    program = command or [sys.executable, "-m", "training.engine.propose"]
    # A run may be using the whole device; the proposal must not make it run out of
    # memory.
    is_busy = Run.objects.filter(state__in=ACTIVE_STATES).exists()
    wish: dict[str, JSON] = {"seed": proposal.pk, "device": "cpu" if is_busy else ""}
    request = ProposalRequest(proposal.document, wish)
    try:
        ended = subprocess.run(
            [*program, str(checkpoint.directory)],
            input=json.dumps(request.to_json(), ensure_ascii=False),
            capture_output=True,
            check=False,
            cwd=settings.BASE_DIR,
            encoding="utf-8",
            env=program_environment(os.environ),
            timeout=ANSWER_SECONDS,
        )
        if ended.returncode == 0:
            answer = parse_object(ended.stdout, "answer")
            return clean(ProposedResponse.from_json(answer).text), ""
    except subprocess.TimeoutExpired:
        return "", _("The policy took longer than %(n)s seconds.") % {
            "n": ANSWER_SECONDS
        }
    except (OSError, ValueError) as error:
        logger.exception("Proposal %s failed.", proposal.pk)
        return "", _("The program could not be run: %(error)s") % {"error": error}
    last = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[
        -1
    ]
    logger.warning("Proposal %s failed: %s", proposal.pk, ended.stderr[-2000:])
    return "", last[:500]


def _send(proposal_id: int) -> None:
    try:
        current_app.send_task(
            "training.tasks.propose", args=[proposal_id], queue="default", retry=False
        )
    except (OperationalError, OSError):
        logger.warning("The broker did not take proposal %s.", proposal_id)
        Proposal.objects.filter(pk=proposal_id).update(
            state=ProposalState.FAILED,
            error=_("The broker cannot be reached; try again in a moment."),
            answered_at=timezone.now(),
        )
