"""The Celery app: its queues, and a scheduler that reconciles runs.

A message is only a hint; the run's row in Postgres is the truth. Messages are therefore
acknowledged early (a broker redelivers an unacknowledged hour-long task, which would
run twice) and carry no results. The reconciler finds whatever a lost message left
undone.
"""

import os

from celery import Celery

from config.web.messages import use_for_all_brokers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
use_for_all_brokers()

app = Celery("concord")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    event_serializer="json",
    task_ignore_result=True,
    task_acks_late=False,
    task_default_queue="default",
    task_routes={"training.tasks.run_hint": {"queue": "runs"}},
    worker_prefetch_multiplier=1,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_connection_retry=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # retry for ever: the server comes back
    broker_transport_options={"socket_connect_timeout": 5, "socket_keepalive": True},
    # A page must not wait for the broker: publishing gives up after about two seconds.
    task_publish_retry_policy={"max_retries": 2, "interval_start": 0.2},
    beat_schedule={
        "reconcile": {
            "task": "training.tasks.reconcile",
            "schedule": 15.0,
            "options": {"queue": "default", "expires": 15.0},
        }
    },
    # Kept in memory: the usual scheduler's file is a pickle, which a kill -9 corrupts.
    beat_scheduler="celery.beat:Scheduler",
)
app.autodiscover_tasks()
