"""Iterations: one round of the cycle each, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models import USER, Project
from training.models.runs import Run

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


class StepName(models.TextChoices):
    """The steps of an iteration, in their order."""

    DRAW = "draw", _("Draw")
    JUDGE = "judge", _("Judge")
    REWARD = "reward", _("Reward model")
    POLICY = "policy", _("Policy")
    EVALUATE = "evaluate", _("Evaluate")
    COMPARE = "compare", _("Compare")
    PROMOTE = "promote", _("Promote")


STEP_ORDER: list[str] = [*StepName.values]
# Steps whose work a run does; the kind of the run has the step's name.
RUN_STEPS: list[str] = ["draw", "reward", "policy", "evaluate"]


class StepState(models.TextChoices):
    WAITING = "waiting", _("Waiting")
    ASKING = "asking", _("Asks a person")
    WORKING = "working", _("Under way")
    DONE = "done", _("Done")
    SKIPPED = "skipped", _("Skipped")
    FAILED = "failed", _("Failed")


class IterationState(models.TextChoices):
    GOING = "going", _("Under way")
    PAUSED = "paused", _("Paused")
    STOPPED = "stopped", _("Stopped")
    DONE = "done", _("Done")


class IterationQuerySet(models.QuerySet["Iteration"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> IterationQuerySet:
        """Return the iterations of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def open(self) -> IterationQuerySet:
        """Return iterations that have not ended: at most one per project."""
        return self.filter(state__in=["going", "paused"])


class Iteration(models.Model):
    """One round of the cycle: draw, judge, reward, policy, evaluate, compare, promote.

    Only the deeds of :mod:`training.iterations.deeds` and
    :mod:`training.iterations.advance` change it.
    """

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="iterations"
    )
    number = models.PositiveIntegerField(help_text="Counted from 1 in the project.")
    state = models.CharField(
        max_length=7, choices=IterationState.choices, default=IterationState.GOING
    )
    step = models.CharField(
        max_length=8,
        choices=StepName.choices,
        default=StepName.DRAW,
        help_text="The step it is at.",
    )
    recipes = models.JSONField(help_text="Per step with a run, the settings it gets.")
    wanted_judgments = models.PositiveIntegerField(
        help_text="So many judgments of the drawn answers are enough."
    )
    wanted_settled = models.PositiveSmallIntegerField(
        help_text="Or so many percent of the drawn pairs with an outcome."
    )
    margin = models.FloatField(
        default=0.03,
        validators=[MinValueValidator(0), MaxValueValidator(1)],
        help_text="A loss in held-out truth up to this counts as none.",
    )
    stopped_because = models.TextField(blank=True)
    is_alarm = models.BooleanField(
        default=False, help_text="Stopped because score and truth parted."
    )
    created_by = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = IterationQuerySet.as_manager()

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "number"], name="iteration_number_once"
            ),
            models.UniqueConstraint(
                fields=["project"],
                condition=Q(state__in=["going", "paused"]),
                name="iteration_one_open_per_project",
            ),
            models.CheckConstraint(
                condition=Q(state__in=IterationState.values),
                name="iteration_state_known",
            ),
            models.CheckConstraint(
                condition=Q(step__in=StepName.values), name="iteration_step_known"
            ),
            models.CheckConstraint(
                condition=Q(state="stopped") & ~Q(stopped_because="")
                | ~Q(state="stopped") & Q(stopped_because="", is_alarm=False),
                name="iteration_stopped_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["going", "paused"], ended_at__isnull=True)
                | Q(state__in=["stopped", "done"], ended_at__isnull=False),
                name="iteration_ended_has_time",
            ),
            models.CheckConstraint(
                condition=Q(wanted_settled__lte=100),
                name="iteration_wanted_settled_is_a_share",
            ),
            models.CheckConstraint(
                condition=Q(margin__gte=0, margin__lte=1),
                name="iteration_margin_is_a_share",
            ),
        ]

    def __str__(self) -> str:
        return f"iteration {self.number}"

    def get_absolute_url(self) -> str:
        return reverse("training:iteration", args=[self.project.slug, self.number])

    @property
    def is_open(self) -> bool:
        return self.state in (IterationState.GOING, IterationState.PAUSED)


class IterationStep(models.Model):
    """One step of one iteration, and the run that does its work."""

    iteration = models.ForeignKey(
        Iteration, on_delete=models.CASCADE, related_name="steps"
    )
    name = models.CharField(max_length=8, choices=StepName.choices)
    state = models.CharField(
        max_length=7, choices=StepState.choices, default=StepState.WAITING
    )
    is_automatic = models.BooleanField(
        default=False, help_text="It begins, or passes, without asking a person."
    )
    run = models.ForeignKey(
        Run, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    earlier_runs = models.JSONField(
        default=list, blank=True, help_text="Runs of this step that were done again."
    )
    approved_by = models.ForeignKey(
        USER, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    is_approved = models.BooleanField(default=False)
    is_alarm_accepted = models.BooleanField(default=False)
    reason = models.TextField(
        blank=True, help_text="Why it was skipped, or approved in spite of something."
    )
    problem = models.TextField(blank=True, help_text="Why it failed.")
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["iteration", "name"], name="iterationstep_name_once"
            ),
            models.CheckConstraint(
                condition=Q(name__in=StepName.values), name="iterationstep_name_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=StepState.values),
                name="iterationstep_state_known",
            ),
            models.CheckConstraint(
                condition=~Q(state="skipped") | ~Q(reason=""),
                name="iterationstep_skipped_has_reason",
            ),
            models.CheckConstraint(
                condition=~Q(state="working", name__in=RUN_STEPS)
                | Q(run__isnull=False),
                name="iterationstep_work_has_run",
            ),
        ]

    def __str__(self) -> str:
        return f"step {self.name} of {self.iteration_id}"


class IterationChange(models.Model):
    """A change to what an open iteration waits for, or to the recipe of a step."""

    iteration = models.ForeignKey(
        Iteration, on_delete=models.CASCADE, related_name="changes"
    )
    step = models.CharField(
        max_length=8,
        choices=StepName.choices,
        blank=True,
        help_text="Whose recipe it was; empty for the iteration's own settings.",
    )
    values = models.JSONField(help_text="Per setting, what it was and what it became.")
    user = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(step__in=["", *StepName.values]),
                name="iterationchange_step_known",
            ),
        ]

    def __str__(self) -> str:
        return f"change {self.pk} of {self.iteration_id}"
