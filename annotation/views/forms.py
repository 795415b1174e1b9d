"""The forms of the annotation pages: input checked before a deed gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from annotation.judging.guidelines import CHANGE_LENGTH, NOTE_LENGTH, TEXT_LENGTH
from annotation.judging.judgments import Lease
from annotation.models import Reason, SampleStatus, Situation

BIGGEST = 2**63 - 1
DAY = 24 * 3600.0


class SlotForm(forms.Form):
    """The lease that a page was shown; every deed on a pair names it."""

    slot = forms.IntegerField(min_value=1, max_value=BIGGEST)
    token = forms.IntegerField(min_value=1, max_value=BIGGEST)


class ShownForm(SlotForm):
    """A lease on a page, and its start as far as the page knows."""

    since = forms.DateTimeField()

    def lease(self) -> Lease:
        data = self.cleaned_data
        return Lease(data["slot"], data["token"], data["since"])


class DecisionForm(forms.Form):
    """A verdict on a pair, and its reasons."""

    verdict = forms.TypedChoiceField(
        choices=[(0, _("Not consistent")), (1, _("Consistent"))],
        coerce=int,
        error_messages={"required": _("Choose consistent or not consistent first.")},
    )
    reasons = forms.MultipleChoiceField(choices=Reason.choices, required=False)

    def units_that_differ(self) -> list[str]:
        """Return the posted unit keys; the deed checks each."""
        assert isinstance(self.data, QueryDict)
        return self.data.getlist("units")


class JudgmentForm(DecisionForm, SlotForm):
    """A labeler's decision, with the lease that its page was shown."""

    seconds = forms.FloatField(required=False)
    order_confirmed = forms.BooleanField(required=False)
    guideline = forms.CharField(required=False)
    proof = forms.CharField(required=False)

    def clean_seconds(self) -> float:
        """Limit the time to a day; a missing one is 0."""
        return min(max(self.cleaned_data["seconds"] or 0.0, 0.0), DAY)

    def clean_guideline(self) -> int | None:
        """Return the version that was on screen; None if it is not a number."""
        text = self.cleaned_data["guideline"]
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        return int(text) if is_number else None

    def judgment(self) -> dict[str, Any]:
        """Return the arguments of ``record_judgment``, without the person."""
        data = self.cleaned_data
        return {
            "slot_id": data["slot"],
            "token": data["token"],
            "verdict": data["verdict"],
            "reasons": data["reasons"],
            "units_that_differ": self.units_that_differ(),
            "seconds_spent": data["seconds"],
            "order_confirmed": data["order_confirmed"],
            "guideline_version": data["guideline"],
            "proof": data["proof"],
        }


class TaskJudgmentForm(JudgmentForm):
    """A judgment of one turn on the page of a whole task, named by ``answer``."""

    answer = forms.IntegerField(min_value=1, max_value=BIGGEST)


class SkipForm(SlotForm):
    reason = forms.CharField(max_length=80)
    more = forms.CharField(max_length=200, required=False)

    def words(self) -> str:
        """Return the reason, followed by the person's own text."""
        reason, more = self.cleaned_data["reason"], self.cleaned_data["more"]
        return f"{reason}: {more}" if more else str(reason)


class SampleFilterForm(forms.Form):
    """The filters of the sample list; each field is one lookup in ``FILTERS``."""

    FILTERS = {
        "status": "status",
        "situation": "situation",
        "scenario": "scenario",
        "split": "split",
    }
    status = forms.ChoiceField(
        choices=[("", _("Any status")), *SampleStatus.choices], required=False
    )
    situation = forms.ChoiceField(
        choices=[("", _("Any situation")), *Situation.choices], required=False
    )
    scenario = forms.CharField(max_length=80, required=False)
    split = forms.CharField(max_length=20, required=False)
    text = forms.CharField(max_length=200, required=False)
    before = forms.IntegerField(min_value=1, max_value=BIGGEST, required=False)

    def lookups(self) -> dict[str, Any]:
        """Return the lookups of the filters that are set."""
        return {
            lookup: self.cleaned_data[name]
            for name, lookup in self.FILTERS.items()
            if self.cleaned_data.get(name)
        }


class ReturnForm(forms.Form):
    comment = forms.CharField(max_length=5000, required=False)


class ReviewFilterForm(forms.Form):
    """The filters of the submitted samples that a curator reviews, and the position."""

    FILTERS = {
        "scenario": "scenario",
        "situation": "situation",
        "author": "author__username",
    }
    scenario = forms.CharField(max_length=80, required=False)
    situation = forms.ChoiceField(
        choices=[("", _("Any situation")), *Situation.choices], required=False
    )
    author = forms.CharField(max_length=150, required=False)
    at = forms.IntegerField(min_value=1, max_value=BIGGEST, required=False)

    def lookups(self) -> dict[str, Any]:
        """Return the lookups of the filters that are set and valid."""
        self.is_valid()
        return {
            lookup: self.cleaned_data[name]
            for name, lookup in self.FILTERS.items()
            if self.cleaned_data.get(name)
        }

    def query(self, **more: object) -> str:
        """Return the filters as a query string, with ``more`` where it is not None."""
        self.is_valid()
        values = {name: self.cleaned_data.get(name, "") for name in self.FILTERS} | more
        return urlencode({name: value for name, value in values.items() if value})


class CommentForm(forms.Form):
    """A comment and its place, "turn:anchor" with the turn from 0, or nothing."""

    place = forms.RegexField(r"\A[0-9]{1,4}:[^\x00]{0,200}\Z", required=False)
    text = forms.CharField(max_length=5000)

    def position_and_anchor(self) -> tuple[int | None, str]:
        position, _colon, anchor = self.cleaned_data["place"].partition(":")
        return (int(position), anchor) if position else (None, "")


class SettleForm(DecisionForm):
    """A curator's final verdict on a pair."""

    comment = forms.CharField(max_length=5000, required=False)
    pin = forms.BooleanField(required=False)


class DisputeForm(forms.Form):
    """Which pairs a curator settles, and the position among them."""

    KINDS = ("disputed", "skipped")
    kind = forms.ChoiceField(choices=[(kind, kind) for kind in KINDS], required=False)
    at = forms.IntegerField(min_value=1, max_value=BIGGEST, required=False)

    def chosen(self) -> tuple[str, int]:
        """Return the kind ("disputed" unless another is named) and the place."""
        self.is_valid()
        kind = self.cleaned_data.get("kind") or self.KINDS[0]
        return kind, self.cleaned_data.get("at") or 0


class KeysForm(forms.Form):
    """The keys of rows that a person has confirmed, separated by commas."""

    keys = forms.RegexField(r"\A[0-9]{1,18}(,[0-9]{1,18}){0,999}\Z")

    def numbers(self) -> list[int]:
        return [int(key) for key in self.cleaned_data["keys"].split(",")]


class GuidelineForm(forms.Form):
    """A guideline being edited; its text keeps all blanks and line ends."""

    LONGEST = TEXT_LENGTH
    text = forms.CharField(max_length=TEXT_LENGTH, required=False, strip=False)
    change = forms.CharField(max_length=CHANGE_LENGTH, required=False)
    asks_to_reread = forms.BooleanField(required=False)
    base_version = forms.IntegerField(min_value=1, max_value=2**31 - 1)

    def clean_text(self) -> str:
        """Remove the line ends that browsers add."""
        return str(self.cleaned_data["text"]).replace("\r\n", "\n")


class ReadingForm(forms.Form):
    version = forms.IntegerField(min_value=1, max_value=2**31 - 1)


class ExampleForm(forms.Form):
    note = forms.CharField(max_length=NOTE_LENGTH, required=False)


class VersionsForm(forms.Form):
    """Two versions to compare."""

    old = forms.IntegerField(min_value=1, max_value=2**31 - 1, required=False)
    new = forms.IntegerField(min_value=1, max_value=2**31 - 1, required=False)

    def chosen(self, numbers: Sequence[int]) -> tuple[int, int]:
        """Return the two versions asked for, else the newest and the one before it.

        ``numbers`` are the known versions, newest first; 0 stands for no version.
        """
        self.is_valid()
        new: int | None = self.cleaned_data.get("new")
        if new is None or new not in numbers:
            new = numbers[0] if numbers else 0
        old: int | None = self.cleaned_data.get("old")
        if old is None or old not in numbers:
            old = next((number for number in numbers if number < new), 0)
        return old, new


class ImportForm(forms.Form):
    file = forms.FileField()
    format = forms.ChoiceField(
        choices=[("concord", "Concord JSONL"), ("openai-chat", "OpenAI chat JSONL")]
    )
    tools = forms.FileField(required=False)
