"""A project that looks like one people work in: demo samples and one told in full.

Used by the browser tests and by the screenshots; everything in it is made up here or by
the demo's generator.
"""

from __future__ import annotations

import random

from django.contrib.auth.models import User

from actions.demo import derive, generate
from actions.json_values import dump_json
from annotation.authoring.import_files import import_file
from annotation.authoring.sample_rows import save_sample
from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.models import Membership, Pair, Project, Role, Sample

CAKE = {
    "id": "cake-for-saturday",
    "scenario": "food delivery",
    "situation": "exception",
    "contexts": [
        {
            "scope": "global",
            "title": "The cake shop",
            "background": (
                "You take orders for a cake shop in the old town. It bakes to order and "
                "delivers within the city."
            ),
            "guideline": (
                "Check availability before price. Have the user confirm cake and address "
                "before an order is placed. Say what to do when an action fails."
            ),
            "actions": [
                {
                    "name": "Query cake availability",
                    "description": "Lists the cakes that can be ready on a day.",
                    "parameters": {
                        "flavour": {"type": "string", "description": "The flavour."},
                        "servings": {
                            "type": "integer",
                            "description": "For how many people.",
                            "unit": "people",
                        },
                        "date": {"type": "string", "description": "The day."},
                    },
                    "exception": {"Kitchen closed": "No cake is baked on that day."},
                },
                {
                    "name": "Place order",
                    "description": "Orders a cake for delivery.",
                    "parameters": {
                        "cake": {"type": "string", "description": "Its name."},
                        "address": {"type": "string", "description": "Where to."},
                    },
                },
            ],
        }
    ],
    "turns": [
        {
            "input": {"kind": "user", "text": "Hello, are you open on Sundays too?"},
            "response": (
                "<<think>>A question about opening hours; the background answers it, so "
                "no plan is needed.<</think>>We bake from Monday to Saturday and deliver "
                "until six in the evening."
            ),
        },
        {
            "input": {
                "kind": "user",
                "text": (
                    "Order me a birthday cake for Saturday, chocolate, for eight people. "
                    "Not more than 60 dollars please."
                ),
            },
            "response": (
                "<<think>>The last plan step does not match this request. The guideline "
                "of the cake shop asks for availability before price.\nPlan:\n"
                "1. Check which chocolate cakes are free on Saturday\n"
                "2. Compare the price with the budget\n"
                "3. Ask the user to confirm cake and address\n"
                "4. Place the order and tell the result\n"
                '<<action>>{"name": "Query cake availability", "parameters": {"flavour": '
                '"chocolate", "servings": 8, "date": "2026-11-28"}}<</action>>'
            ),
        },
        {
            "input": {
                "kind": "observation",
                "text": (
                    '[{"cake": "Black Forest", "servings": 8, "price": 54, "unit": "USD"},'
                    ' {"cake": "Sacher", "servings": 8, "price": 71, "unit": "USD"}]'
                ),
            },
            "response": (
                "Two cakes are free; only the Black Forest at 54 dollars is within the "
                "budget of 60. Next is step 3, the confirmation.<</think>>For Saturday I "
                "can get you a Black Forest cake for eight people at 54 dollars. Shall I "
                "order it, and where should it go?"
            ),
        },
    ],
}
CAKE_SAMPLED = (
    (
        1,
        "<<think>>This is a new task. The shop guideline says to check availability "
        "first.\nPlan:\n"
        "1. See which chocolate cakes are available on Saturday\n"
        "2. Have the user confirm the cake and the address\n"
        "3. Check that the price is within the budget\n"
        "4. Order it and report back\n"
        '<<action>>{"name": "Query cake availability", "parameters": {"flavour": '
        '"chocolate", "servings": 6, "date": "2026-11-28"}}<</action>>',
    ),
    (
        2,
        "Two cakes are free; the Black Forest at 54 dollars is within the budget. Now "
        "the confirmation, step 3.<</think>>For Saturday I can get you a Sacher cake for "
        "eight people at 54 dollars. Shall I order it, and where should it go?",
    ),
    (
        1,
        "<<think>>A new task with a guideline.\nPlan:\n"
        "1. Check which chocolate cakes are free on Saturday\n"
        "2. Ask the user to confirm cake and address\n"
        "3. Place the order and tell the result\n"
        "<<action>>Query cake availability: chocolate, 8<</action>>",
    ),
)
PRODUCER = ProducerFacts(
    run_id=1,
    checkpoint_id=1,
    checkpoint_digest="0" * 64,
    step=100,
    policy_role="current",
)


def fill(project: Project, *, author: User | None = None, count: int = 40) -> None:
    """Give a project demo samples, the cake sample, and pairs to judge.

    The cake's pairs come first in the queue; ``author`` wrote it, as a labeler.
    """
    if author is not None:
        Membership.objects.get_or_create(
            project=project, user=author, role=Role.LABELER
        )
    save_sample(project=project, document=CAKE, author=author, status="approved")
    for index, (turn, text) in enumerate(CAKE_SAMPLED):
        receive_responses(
            project=project,
            producer=PRODUCER,
            responses=[ResponseRow("cake-for-saturday", turn, index, text)],
            judge_malformed=True,
            priority=5,
        )
    samples = list(generate(seed=7, count=count))
    import_file(
        project=project,
        format="concord",
        lines=[dump_json(sample) for sample in samples],
    )
    rng = random.Random(7)
    rows = []
    for sample in samples:
        for number, turn in enumerate(sample["turns"]):
            for index in range(2):
                text = _another(turn, rng)
                rows.append(ResponseRow(sample["id"], number, index, text))
    receive_responses(project=project, producer=PRODUCER, responses=rows)
    for sample in Sample.objects.filter(project=project).order_by("pk")[2:40:9]:
        sample.status = "submitted"
        sample.save()
    assert Pair.objects.filter(project=project).count() > count


def _another(turn: dict, rng: random.Random) -> str:
    """Return another answer to a turn: reworded half of the time, else wrong somewhere."""
    kinds = derive.applicable_kinds(turn)
    if kinds and rng.random() < 0.5:
        text, _ = derive.corrupted(turn, rng, rng.choice(kinds))
        return text
    return derive.reworded(turn, rng)
