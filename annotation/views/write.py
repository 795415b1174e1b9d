"""The Write pages: a person's drafts, and the editor that saves one on the server.

The editor is one form, and its buttons post the whole form, so it works without
JavaScript. With it, write.js posts the same form while the person types, and gets back
the problems and their places. A response is its raw text; blocks are that text as
fields (draft_blocks.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
)

from actions.builtins import BUILT_IN_ACTIONS, GET_THINKING_CONTEXT
from actions.definitions import ActionDefinition, DefinitionError
from actions.grammar import ActionCall
from actions.in_force import Contexts
from actions.json_values import JSONError
from annotation.authoring.contexts import context_to_json, search_contexts
from annotation.authoring.draft_blocks import blocks_of_post, posted_blocks
from annotation.authoring.draft_checks import DraftTurn, check_turns
from annotation.authoring.drafts import (
    MAX_TURNS,
    Content,
    DraftContext,
    change_content,
    clean,
    content_from_post,
    contexts_of,
    existing_contexts,
    fetch_context,
    put_result,
    turns_of,
    typed_contexts,
    use_context,
)
from annotation.authoring.merge import compare, merge
from annotation.authoring.method_hints import Knowledge, source_of
from annotation.authoring.observations import NoResult, run_call
from annotation.authoring.review import FIXES, notes_of_draft
from annotation.authoring.samples import SampleError, StaleDraft, save_draft
from annotation.authoring.situations import ADVICE
from annotation.authoring.writing import submit_draft
from annotation.models import (
    Draft,
    Project,
    Role,
    Sample,
    Scope,
    Situation,
    ThinkingContext,
)
from annotation.views.bodies import LONG_TEXT, takes
from annotation.views.door import enter, visitor
from records.sample_format import SampleError as InvalidSample

if TYPE_CHECKING:
    from django.http import HttpRequest


DRAFTS = 100
CONTEXTS = 50
CHIPS = 12


@takes(LONG_TEXT)
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def draft(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Edit a draft; a post comes from one of the form's buttons."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    draft = _mine(request, project, pk)
    if request.method != "POST":
        return _editor(request, project, draft, draft.content)
    content = content_from_post(request.POST, draft.content)
    deed = clean(request.POST.get("do", "save"))
    anchor = _anchor(deed, content)
    if deed == "merge":
        content = merge(content, draft.content, _taken(request))
    elif deed.startswith(("result:", "fetch:")) and not deed.endswith(":hand"):
        content = _with_result(request, project, content, deed)
    else:
        content = change_content(content, deed)
    version = version_of(request)
    if deed in ("merge", "keep"):
        version = version_of(request, "other_version")
    try:
        draft = save_draft(
            project=project,
            user=visitor(request),
            draft=draft,
            version=version,
            content=content,
        )
    except StaleDraft as conflict:
        return show_conflict(request, project, conflict, content)
    if deed == "submit":
        return _submit(request, project, draft)
    return redirect(reverse("annotation:draft", args=[slug, draft.pk]) + anchor)


def _anchor(deed: str, content: Content) -> str:
    """Return the part of the page to continue with after a button."""
    name, _colon, place = deed.partition(":")
    number = place.partition(":")[0]
    if name in ("add-context", "remove-context"):
        return "#contexts"
    if name in ("add-user", "add-observation"):
        return f"#turn-{min(len(turns_of(content)) + 1, MAX_TURNS)}"
    if name in ("result", "fetch") and number.isdecimal() and len(number) < 6:
        return f"#turn-{int(number) + 1}"
    return ""


def _with_result(
    request: HttpRequest, project: Project, content: Content, deed: str
) -> Content:
    """Insert the result of a turn's call, or a fetched context; or say why not."""
    name, _colon, place = deed.partition(":")
    number, _colon, how = place.partition(":")
    if how.startswith("exception:"):
        return change_content(content, deed)
    _known, _typed, contexts = _contexts(project, content)
    turns = check_turns(content, contexts)
    turn = next((one for one in turns if str(one.number) == number), None)
    if turn is None:
        return content
    keys = existing_contexts(content)
    if name == "fetch":
        call = ActionCall.make(GET_THINKING_CONTEXT.name, {"query": turn.text[:300]})
        try:
            result = run_call(project=project, call=call, definitions=turn.in_force)
        except NoResult as problem:  # a global context defines an action of this name
            messages.warning(request, str(problem))
            return content
        matches = search_contexts(project=project, query=turn.text[:300], limit=1)
        for one in matches:
            content = use_context(content, one.pk)
        return fetch_context(content, turn.number, call=call, result=result.text)
    if turn.call is None:
        return content
    call = turn.call
    earlier = sum(
        other.call is not None and other.call.source == call.source
        for other in turns[: turn.number - 1]
    )
    try:
        result = run_call(
            project=project,
            call=call,
            definitions=turn.in_force,
            context_keys=keys,
            earlier=earlier,
        )
    except NoResult as problem:
        messages.warning(request, str(problem))
        return content
    messages.info(
        request,
        _("Turn %(number)s: the result of “%(name)s”, %(origin)s.")
        % {"number": turn.number + 1, "name": call.name, "origin": result.origin},
    )
    return put_result(content, turn.number, result.text)


@takes(LONG_TEXT)
@require_POST
@login_required
def save(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Save the form while it is typed, and answer with its problems and their places.

    ``redraw`` names the turns whose blocks the page needs again. The answer contains
    the raw text of each turn that was posted as blocks.
    """
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    draft = _mine(request, project, pk)
    content = content_from_post(request.POST, draft.content)
    conflict = None
    try:
        draft = save_draft(
            project=project,
            user=visitor(request),
            draft=draft,
            version=version_of(request),
            content=content,
        )
    except StaleDraft as stale:
        conflict, draft = stale, stale.draft
    facts = _facts(project, draft, content) | _conflict_facts(conflict, content)
    turns: list[DraftTurn] = facts["turns"]  # type: ignore[assignment]
    definitions: dict[str, ActionDefinition] = facts["definitions"]  # type: ignore[assignment]
    redraw = set(request.POST.getlist("redraw"))
    texts: dict[str, str] = {}
    redrawn = []
    for turn, posted in zip(
        turns, [*request.POST.getlist("turn_blocks"), *[""] * MAX_TURNS], strict=False
    ):
        edited = posted_blocks(posted)
        if edited is not None:
            texts[str(turn.number)] = turn.response
        if str(turn.number) in redraw:
            blocks = (
                turn.edit_blocks
                if edited is None
                else blocks_of_post(edited, definitions)
            )
            redrawn.append((turn, blocks))
    facts |= {"is_fragment": True, "raw_texts": texts, "drawn": redrawn}
    return render(request, "annotation/_draft_checks.html", facts)


def _submit(request: HttpRequest, project: Project, draft: Draft) -> HttpResponse:
    try:
        sample, left_out = submit_draft(
            project=project,
            user=visitor(request),
            draft=draft,
            why=request.POST.get("why", ""),
        )
    except (InvalidSample, SampleError, JSONError, DefinitionError) as error:
        return _editor(request, project, draft, draft.content, error=error, status=422)
    tell_left_out(request, left_out)
    if FIXES in draft.content:
        messages.success(request, _("The fix is stored; the author stays."))
        review = reverse("annotation:review", args=[project.slug])
        return redirect(f"{review}?at={sample.pk}")
    messages.success(request, _("Submitted: a curator looks at it next."))
    return redirect("annotation:write", project.slug)


def tell_left_out(request: HttpRequest, places: list[str]) -> None:
    """Tell which parts of a draft were removed because only a curator may add them."""
    if places:
        messages.warning(request, left_out_in_words(places))


def left_out_in_words(places: list[str]) -> str:
    return _(
        "Removed, because only a curator may add it to a sample: %(places)s. It "
        "affects rewards, or who counts as the writer. Ask a curator to import "
        "it."
    ) % {"places": ", ".join(places)}


def _mine(request: HttpRequest, project: Project, pk: int) -> Draft:
    return get_object_or_404(
        Draft.objects.select_related("sample"),
        project=project,
        author_id=request.user.pk,
        pk=pk,
    )


def _taken(request: HttpRequest) -> set[str]:
    """Return the parts that a person chose to take from the other version."""
    return {
        name.removeprefix("choice-")
        for name, value in request.POST.items()
        if name.startswith("choice-") and value == "theirs"
    }


def version_of(request: HttpRequest, name: str = "version") -> int:
    """Return the version the page began from; bad input is older than everything."""
    text = request.POST.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def show_conflict(
    request: HttpRequest, project: Project, conflict: StaleDraft, content: Content
) -> HttpResponse:
    """Show the posted and the stored version when another save came between."""
    return _editor(
        request, project, conflict.draft, content, conflict=conflict, status=409
    )


def _conflict_facts(conflict: StaleDraft | None, content: Content) -> dict[str, object]:
    return {
        "conflict": conflict,
        "conflict_rows": compare(content, conflict.draft.content) if conflict else [],
    }


def _editor(
    request: HttpRequest,
    project: Project,
    draft: Draft,
    content: Content,
    *,
    error: Exception | None = None,
    conflict: StaleDraft | None = None,
    status: int = 200,
) -> HttpResponse:
    facts = (
        _facts(project, draft, content)
        | _conflict_facts(conflict, content)
        | {
            "error": error,
            "why": request.POST.get("why", ""),
            "is_fragment": False,
            "situations": Situation.choices,
            "scopes": Scope.choices,
            "advice": _advice(content),
            "scenarios": Sample.objects.filter(project=project)
            .exclude(scenario="")
            .order_by("scenario")
            .values_list("scenario", flat=True)
            .distinct()[:50],
        }
    )
    return render(request, "annotation/draft.html", facts, status=status)


def _advice(content: Content) -> str:
    advice = content.get("advice")
    if not isinstance(advice, dict):
        return ""
    text = ADVICE.get(str(advice.get("situation")), "")
    return _(text) % {"turn": advice.get("turn")} if text else ""


def _contexts(
    project: Project, content: Content
) -> tuple[list[ThinkingContext], list[DraftContext], Contexts]:
    """Return the contexts to choose from, those typed, and the actions in the draft."""
    chosen = existing_contexts(content)
    # The newest contexts, and every one that the draft uses, however old.
    known = list(
        ThinkingContext.objects.filter(project=project).order_by("-pk")[:CONTEXTS]
    )
    listed = {context.pk for context in known}
    if set(chosen) - listed:
        known += ThinkingContext.objects.filter(
            project=project, pk__in=set(chosen) - listed
        )
    typed = typed_contexts(content)
    used = [context_to_json(context) for context in known if context.pk in chosen]
    return known, typed, contexts_of(used, typed)


def _knowledge(
    contexts: list[ThinkingContext], typed: list[DraftContext], chosen: set[int]
) -> Knowledge:
    at_hand = [
        source_of(one.title, one.background, one.guideline)
        for one in typed
        if one.scope == Scope.GLOBAL
    ]
    local = []
    for one in contexts:
        source = source_of(one.title, one.background, one.guideline, key=one.pk)
        if one.scope == Scope.LOCAL:
            local.append(source)
        elif one.pk in chosen:
            at_hand.append(source)
    return Knowledge(tuple(at_hand), tuple(local))


def _facts(project: Project, draft: Draft, content: Content) -> dict[str, object]:
    known, typed, contexts = _contexts(project, content)
    definitions = contexts.every_action()
    chosen = set(existing_contexts(content))
    names = list(definitions)
    project_actions = [name for name in names if name not in _BUILT_IN]
    turns = check_turns(content, contexts, _knowledge(known, typed, chosen))
    return {
        "draft": draft,
        "content": content,
        "turns": turns,
        "notes": notes_of_draft(draft, turns),
        "definitions": definitions,
        "typed": typed,
        # The draft's own contexts come first, so that a long list hides none of them.
        "contexts": sorted(
            ((context, context.pk in chosen) for context in known),
            key=lambda pair: not pair[1],
        ),
        "action_names": [
            *project_actions,
            *(name for name in names if name in _BUILT_IN),
        ],
        "chips": project_actions[:CHIPS],
    }


_BUILT_IN = tuple(one.name for one in BUILT_IN_ACTIONS)
