"""Sampled responses, and the policies that produced them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.samples import Turn


class PolicyRole(models.TextChoices):
    CURRENT = "current", _("Current policy")
    INITIAL = "initial", _("Initial policy")


class ProducerSource(models.TextChoices):
    POLICY = "policy", _("A policy")
    DEMO = "demo", _("Demo generator, no policy")


class Producer(models.Model):
    """The source of a response: one run's use of one checkpoint with one setting.

    ``run_id`` and ``checkpoint_id`` are the primary keys of ``training.Run`` and
    ``training.Checkpoint``. They are no foreign keys because imports go from
    ``training`` to here. Both are null, and the rest empty, for the one producer that
    is no policy: the demo's generator, whose answers give the first people something to
    judge.
    """

    source = models.CharField(
        max_length=6, choices=ProducerSource.choices, default=ProducerSource.POLICY
    )
    run_id = models.BigIntegerField(null=True, blank=True)
    checkpoint_id = models.BigIntegerField(null=True, blank=True, db_index=True)
    checkpoint_digest = models.CharField(max_length=64, blank=True)
    step = models.PositiveIntegerField(default=0)
    policy_role = models.CharField(max_length=8, choices=PolicyRole.choices, blank=True)
    settings = models.JSONField(default=dict, blank=True)

    class Meta:
        constraints = [
            # The role is part of the key: in the first iteration the current policy is
            # the initial one, and the responses of both are needed.
            models.UniqueConstraint(
                fields=["run_id", "checkpoint_id", "policy_role"],
                name="producer_checkpoint_once_per_run",
            ),
            models.UniqueConstraint(
                fields=["source"],
                condition=Q(source="demo"),
                name="producer_demo_once",
            ),
            models.CheckConstraint(
                condition=Q(
                    source="policy",
                    run_id__isnull=False,
                    checkpoint_id__isnull=False,
                    policy_role__in=PolicyRole.values,
                )
                | Q(
                    source="demo",
                    run_id__isnull=True,
                    checkpoint_id__isnull=True,
                    policy_role="",
                ),
                name="producer_is_a_policy_or_the_demo",
            ),
        ]

    def __str__(self) -> str:
        if self.source == ProducerSource.DEMO:
            return "the demo's generator"
        return f"run {self.run_id}, checkpoint {self.checkpoint_id}, step {self.step}"


class SampledResponse(models.Model):
    """A policy's response to the input of one turn."""

    turn = models.ForeignKey(
        Turn,
        on_delete=models.CASCADE,
        related_name="sampled_responses",
        db_index=False,  # the unique key begins with it
    )
    producer = models.ForeignKey(
        Producer, on_delete=models.CASCADE, related_name="responses"
    )
    index = models.PositiveSmallIntegerField(
        help_text="0 to G-1 among this producer's answers to the turn."
    )
    text = models.TextField()
    observation = models.TextField(
        blank=True, help_text="What the action called returned, if one was called."
    )
    observation_source = models.CharField(
        max_length=9,
        blank=True,
        choices=[("recorded", "Recorded"), ("simulator", "Simulator")],
    )
    format_error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["turn", "producer", "index"], name="sampledresponse_index_once"
            ),
        ]

    def __str__(self) -> str:
        return f"answer {self.index} of {self.producer} to turn {self.turn_id}"
