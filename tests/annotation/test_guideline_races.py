"""Two curators publish at once: one wins, the other is told, nothing is lost."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection

from annotation.judging.guidelines import GuidelineConflict, publish_guideline
from annotation.models import GuidelineVersion, Project
from tests.cast import make_project, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def test_two_at_once_from_one_version():
    project = make_project(guideline="Before.")
    names = ["rita", "ada"]
    people = [make_user(name) for name in names]
    barrier = Barrier(2)

    def publish(user):
        barrier.wait()
        try:
            published = publish_guideline(
                project=project, author=user, text=user.username, base_version=1
            )
        except GuidelineConflict:
            return None
        else:
            return published.text
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        texts = [text for text in pool.map(publish, people) if text]
    assert len(texts) == 1
    assert Project.objects.get().guideline == texts[0]
    kept = GuidelineVersion.objects.values_list("text", flat=True)
    assert list(kept) == ["Before.", texts[0]]
