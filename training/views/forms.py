"""Forms of the run pages."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.validators import RegexValidator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from training.models import (
    ENSEMBLE,
    LEAVES_A_POLICY,
    SHORT,
    Checkpoint,
    InputRole,
    Retention,
    RunKind,
    RunState,
    StepName,
)
from training.policies.export import UNKNOWN_LICENCE
from training.runs.bases import BaseRefusedError, base_directory, own_checkpoint
from training.runs.input_rules import INPUTS
from training.runs.placement import Queue, announced_queues
from training.runs.starting_points import default_inputs
from training.views.recipe_form import FLOAT, RecipeForm

if TYPE_CHECKING:
    from annotation.models import Project
    from training.models import Run


class RunFilterForm(forms.Form):
    """The filters of the list of runs."""

    kind = forms.ChoiceField(
        choices=[("", _("Any kind")), *RunKind.choices], required=False
    )
    state = forms.ChoiceField(
        choices=[("", _("Any state")), *RunState.choices], required=False
    )
    before = forms.IntegerField(min_value=1, max_value=2**63 - 1, required=False)


class CheckpointFilterForm(forms.Form):
    """The filters of the list of checkpoints."""

    KINDS = [
        ("", _("Any kind")),
        ("policy", _("Policies")),
        ("reward", _("Reward models")),
    ]

    kind = forms.ChoiceField(choices=KINDS, required=False)
    all = forms.BooleanField(required=False, label=_("Intermediate checkpoints too"))
    judgment = forms.IntegerField(min_value=1, max_value=2**63 - 1, required=False)
    before = forms.IntegerField(min_value=1, max_value=2**63 - 1, required=False)


class PromotionForm(forms.Form):
    """Why a checkpoint becomes the current policy."""

    reason = forms.CharField(
        required=False,
        max_length=1000,
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    force = forms.BooleanField(required=False)


class RetentionForm(forms.ModelForm):  # type: ignore[type-arg] # no [] at run time
    """Which checkpoints keep their files."""

    class Meta:
        model = Retention
        fields = ("keep_last", "keep_best", "is_automatic")
        labels = {"is_automatic": _("Remove automatically whenever a run ends")}

    keep_last = forms.IntegerField(
        min_value=1,
        max_value=1000,
        label=_("Newest of each run"),
        help_text=_("At least one, so that a run can be resumed."),
    )
    keep_best = forms.IntegerField(
        min_value=0,
        max_value=1000,
        label=_("Best of each run"),
        help_text=_("By held-out truth, loss or AUC, whichever its kind has."),
    )


licence_identifier = RegexValidator(
    r"^[A-Za-z0-9][A-Za-z0-9.+-]*$",
    _("An identifier of letters, digits, dots and dashes, such as apache-2.0."),
)


class ExportForm(forms.Form):
    """The licence of an exported model; the model card names it."""

    licence = forms.CharField(
        required=False,
        max_length=60,
        label=_("Licence"),
        validators=[licence_identifier],
        widget=forms.TextInput(attrs={"placeholder": UNKNOWN_LICENCE}),
    )


class NewRunForm(RecipeForm):
    """Recipe and inputs of a new run.

    Each checkpoint that the kind takes has a picker, named by its role.
    """

    def __init__(
        self, *args: Any, project: Project, kind: str, chosen: dict[str, int], **kw: Any
    ) -> None:
        super().__init__(*args, kind=kind, **kw)
        self.project = project
        self.fields["ask"] = forms.UUIDField(
            required=False, initial=uuid.uuid4, widget=forms.HiddenInput
        )
        for role, label in InputRole.choices:
            takes = next((t for t in INPUTS[kind] if t.role == role), None)
            if takes is not None:
                self.fields[role] = CheckpointField(
                    queryset=_choosable(project, role),
                    required=takes.required,
                    label=label,
                    help_text=takes.help,
                    initial=chosen.get(role),
                    empty_label=gettext("Choose one")
                    if takes.required
                    else gettext("None"),
                    error_messages={
                        "required": gettext("This run needs a %(role)s.")
                        % {"role": label.lower()},
                        "invalid_choice": gettext(
                            "This project has no such checkpoint."
                        ),
                    },
                )

        if queues := announced_queues():
            self.fields |= _place_fields(queues)
        if kind in LEAVES_A_POLICY:
            self.fields["draw_next"] = forms.BooleanField(
                required=False,
                label=gettext("Then draw answers"),
                help_text=gettext(
                    "When it has finished, its answers come to the Judge page."
                ),
            )

    def clean_recipe_base(self) -> str:
        """Refuse an invalid base together with other errors; the deed checks again."""
        base = str(self.cleaned_data["recipe_base"])
        if base and own_checkpoint(self.project, base) is None:
            try:
                base_directory(base)
            except BaseRefusedError as error:
                raise forms.ValidationError(str(error)) from error
        return base

    @property
    def places(self) -> list[forms.BoundField]:
        """Return the fields of where it runs; none while no worker names its device."""
        return [
            self[name] for name in ("queue", "shares_device") if name in self.fields
        ]

    @property
    def inputs(self) -> list[forms.BoundField]:
        return [self[takes.role.value] for takes in INPUTS[self.kind]]

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Return the chosen checkpoints by role."""
        return {
            takes.role.value: checkpoint
            for takes in INPUTS[self.kind]
            if (checkpoint := self.cleaned_data.get(takes.role.value))
        }


class PlaceForm(forms.Form):
    """Which workers a queued run waits for."""

    def __init__(self, *args: Any, run: Run, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.initial = {"queue": run.queue, "shares_device": run.shares_device}
        self.queues = announced_queues()
        self.fields |= _place_fields(self.queues, wished=run.queue)

    @property
    def has_choice(self) -> bool:
        """Whether there is anything to choose: a queue, or to give up a wish."""
        return bool(self.queues or self.initial["queue"])


def _place_fields(queues: list[Queue], wished: str = "") -> dict[str, forms.Field]:
    """Return the fields that say where a run runs; ``wished`` may no longer exist."""
    choices = [("", gettext("Any worker"))]
    choices += [(each.name, _label_of(each)) for each in queues]
    if wished not in dict(choices):
        choices.append((wished, wished))
    return {
        "queue": forms.ChoiceField(
            choices=choices,
            required=False,
            label=gettext("Runs on"),
            help_text=gettext(
                "The run waits for these workers, even if others are free."
            ),
        ),
        "shares_device": forms.BooleanField(
            required=False,
            label=gettext("May share its GPU"),
            help_text=gettext(
                "Runs beside other runs that allow it too; otherwise it has the "
                "GPU alone."
            ),
        ),
    }


def _label_of(queue: Queue) -> str:
    facts = {"queue": queue.name, "hosts": ", ".join(queue.hosts)}
    if queue.is_away:
        return gettext("%(queue)s (%(hosts)s, away)") % facts
    return gettext("%(queue)s (%(hosts)s)") % facts


class CheckpointField(forms.ModelChoiceField):  # type: ignore[type-arg] # no [] at run time
    """A picker of checkpoints; its labels are the names that trainers know."""

    def label_from_instance(self, checkpoint: Checkpoint) -> str:
        run = checkpoint.run
        facts = {
            "kind": SHORT[RunKind(run.kind)],
            "run": run.pk,
            "step": checkpoint.step,
        }
        if checkpoint.is_final:
            return gettext("%(kind)s run %(run)d, step %(step)d, final") % facts
        return gettext("%(kind)s run %(run)d, step %(step)d") % facts


def _choosable(project: Project, role: str) -> Any:
    every = Checkpoint.objects.filter(project=project, files_removed_at__isnull=True)
    if role == InputRole.PREFERENCE:
        kinds = every.preference_models()
    elif role in ENSEMBLE:
        kinds = every.consistency_models()
    else:
        kinds = every.policies()
    return kinds.select_related("run").defer("manifest").order_by("-pk")


def chosen_inputs(
    project: Project, kind: str, query: Mapping[str, str]
) -> dict[str, int]:
    """Return the checkpoints to preselect: those in the address, else the defaults."""
    chosen = {
        role: checkpoint.pk
        for role, checkpoint in default_inputs(project, kind).items()
    }
    current = chosen.get(InputRole.POLICY)
    other = query.get(InputRole.POLICY, str(current))
    if kind == RunKind.EVALUATE and current is not None and other != str(current):
        # Measure another policy together with the current one, which it would replace.
        chosen[InputRole.INITIAL] = current
    for role in InputRole.values:
        value = query.get(role, "")
        if value.isdecimal() and len(value) < 19:
            chosen[role] = int(value)
    return chosen


class IterationForm(forms.Form):
    """What an iteration waits for, and which of its steps are automatic."""

    wanted_judgments = forms.IntegerField(
        label=_("Enough judgments"),
        help_text=_(
            "Number of judgments on the drawn answers after which the reward model is"
            " trained."
        ),
        min_value=1,
        max_value=10_000_000,
        initial=300,
    )
    wanted_settled = forms.IntegerField(
        label=_("Or percent of the pairs with an outcome"),
        help_text=_("Whichever comes first."),
        min_value=1,
        max_value=100,
        initial=90,
    )
    margin = forms.FloatField(
        label=_("Loss in held-out truth that counts as none"),
        help_text=_(
            "0.03 is three tasks in a hundred. The new policy is not worse when the "
            "whole interval of its gain lies above this loss."
        ),
        min_value=0,
        max_value=1,
        initial=0.03,
        widget=FLOAT,
    )
    automatic = forms.MultipleChoiceField(
        label=_("Automatic steps"),
        choices=[
            (name, label) for name, label in StepName.choices if name != StepName.JUDGE
        ],
        initial=["draw", "reward", "policy", "evaluate", "compare"],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_(
            "The others wait for a person. A missed gate, a truth that is worse or "
            "undecided, and the alarm always do."
        ),
    )
