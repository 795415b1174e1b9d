"""Return the slots of people whose role has ended.

A role can end in several ways: a membership is deleted or changed, in the admin or by a
command; a person is deactivated, or is no longer superuser. Each way saves or deletes a
row, and each time this module checks who holds a slot they may not judge. A change that
bypasses the signals (a bare SQL statement) frees the slots when their leases run out,
because nothing extends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from annotation.judging.queue import lock_person, reopen, unmeet
from annotation.models import Membership, Role, Slot, SlotQuerySet

if TYPE_CHECKING:
    from collections.abc import Collection

# The fields of a user that affect their roles; a sign-in saves none of them.
DECISIVE = {"is_active", "is_superuser"}


def held_by_leavers() -> SlotQuerySet:
    """Return the slots whose holders may not, or no longer, judge in their project."""
    may_judge = Membership.objects.filter(
        project=OuterRef("project"),
        user=OuterRef("holder"),
        role__in=[Role.LABELER, Role.ADMIN],
    )
    return Slot.objects.leased().filter(
        Q(holder__is_active=False) | ~Q(holder__is_superuser=True) & ~Exists(may_judge)
    )


def release_slots_of_leavers() -> int:
    """Reopen the slots of people who have left; return how many.

    It runs in the transaction that took the role away, which holds the row that every
    deed of the person waits for (``access.roles_held``): a claim in progress has
    finished and is visible here, and a later one finds the role gone.
    """
    released = 0
    with transaction.atomic():
        held = held_by_leavers().select_related("project", "holder")
        for slot in held.order_by("holder", "project", "pk"):
            assert slot.holder is not None
            lock_person(project=slot.project, user=slot.holder)
            still = held_by_leavers().select_for_update(no_key=True, of=["self"])
            if still.filter(pk=slot.pk, holder=slot.holder).exists():
                reopen(slot)
                unmeet(slot, slot.holder)
                released += 1
    return released


@receiver([post_save, post_delete], sender=Membership)
def look_after_membership(**_: Any) -> None:
    release_slots_of_leavers()


@receiver(post_save, sender=User)
def look_after_user(
    created: bool, update_fields: Collection[str] | None, **_: Any
) -> None:
    if not created and (update_fields is None or DECISIVE & {*update_fields}):
        release_slots_of_leavers()
