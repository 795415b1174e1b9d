"""Queues per device: who may claim what, how many on one GPU, and what the page says."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from django.conf import settings as django_settings
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from tests.cast import make_project, make_sample, make_user, sign_in
from tests.training.conftest import QUICK, is_alive, make_run, tiny, wait_until
from tests.training.test_new_run_page import filled, start
from training import tasks
from training.models import Device, Run
from training.runs import claim, control, hints, launch, placement, supervise
from training.runs.placement import Place, visible_devices
from training.runs.supervise import Outcome

GPU_0 = Place("box", "cuda:0", "cuda:0")
GPU_1 = Place("box", "cuda:1", "cuda:1")
ANY = Place("laptop")

pytestmark = pytest.mark.django_db(transaction=True)


def claim_at(run, place):
    return claim.claim_run(run.pk, timing=QUICK, place=place)


def end(run):
    Run.objects.filter(pk=run.pk).update(state="finished", leased_until=None)


@pytest.fixture
def project():
    project = make_project(slug="cakes")
    make_sample(project=project)
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


# Whose run it is


@pytest.mark.parametrize(
    ("wish", "place", "taken"),
    [
        ("", ANY, True),
        ("", GPU_1, True),
        ("cuda:1", GPU_1, True),
        ("cuda:1", GPU_0, False),
        ("cuda:1", ANY, False),
        ("night", Place("box", "night", "cuda:1"), True),
        ("cuda:1", Place("box", "night", "cuda:1"), False),
    ],
)
def test_a_worker_takes_runs_of_its_queue_and_runs_without_a_wish(wish, place, taken):
    run = make_run(queue=wish)
    assert (claim_at(run, place) is not None) is taken
    run.refresh_from_db()
    assert run.state == ("starting" if taken else "queued")
    assert run.device == (place.gpu if taken else "")


def test_a_run_of_several_processes_needs_more_than_one_gpu():
    run = make_run(recipe={"processes": 2})
    assert claim_at(run, GPU_0) is None
    assert claim_at(run, ANY) is not None
    assert claim_at(make_run(recipe={"processes": 1}), GPU_0) is not None


def test_a_run_of_another_queue_is_not_taken_over_when_its_worker_vanished():
    run = make_run(queue="cuda:1")
    assert claim_at(run, GPU_1)
    Run.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    assert claim_at(run, GPU_0) is None
    assert claim_at(run, GPU_1).attempts == 2


# One run at a time on a GPU


def test_a_second_run_waits_until_the_gpu_is_free():
    first, second = make_run(), make_run()
    assert claim_at(first, GPU_1)
    assert claim_at(second, GPU_1) is None
    second.refresh_from_db()
    assert (second.state, second.attempts, second.token) == ("queued", 0, 0)
    end(first)
    assert claim_at(second, GPU_1).device == "box cuda:1"


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_two_runs_share_a_gpu_only_if_both_say_so(first, second, together):
    assert claim_at(make_run(shares_device=first), GPU_1)
    found = claim_at(make_run(shares_device=second), GPU_1)
    assert (found is not None) is together


def test_a_gpu_of_the_same_number_elsewhere_is_another_one():
    assert claim_at(make_run(), GPU_1)
    assert claim_at(make_run(), GPU_0)
    assert claim_at(make_run(), Place("tower", "cuda:1", "cuda:1"))


def test_two_queues_of_one_gpu_are_one_gpu():
    assert claim_at(make_run(), GPU_1)
    assert claim_at(make_run(), Place("box", "night", "cuda:1")) is None


def test_without_a_device_a_worker_claims_as_before():
    assert claim_at(make_run(), ANY)
    assert claim_at(make_run(), ANY)
    assert set(Run.objects.values_list("device", flat=True)) == {""}


def test_the_database_refuses_two_runs_that_want_a_gpu_alone():
    assert claim_at(make_run(), GPU_1)
    second = make_run()
    taken = {"state": "running", "leased_until": timezone.now(), "device": GPU_1.gpu}
    refused = pytest.raises(IntegrityError, match="run_alone_on_its_device")
    with refused, transaction.atomic():
        Run.objects.filter(pk=second.pk).update(**taken)
    Run.objects.filter(pk=second.pk).update(shares_device=True, **taken)


def race(runs):
    """Claim each run from a thread of its own, at once; return who got one, and errors."""
    gate, got, errors = threading.Barrier(len(runs)), [], []

    def work(run):
        try:
            gate.wait()
            if claim_at(run, GPU_1):
                got.append(run)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got, errors


def test_of_many_runs_that_race_for_a_gpu_one_gets_it_or_only_sharers_do():
    project, rng = make_project(), random.Random(3)
    for _ in range(12):
        shares = [rng.random() < 0.6 for _ in range(6)]
        runs = [make_run(project=project, shares_device=each) for each in shares]
        got, errors = race(runs)
        assert errors == []
        if all(run.shares_device for run in got):
            assert len(got) == sum(shares)
        else:
            assert len(got) == 1
        Run.objects.update(state="finished", leased_until=None)


# What a program sees


@pytest.mark.parametrize(
    ("device", "given", "seen"),
    [
        ("", {}, None),
        ("", {"CUDA_VISIBLE_DEVICES": "4"}, None),
        ("cuda:1", {}, "1"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "4, 6"}, "6"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "GPU-8a1b,GPU-77c0"}, "GPU-77c0"),
        ("cuda:2", {"CUDA_VISIBLE_DEVICES": "4,6"}, ""),
        ("cpu", {"CUDA_VISIBLE_DEVICES": "4"}, ""),
    ],
)
def test_a_program_sees_the_gpu_of_its_worker_only(device, given, seen):
    assert visible_devices(device, given).get("CUDA_VISIBLE_DEVICES") == seen


def test_a_supervised_program_gets_the_gpu_of_its_worker(settings, monkeypatch):
    settings.WORKER_DEVICE = "cuda:1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    run = make_run()
    shows = "import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])"
    supervise.supervise(run.pk, command=[sys.executable, "-c", shows], timing=QUICK)
    run.refresh_from_db()
    assert "sees 6" in run.log_tail
    assert run.device.endswith(" cuda:1")


def test_nothing_of_a_program_outlives_its_run_so_no_memory_of_a_gpu_stays_taken():
    run = make_run()
    leaves_one_behind = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'input()'], "
        "stdin=subprocess.PIPE).pid, flush=True); import os; os._exit(3)"
    )
    supervise.supervise(
        run.pk, command=[sys.executable, "-c", leaves_one_behind], timing=QUICK
    )
    run.refresh_from_db()
    assert run.state == "failed"
    wait_until(lambda: not is_alive(int(run.log_tail.split()[0])), what="its end")


# Hints


def test_the_hint_of_a_wish_goes_to_the_workers_of_its_queue(project, monkeypatch):
    sent = []
    monkeypatch.setattr(
        hints.current_app,
        "send_task",
        lambda name, args, **options: sent.append((args, options["queue"])),
    )
    wished, plain = make_run(project=project, queue="cuda:1"), make_run(project=project)
    for run in (wished, plain):
        hints.send_hint(run.pk)
    assert sent == [([wished.pk], "runs.cuda:1"), ([plain.pk], "runs")]


def test_a_worker_done_with_a_run_asks_for_the_oldest_it_may_take(
    project, settings, monkeypatch
):
    settings.WORKER_DEVICE = "cuda:1"
    sent = []
    monkeypatch.setattr(tasks, "send_hint", sent.append)
    monkeypatch.setattr(supervise, "supervise", lambda pk: Outcome.FINISHED)
    make_run(project=project, queue="cuda:0")
    own = make_run(project=project, queue="cuda:1")
    make_run(project=project)
    tasks.run_hint(0)
    assert sent == [own.pk]


@pytest.mark.slow
def test_a_celery_worker_hears_of_its_queue_announces_it_and_leaves_others_alone(
    project, data_dir
):
    """A worker process, on this test's database and broker, told where it is."""
    database = connection.settings_dict
    url = "postgresql://{USER}:{PASSWORD}@/{NAME}?host={HOST}&port={PORT}"
    environment = os.environ | {
        "DATABASE_URL": url.format(**database),
        "REDIS_URL": django_settings.REDIS_URL,
        "CONCORD_DATA_DIR": str(data_dir),
        "CONCORD_DEVICE": "cuda:1",
        "CONCORD_QUEUE": "night",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    log = data_dir / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "config", "worker"),
                *("--pool=threads", "-Q", "runs", "--concurrency=2"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(Device.objects.exists, seconds=60, what=log.read_text)
        assert [q.name for q in placement.announced_queues()] == ["night"]
        other = make_run(project=project, queue="cuda:0")
        own = make_run(project=project, queue="night")

        def claimed():
            # A hint may be lost, as while a worker joins its queue: the reconciler says
            # it again, and there is none here.
            hints.send_hint(other.pk)
            hints.send_hint(own.pk)
            time.sleep(1)
            return Run.objects.get(pk=own.pk).token

        wait_until(claimed, seconds=60, what="a claim")
        assert Run.objects.get(pk=own.pk).device.endswith(" cuda:1")
        assert Run.objects.get(pk=other.pk).state == "queued"
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(90)
        finally:
            worker.kill()
    wait_until(lambda: not Run.objects.active().exists(), what="the run handed back")


# The pages


def announce(place, ago=0):
    placement.announce(place)
    seen = timezone.now() - timedelta(minutes=ago)
    Device.objects.filter(host=place.host, queue=place.queue).update(seen_at=seen)


def test_while_no_worker_names_a_device_the_form_is_as_it_was(client, project, tara):
    page = client.get("/p/cakes/runs/new/sft/")
    assert "queue" not in page.context["form"].fields
    assert "Runs on" not in page.content.decode()
    start(client, project, queue="cuda:1", shares_device="on")
    run = Run.objects.get()
    assert (run.queue, run.shares_device) == ("", False)


def test_the_form_offers_what_workers_announced_and_starts_the_run_there(
    client, project, tara
):
    announce(GPU_0)
    announce(GPU_1, ago=60)
    announce(Place("tower", "cuda:0", "cuda:0"))
    form = client.get("/p/cakes/runs/new/sft/").context["form"]
    assert form.fields["queue"].choices == [
        ("", "Any worker"),
        ("cuda:0", "cuda:0 (box, tower)"),
        ("cuda:1", "cuda:1 (box, away)"),
    ]
    page = start(client, project, queue="cuda:1", shares_device="on")
    assert page.status_code == 302
    run = Run.objects.get()
    assert (run.queue, run.shares_device) == ("cuda:1", True)


def test_a_queue_that_no_worker_announced_is_refused(client, project, tara):
    announce(GPU_0)
    fields = filled(client, project) | {"queue": "cuda:9"}
    page = client.post("/p/cakes/runs/new/sft/", fields)
    assert page.status_code == 422
    assert "queue" in page.context["form"].errors
    with pytest.raises(launch.LaunchRefusedError) as caught:
        launch.start_run(
            project=project,
            kind="sft",
            recipe={},
            inputs={},
            user=tara,
            queue="cuda:9",
        )
    assert caught.value.problems == {
        "queue": "No worker has announced a queue “cuda:9”."
    }


def test_a_queued_run_says_what_it_waits_for_and_what_holds_it(client, project, tara):
    announce(GPU_1)
    waiting = make_run(project=project, queue="cuda:1")
    text = client.get(waiting.get_absolute_url()).content.decode()
    assert "Waits for cuda:1." in text
    holder = make_run(project=project)
    claim_at(holder, GPU_1)
    text = client.get(waiting.get_absolute_url()).content.decode()
    link = f'<a href="{holder.get_absolute_url()}">SFT {holder.pk}</a>'
    assert f"Waits for cuda:1, which {link} holds." in text
    text = client.get(holder.get_absolute_url()).content.decode()
    assert "Waits for" not in text
    assert "box cuda:1" in text
    assert "for cuda:1" in client.get("/p/cakes/runs/").content.decode()


def test_a_run_that_shares_is_held_by_none_that_shares_too(client, project, tara):
    announce(GPU_1)
    waiting = make_run(project=project, queue="cuda:1", shares_device=True)
    claim_at(make_run(project=project, shares_device=True), GPU_1)
    text = client.get(waiting.get_absolute_url()).content.decode()
    assert "Waits for cuda:1." in text


def test_a_run_of_another_project_that_holds_it_is_not_named(client, project, tara):
    announce(GPU_1)
    holder = make_run(project=make_project())
    claim_at(holder, GPU_1)
    waiting = make_run(project=project, queue="cuda:1")
    text = client.get(waiting.get_absolute_url()).content.decode()
    assert "Waits for cuda:1, which a run of another project holds." in text
    assert holder.get_absolute_url() not in text


def test_a_queue_whose_workers_are_away_is_said(client, project, tara):
    announce(GPU_1, ago=10)
    waiting = make_run(project=project, queue="cuda:1")
    text = client.get(waiting.get_absolute_url()).content.decode()
    assert "Its workers have been away since" in text
    Device.objects.all().delete()
    text = client.get(waiting.get_absolute_url()).content.decode()
    assert "No worker serves it any more." in text


# Changing the wish of a queued run


def change(run, queue, **fields):
    deed = {"user": None, "shares_device": False} | fields
    return control.change_place(project=run.project, run=run, queue=queue, **deed)


def test_a_trainer_changes_where_a_queued_run_will_run(
    client, project, tara, monkeypatch
):
    announce(GPU_0)
    announce(GPU_1)
    hinted = []
    monkeypatch.setattr(control, "send_hint_on_commit", hinted.append)
    run = make_run(project=project, queue="cuda:1")
    page = client.get(run.get_absolute_url())
    form = page.context["place_form"]
    assert [value for value, _ in form.fields["queue"].choices] == [
        *("", "cuda:0", "cuda:1")
    ]
    sent = {"place-queue": "cuda:0", "place-shares_device": "on"}
    address = f"/p/cakes/runs/{run.pk}/place/"
    assert client.post(address, sent, follow=True).status_code == 200
    run.refresh_from_db()
    assert (run.queue, run.shares_device, hinted) == ("cuda:0", True, [run.pk])
    assert run.notes.get().message == (
        "tara changed what the run waits for: cuda:1 → cuda:0, sharing its GPU."
    )
    text = client.get(run.get_absolute_url()).content.decode()
    assert "Waits for cuda:0." in text
    assert "tara changed what the run waits for" in text
    client.post(address, sent)  # the same again is no change
    assert run.notes.count() == 1
    assert claim_at(run, GPU_1) is None
    assert claim_at(run, GPU_0)


def test_a_wish_for_workers_that_are_gone_can_be_given_up(client, project, tara):
    run = make_run(project=project, queue="night")
    form = client.get(run.get_absolute_url()).context["place_form"]
    assert form.fields["queue"].choices == [("", "Any worker"), ("night", "night")]
    client.post(f"/p/cakes/runs/{run.pk}/place/", {"place-queue": ""})
    assert claim_at(run, ANY)


def test_without_queues_there_is_nothing_to_change(client, project, tara):
    run = make_run(project=project)
    page = client.get(run.get_absolute_url())
    assert page.context["place_form"] is None
    assert "Change where it runs" not in page.content.decode()


def test_a_claimed_run_stays_where_it_is_and_the_page_says_so(client, project, tara):
    announce(GPU_0)
    announce(GPU_1)
    run = make_run(project=project, queue="cuda:1")
    claim_at(run, GPU_1)
    page = client.get(run.get_absolute_url()).content.decode()
    assert "Change where it runs" not in page
    sent = {"place-queue": "cuda:0"}
    page = client.post(f"/p/cakes/runs/{run.pk}/place/", sent, follow=True)
    assert (
        "Where it runs can be changed only while it is queued; this one is starting."
    ) in page.content.decode()
    run.refresh_from_db()
    assert run.queue == "cuda:1"
    assert not run.notes.exists()


def test_a_queue_nobody_announced_is_no_place_to_wait(client, project, tara):
    announce(GPU_0)
    run = make_run(project=project)
    sent = {"place-queue": "cuda:9"}
    page = client.post(f"/p/cakes/runs/{run.pk}/place/", sent, follow=True)
    assert "cuda:9 is not one of the available choices" in page.content.decode()
    with pytest.raises(launch.LaunchRefusedError, match="announced a queue “cuda:9”"):
        change(run, "cuda:9")
    run.refresh_from_db()
    assert run.queue == ""


def test_only_a_trainer_changes_where_a_run_runs(client, project):
    announce(GPU_0)
    run = make_run(project=project)
    for name, status in (("lena", 403), ("sam", 404)):
        sign_in(client, make_user(name))
        address = f"/p/cakes/runs/{run.pk}/place/"
        assert client.post(address, {"place-queue": "cuda:0"}).status_code == status
    run.refresh_from_db()
    assert run.queue == ""


def test_of_a_claim_and_a_change_at_once_exactly_one_happens():
    announce(GPU_0)
    project, rng, seen = make_project(), random.Random(5), set()
    for _ in range(40):
        run = make_run(project=project, queue="cuda:1")
        gate, done = threading.Barrier(2), {}

        def work(name, deed, wait, gate=gate, done=done):
            try:
                connection.ensure_connection()
                gate.wait()
                time.sleep(wait)
                done[name] = deed()
            except control.RunStateError:
                done[name] = None
            finally:
                connection.close()

        deeds = {
            "claim": lambda run=run: claim_at(run, GPU_1),
            "change": lambda run=run: change(run, "cuda:0"),
        }
        threads = [
            threading.Thread(target=work, args=(name, deed, rng.random() / 200))
            for name, deed in deeds.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        happened = {name for name, result in done.items() if result is not None}
        assert len(done) == 2
        assert len(happened) == 1
        seen |= happened
        run.refresh_from_db()
        wanted = ("starting", "cuda:1") if "claim" in happened else ("queued", "cuda:0")
        assert (run.state, run.queue) == wanted
        Run.objects.update(state="finished", leased_until=None)
    assert seen == {"claim", "change"}


def test_a_change_waits_for_a_claim_that_is_under_way_and_is_refused():
    announce(GPU_0)
    run = make_run(queue="cuda:1")
    refused = []

    def work():
        try:
            change(run, "cuda:0")
        except control.RunStateError as error:
            refused.append(str(error))
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    with transaction.atomic():
        assert claim_at(run, GPU_1)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
    thread.join()
    assert refused
    run.refresh_from_db()
    assert (run.state, run.queue) == ("starting", "cuda:1")


def test_a_claim_that_meets_a_change_under_way_lets_go():
    announce(GPU_0)
    run = make_run(queue="cuda:1")
    got = []

    def work():
        try:
            got.append(claim_at(run, GPU_1))
        finally:
            connection.close()

    with transaction.atomic():
        change(run, "cuda:0")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
    assert got == [None]
    assert claim_at(run, GPU_0)


def test_places_not_seen_for_a_month_are_forgotten():
    announce(GPU_0, ago=31 * 24 * 60)
    announce(GPU_1)
    assert [each.name for each in placement.announced_queues()] == ["cuda:1"]


def test_a_run_claimed_for_a_gpu_goes_to_its_end_and_frees_it(settings):
    settings.WORKER_DEVICE = "cuda:0"
    first, second = make_run(), make_run()
    for run in (first, second):
        command = tiny("--steps", 2)
        outcome = supervise.supervise(run.pk, command=command, timing=QUICK)
        assert outcome is Outcome.FINISHED
