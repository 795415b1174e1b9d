"""Snapshots: what goes in, what stays out, equal content once, files as announced."""

import json

import pytest

from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.models import Adjudication, Project, ReferenceResponse, Sample
from records.checkpoints import file_sha256
from tests.cast import LABEL, make_judgment, make_project, make_sample, make_user
from training.models import Snapshot
from training.storage.snapshots import (
    NothingToTrainOnError,
    build_snapshot,
    is_held_out_for_reward,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(overlap=1)


def rows(snapshot, name):
    text = (snapshot.directory / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def answer(project, sample, text, index=0):
    """Let checkpoint 7 of run 3 give ``text`` as its answer to the first turn."""
    receive_responses(
        project=project,
        producer=ProducerFacts(3, 7, "d" * 64, 200, "current"),
        responses=[ResponseRow(sample.external_id, 0, index, text)],
    )
    return project.pairs.order_by("-pk").first()


WRONG = LABEL.replace("bakery", "florist")


def test_held_out_and_unapproved_samples_never_reach_the_training_file(project):
    kept = make_sample(project=project)
    held_out = make_sample(project=project, split="held-out")
    unseen = make_sample(project=project, split="held-out-unseen")
    make_sample(project=project, status="submitted")
    make_sample(project=project, status="retired")
    make_sample()  # of another project
    snapshot = build_snapshot(project=project, user=make_user("tara"))
    assert [r["id"] for r in rows(snapshot, "train")] == [kept.external_id]
    assert [r["id"] for r in rows(snapshot, "held_out")] == [
        held_out.external_id,
        unseen.external_id,
    ]
    assert set(snapshot.samples.all()) == {kept, held_out, unseen}
    assert snapshot.counts == {"train": 1, "held_out": 2, "turns": 3}


def test_rows_are_concord_jsonl_with_references(project):
    sample = make_sample(project=project, scenario="food delivery")
    ReferenceResponse.objects.create(turn=sample.turns.get(), position=0, text="Same.")
    (row,) = rows(build_snapshot(project=project, user=None), "train")
    assert row["scenario"] == "food delivery"
    assert row["turns"][0]["response"] == LABEL
    assert row["turns"][0]["references"] == ["Same."]


def test_equal_content_gives_the_same_snapshot_and_a_change_a_new_one(project):
    sample = make_sample(project=project)
    first = build_snapshot(project=project, user=None)
    assert build_snapshot(project=project, user=make_user("tara")) == first
    sample.turns.update(response="<<think>>Other.<</think>>No.")
    second = build_snapshot(project=project, user=None)
    assert second != first
    assert rows(first, "train")[0]["turns"][0]["response"] == LABEL


def test_files_have_the_hashes_the_row_says_and_lost_ones_are_written_again(project):
    make_sample(project=project)
    snapshot = build_snapshot(project=project, user=None)
    path = snapshot.directory / "train.jsonl"
    assert snapshot.files["train"]["sha256"] == file_sha256(path)
    assert snapshot.files["train"]["bytes"] == path.stat().st_size
    path.write_text("")
    assert build_snapshot(project=project, user=None) == snapshot
    assert snapshot.files["train"]["sha256"] == file_sha256(path)
    left = [p.name for p in snapshot.directory.parent.glob(".staging-*")]
    assert left == []


def test_judged_pairs_carry_outcome_units_and_lineage(project):
    sample = make_sample(project=project)
    pair = answer(project, sample, WRONG)
    units = ("action/1/parameters/kind",)
    judgment = make_judgment(pair, make_user("lena"), 0, units=units)
    snapshot = build_snapshot(project=project, user=None, with_judgments=True)
    (row,) = rows(snapshot, "judgments")
    assert row == {
        "judgment": judgment.pk,
        "judgments": [judgment.pk],
        "pair": pair.pk,
        "sample": sample.external_id,
        "turn": 0,
        "input_kind": "user",
        "label": LABEL,
        "sampled": WRONG,
        "consistent": False,
        "differs": ["action/1/parameters/kind"],
        "source": "people",
        "producer": {"run": 3, "checkpoint": 7, "step": 200},
        "facts": None,
        "split": row["split"],
    }
    assert list(snapshot.judgments.all()) == [judgment]


def test_derived_pairs_are_marked_and_never_mixed_with_judgments(project):
    one, two = make_sample(project=project), make_sample(project=project)
    make_judgment(answer(project, one, WRONG), make_user("lena"), 0)
    answer(project, two, LABEL)
    answer(project, two, "<<think>>never closed", index=1)
    answer(project, two, LABEL + "\n", index=2)
    snapshot = build_snapshot(project=project, user=None, with_judgments=True)
    found = {r["source"]: r for r in rows(snapshot, "judgments")}
    assert found["identical"]["consistent"] is True
    assert found["identical"]["judgment"] is None
    assert found["rule"]["consistent"] is True
    assert (found["rule"]["judgments"], found["rule"]["differs"]) == ([], [])
    assert found["format"]["consistent"] is False
    assert found["format"]["differs"] == ["format"]
    assert snapshot.counts["pairs_judged"] == 1
    assert snapshot.counts["pairs_derived"] == 3


def test_pairs_without_an_outcome_stay_out(project):
    Project.objects.filter(pk=project.pk).update(overlap=2, overlap_limit=2)
    project.refresh_from_db()
    split_pair = answer(project, make_sample(project=project), WRONG)
    half = answer(project, make_sample(project=project), WRONG)
    settled = answer(project, make_sample(project=project), WRONG)
    for pair, verdicts in ((split_pair, (0, 1)), (half, (0,)), (settled, (0, 0))):
        for name, verdict in zip(("lena", "luis"), verdicts, strict=False):
            make_judgment(pair, make_user(name), verdict)
    snapshot = build_snapshot(project=project, user=None, with_judgments=True)
    assert [r["pair"] for r in rows(snapshot, "judgments")] == [settled.pk]
    assert snapshot.judgments.count() == 2
    Adjudication.objects.create(
        pair=split_pair,
        curator=make_user("rita"),
        verdict=0,
        units_that_differ=["answer"],
    )
    snapshot = build_snapshot(project=project, user=None, with_judgments=True)
    row = rows(snapshot, "judgments")[0]
    assert (row["pair"], row["differs"]) == (split_pair.pk, ["answer"])


def test_pairs_of_held_out_and_retired_samples_do_not_train(project):
    held_out = make_sample(project=project, external_id="h")
    retired = make_sample(project=project, external_id="r")
    make_sample(project=project)
    for sample in (held_out, retired):
        make_judgment(answer(project, sample, WRONG), make_user("lena"), 0)
    Sample.objects.filter(pk=held_out.pk).update(split="held-out")
    Sample.objects.filter(pk=retired.pk).update(status="retired")
    snapshot = build_snapshot(project=project, user=None, with_judgments=True)
    (row,) = rows(snapshot, "judgments")
    assert (row["sample"], row["split"]) == ("h", "held-out")


def test_a_fixed_share_of_samples_is_held_out_for_the_reward_model():
    held_out = [is_held_out_for_reward(f"demo-{n:06d}") for n in range(4000)]
    assert 0.12 < sum(held_out) / 4000 < 0.18
    assert held_out == [is_held_out_for_reward(f"demo-{n:06d}") for n in range(4000)]


def test_nothing_to_train_on_is_said(project):
    make_sample(project=project, split="held-out")
    with pytest.raises(NothingToTrainOnError) as caught:
        build_snapshot(project=project, user=None)
    assert str(caught.value) == (
        "There is no approved sample outside the held-out splits. "
        "Import or write samples and approve them first."
    )
    make_sample(project=project)
    with pytest.raises(NothingToTrainOnError, match="No pair has been judged"):
        build_snapshot(project=project, user=None, with_judgments=True)
    assert not Snapshot.objects.exists()


def test_the_number_of_queries_does_not_grow_with_the_samples(
    project, django_assert_max_num_queries
):
    for _ in range(30):
        make_sample(project=project)
    with django_assert_max_num_queries(25):
        build_snapshot(project=project, user=None, with_judgments=False)
