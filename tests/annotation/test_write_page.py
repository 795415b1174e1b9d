"""The Write pages: drafts on the server, errors at their place, nothing lost."""

from __future__ import annotations

import html
import json
import re

import pytest

from annotation.authoring.drafts import empty_content
from annotation.authoring.import_files import MAX_LINE_BYTES
from annotation.authoring.sample_rows import save_sample
from annotation.authoring.samples import approve_sample, return_sample
from annotation.judging.judgments import claim_slot
from annotation.judging.pairing import ResponseRow, receive_responses
from annotation.models import Draft, Sample, SampleStatus, ThinkingContext
from tests.browser.stage import CAKE, PRODUCER
from tests.cast import LABEL, SAMPLED, make_project, make_sample, make_user, sign_in

pytestmark = pytest.mark.django_db

ACTIONS = '[{"name": "Find shops", "description": "Finds.", "parameters": {"kind": {"type": "string", "description": "What."}}}]'


@pytest.fixture
def project():
    return make_project(slug="cakes")


@pytest.fixture
def lena(client):
    return sign_in(client, make_user("lena"))


@pytest.fixture
def address(client, project, lena) -> str:
    return client.post("/p/cakes/write/new/")["Location"]


def form(**changes) -> dict:
    return {
        "version": "0",
        "scenario": "cakes",
        "situation": "normal",
        "turn_kind": ["user"],
        "turn_text": ["A cake, please."],
        "turn_response": ["<<think>>Hm.<</think>>Which one?"],
    } | changes


def test_a_new_draft_starts_with_one_turn(client, address):
    page = client.get(address).content.decode()
    assert page.count('name="turn_response"') == 1
    assert "The response is empty." in page


def test_saving_keeps_what_was_typed_and_counts_the_version(client, address):
    response = client.post(f"{address}save/", form())
    page = response.content.decode()
    draft = Draft.objects.get()
    assert draft.content["turns"][0]["input"]["text"] == "A cake, please."
    assert draft.version == 1
    assert 'id="version" value="1"' in page
    assert 'id="check-1"' in page


def test_a_format_error_names_its_place(client, address):
    broken = "<<think>>One line.\n<<action>>{oops<</action>>"
    page = client.post(f"{address}save/", form(turn_response=[broken])).content.decode()
    assert "Response, line 2, column 1" in page
    assert "expected JSON" in page
    assert Draft.objects.get().content["turns"][0]["response"] == broken


def test_line_ends_of_browsers_become_plain(client, address):
    client.post(f"{address}save/", form(turn_text=["one\r\ntwo"]))
    assert Draft.objects.get().content["turns"][0]["input"]["text"] == "one\ntwo"


def test_an_observation_needs_a_call_before_it(client, address):
    two = form(
        turn_kind=["user", "observation"],
        turn_text=["Hello.", "ok"],
        turn_response=["Hi.", "Fine.<</think>>Done."],
    )
    assert (
        "the turn before does not"
        in client.post(f"{address}save/", two).content.decode()
    )
    two["version"] = "1"
    two["turn_response"] = [LABEL, "Fine.<</think>>Done."]
    page = client.post(f"{address}save/", two).content.decode()
    assert "the turn before" not in page


def test_unknown_actions_and_parameters_are_hinted(client, address):
    fields = form(
        turn_response=[LABEL],
        new_scope=["global"],
        new_title=["Shops"],
        new_background=[""],
        new_guideline=[""],
        new_actions=[ACTIONS.replace("kind", "sort")],
    )
    page = client.post(f"{address}save/", fields).content.decode()
    assert "Find shops: " in page
    fields |= {
        "version": "1",
        "new_actions": [ACTIONS.replace("Find shops", "Look up")],
    }
    assert (
        "No action is named “Find shops”"
        in client.post(f"{address}save/", fields).content.decode()
    )


def test_a_stale_save_is_a_conflict_and_loses_nothing(client, address):
    client.post(f"{address}save/", form(turn_text=["Mine, from the first tab."]))
    response = client.post(
        f"{address}save/", form(turn_text=["Mine, from the second."])
    )
    page = response.content.decode()
    assert "saved in another tab" in page
    assert (
        Draft.objects.get().content["turns"][0]["input"]["text"].endswith("first tab.")
    )
    # Without JavaScript the page comes back with what was typed, and a way to keep it.
    response = client.post(address, form(turn_text=["Mine, from the second."]))
    page = response.content.decode()
    assert response.status_code == 409
    assert "Mine, from the second." in page
    assert 'name="other_version" value="1"' in page
    kept = form(do="keep", other_version="1", turn_text=["Mine, from the second."])
    client.post(address, kept)
    assert Draft.objects.get().content["turns"][0]["input"]["text"].endswith("second.")


def test_buttons_add_move_and_remove_turns(client, address):
    client.post(address, form(do="add-observation"))
    draft = Draft.objects.get()
    assert [turn["input"]["kind"] for turn in draft.content["turns"]] == [
        "user",
        "observation",
    ]
    two = form(
        version="1",
        turn_kind=["user", "user"],
        turn_text=["a", "b"],
        turn_response=["A", "B"],
    )
    client.post(address, two | {"do": "raise-turn:2"})
    draft.refresh_from_db()
    assert [turn["response"] for turn in draft.content["turns"]] == ["B", "A"]
    client.post(address, two | {"version": "2", "do": "remove-turn:1"})
    draft.refresh_from_db()
    assert [turn["response"] for turn in draft.content["turns"]] == ["B"]


def test_submitting_makes_a_sample_for_the_curators(client, project, lena, address):
    old = ThinkingContext.objects.create(
        project=project, scope="global", title="Old", content_hash="0" * 64
    )
    fields = form(
        do="submit",
        context=[str(old.pk)],
        new_scope=["local"],
        new_title=["Shops"],
        new_background=["b"],
        new_guideline=["g"],
        new_actions=[ACTIONS],
    )
    response = client.post(address, fields, follow=True)
    assert "Submitted" in response.content.decode()
    sample = Sample.objects.get()
    assert (sample.status, sample.author, sample.scenario) == (
        "submitted",
        lena,
        "cakes",
    )
    titles = [link.context.title for link in sample.samplecontext_set.all()]
    assert titles == ["Old", "Shops"]
    assert not Draft.objects.exists()


def test_submitting_a_broken_draft_says_what_and_where(client, address):
    response = client.post(address, form(do="submit", turn_response=["<<think>>Open"]))
    page = response.content.decode()
    assert response.status_code == 422
    assert "turns[0].response" in page
    assert "&lt;&lt;think&gt;&gt;Open" in page
    assert not Sample.objects.exists()
    assert Draft.objects.exists()


def test_a_returned_sample_is_revised_and_keeps_its_references(client, project, lena):
    sample = make_sample(
        project=project, author=lena, turns=(("user", "A.", "B."), ("user", "C.", "D."))
    )
    for turn in sample.turns.all():
        turn.references.create(position=0, text="Another wording.")
    return_sample(
        project=sample.project,
        sample=sample,
        user=make_user("rita"),
        comment="Say more.",
    )
    page = client.get("/p/cakes/write/").content.decode()
    assert "Say more." in page
    address = client.post(f"/p/cakes/write/revise/{sample.pk}/")["Location"]
    assert client.post(f"/p/cakes/write/revise/{sample.pk}/")["Location"] == address
    fields = form(
        do="submit",
        turn_kind=["user", "user"],
        turn_text=["A.", "C."],
        turn_response=["B, and more.", "D."],
    )
    client.post(address, fields)
    sample.refresh_from_db()
    assert sample.status == SampleStatus.SUBMITTED
    first, second = sample.turns.order_by("position")
    assert first.response == "B, and more."
    # The wording stays and is held against the new text; the person decides.
    assert [r.text for r in first.references.all()] == ["Another wording."]
    assert [r.text for r in second.references.all()] == ["Another wording."]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "x"},
        {"version": "9" * 30},
        {"turn_kind": ["alien"], "turn_text": ["\0"], "turn_response": ["\0"]},
        {"turn_kind": [], "turn_text": ["a"] * 500, "turn_response": []},
        {"context": ["x", "9" * 40, "-1", "\0", "1"]},
        {"situation": "weird\0", "scenario": "x" * 5000},
        {"new_title": ["a"], "new_actions": ["{" * 5000]},
        {"new_title": ["a"], "new_actions": ["[1, null]"]},
        {"new_actions": ['[{"name": "a\\u0000"}]']},
        {"do": "remove-turn:999999999999999999999"},
        {"do": "remove-turn:0"},
        {"do": "raise-turn:-1"},
        {"do": "remove-context:1"},
        {"do": "explode"},
        {"do": "dismiss:1:\0"},
        {"do": "dismiss:x"},
        {"do": "recall:99"},
        {"do": "add-reference:0"},
        {"do": "remove-reference:1:1"},
        {"do": "result:1:run"},
        {"do": "result:1:exception:\0<<think>>"},
        {"do": "result:²:hand"},
        {"do": "fetch:99"},
        {"do": "fetch:1"},
        {"do": "merge", "other_version": "x", "choice-\0": "theirs"},
        {"turn_key": ["\0", "\0"], "reference_of": ["a"], "reference_text": []},
        {"turn_key": ["k", "k"], "turn_text": ["a", "b"], "turn_kind": ["user"] * 2},
        {"turn_blocks": ["{"], "redraw": ["1", "x", "²"]},
        {"turn_blocks": ['[{"kind": "action", "name": "\\u0000"}]'], "redraw": "1"},
        {"turn_blocks": ['[{"kind": "answer", "text": "\\ud800"}]']},
        {"turn_blocks": ["[" * 9000]},
        {"do": "submit", "turn_kind": [], "turn_text": [], "turn_response": []},
        {"do": "submit", "situation": "weird"},
        {"do": "submit", "scenario": "two\nlines"},
        {"do": "submit", "new_title": [""], "new_actions": ["nonsense"]},
        {"turn_response": ["\ud800".encode("utf-8", "surrogatepass")]},
    ],
)
def test_bad_input_never_breaks_the_pages(client, address, changes):
    for place in (f"{address}save/", address):
        version = Draft.objects.get().version
        response = client.post(place, form(version=str(version)) | changes)
        assert response.status_code in (200, 302, 409, 422)
        assert client.get(address).status_code == 200
    assert not Sample.objects.exists()


def test_only_the_author_opens_a_draft(client, address):
    sign_in(client, make_user("luis"))
    assert client.get(address).status_code == 404
    assert client.post(f"{address}save/", form()).status_code == 404
    assert client.post(f"{address}delete/").status_code == 404


def test_delete_takes_the_draft_away(client, address):
    client.post(f"{address}delete/")
    assert not Draft.objects.exists()


@pytest.mark.parametrize(
    ("name", "status"), [("sam", 404), ("tara", 403), ("rita", 200)]
)
def test_who_may_write(client, project, name, status):
    sign_in(client, make_user(name))
    assert client.get("/p/cakes/write/").status_code == status


def test_a_stranger_cannot_make_or_revise(client, project, lena):
    sample = make_sample(project=project, author=lena)
    return_sample(
        project=sample.project, sample=sample, user=make_user("rita"), comment="No."
    )
    sign_in(client, make_user("luis"))
    assert client.post(f"/p/cakes/write/revise/{sample.pk}/").status_code == 404
    sign_in(client, make_user("sam"))
    assert client.post("/p/cakes/write/new/").status_code == 404


# --- blocks, hints, references, results ------------------------------------------------

CAKES = [
    {
        "name": "Find shops",
        "description": "Finds shops.",
        "parameters": {"kind": {"type": "string", "description": "What."}},
        "exception": {"No shop": "None is near."},
    }
]


@pytest.fixture
def context(project) -> ThinkingContext:
    return ThinkingContext.objects.create(
        project=project,
        scope="global",
        title="Cakes",
        guideline="Find a shop, then order the cake.",
        actions=CAKES,
        content_hash="c" * 64,
    )


def keyed(client, address, **changes) -> dict:
    """Return the form of a draft with the key of its one turn."""
    draft = Draft.objects.get(pk=int(address.rstrip("/").split("/")[-1]))
    fields = {
        "version": str(draft.version),
        "turn_key": [draft.content["turns"][0]["key"]],
    }
    return form(**(fields | changes))


def test_blocks_posted_for_a_turn_become_its_raw_text(client, address):
    blocks = [
        {"kind": "thinking", "text": "A task."},
        {"kind": "plan", "steps": ["Look", "Buy"]},
        {"kind": "answer", "text": "Which one?"},
    ]
    fields = keyed(client, address, turn_blocks=[json.dumps(blocks)], redraw="1")
    page = client.post(f"{address}save/", fields).content.decode()
    text = "<<think>>A task.\nPlan:\n1. Look\n2. Buy<</think>>Which one?"
    assert Draft.objects.get().content["turns"][0]["response"] == text
    found = re.search(r'id="raw-texts"[^>]*>(.*?)</script>', page)
    assert json.loads(found[1]) == {"1": text}
    assert page.count('data-block="plan"') == 1


BLOCKS_THAT_LACK_SOMETHING = {
    "an action without a name": (
        [
            {"kind": "thinking", "text": "A task with a plan."},
            {"kind": "plan", "steps": ["Look", "", "Buy"]},
            {"kind": "action", "name": "", "parameters": []},
        ],
        ["A task with a plan.", "Look", "Buy", 'data-block="action"'],
    ),
    "a parameter without a name": (
        [
            {
                "kind": "action",
                "name": "Find shops",
                "parameters": [{"name": "", "type": "free", "value": "near the port"}],
            }
        ],
        ["Find shops", "near the port", "The parameter needs a name"],
    ),
    "a parameter without a value": (
        [
            {
                "kind": "action",
                "name": "Find shops",
                "parameters": [{"name": "harbour", "type": "free", "value": ""}],
            }
        ],
        ["Find shops", "harbour", "The parameter needs a value"],
    ),
    "two parameters of one name": (
        [
            {
                "kind": "action",
                "name": "Find shops",
                "parameters": [
                    {"name": "kind", "type": "text", "value": "bakery"},
                    {"name": "kind", "type": "free", "value": "florist"},
                ],
            }
        ],
        ["bakery", "florist", "Another parameter has this name"],
    ),
    "a tag inside a thinking": (
        [
            {"kind": "thinking", "text": "It ends <</think>> too early."},
            {"kind": "action", "name": "Find shops", "parameters": []},
            {"kind": "answer", "text": "Here."},
        ],
        ["It ends", "too early.", "Find shops", "Here.", 'data-block="answer"'],
    ),
    "an observation with a call inside": (
        [
            {"kind": "observation", "text": "<<action>> and <<observation>>"},
            {"kind": "answer", "text": "Done."},
        ],
        ['data-block="observation"', "Done.</textarea>"],
    ),
    "blocks that are all empty": (
        [
            {"kind": "thinking", "text": ""},
            {"kind": "plan", "steps": [""]},
            {"kind": "answer", "text": ""},
        ],
        ['data-block="plan"', 'data-block="answer"'],
    ),
}


@pytest.mark.parametrize("case", BLOCKS_THAT_LACK_SOMETHING)
def test_blocks_that_lack_something_are_still_there_after_a_reload(
    client, address, case
):
    blocks, typed = BLOCKS_THAT_LACK_SOMETHING[case]
    client.post(
        f"{address}save/", keyed(client, address, turn_blocks=[json.dumps(blocks)])
    )
    written = Draft.objects.get().content["turns"][0]["response"]
    for _visit in range(2):
        page = client.get(address).content.decode()
        shown = re.search(r'<div class="edit-blocks".*?class="inserts"', page, re.S)[0]
        assert [one for one in typed if one not in html.unescape(shown)] == []
        # Saved by a page that edited no block meanwhile, but the input.
        fields = keyed(
            client, address, turn_response=[written], turn_text=["Another cake?"]
        )
        client.post(f"{address}save/", fields)


def test_blocks_are_drawn_from_the_text_again_once_it_says_them_all(client, address):
    lacking, _typed = BLOCKS_THAT_LACK_SOMETHING["an action without a name"]
    client.post(address, keyed(client, address, turn_blocks=[json.dumps(lacking)]))
    assert "blocks" in Draft.objects.get().content["turns"][0]
    lacking[2] |= {"name": "Find shops"}
    lacking[1] |= {"steps": ["Look", "Buy"]}
    client.post(address, keyed(client, address, turn_blocks=[json.dumps(lacking)]))
    assert "blocks" not in Draft.objects.get().content["turns"][0]


def test_a_text_typed_over_blocks_that_lack_something_takes_their_place(
    client, address
):
    lacking, _typed = BLOCKS_THAT_LACK_SOMETHING["an action without a name"]
    client.post(address, keyed(client, address, turn_blocks=[json.dumps(lacking)]))
    client.post(address, keyed(client, address, turn_response=["Which one?"]))
    assert "blocks" not in Draft.objects.get().content["turns"][0]
    page = client.get(address).content.decode()
    assert 'data-block="action"' not in page
    assert "Which one?</textarea>" in page


def test_raw_text_that_parses_comes_back_as_blocks_and_broken_text_stays(
    client, address
):
    fields = keyed(client, address, turn_response=[LABEL], redraw="1")
    page = client.post(f"{address}save/", fields).content.decode()
    assert "Find a bakery.</textarea>" in page
    assert 'data-block="action"' in page
    fields = keyed(client, address, turn_response=[LABEL[:-4]], redraw="1")
    page = client.post(f"{address}save/", fields).content.decode()
    assert "data-block" not in page
    assert "does not follow the grammar" in page
    assert 'data-goto="' in page
    assert Draft.objects.get().content["turns"][0]["response"] == LABEL[:-4]


def test_an_action_is_a_form_of_its_definition(client, address, context):
    fields = keyed(client, address, context=[str(context.pk)], turn_response=[LABEL])
    client.post(address, fields)
    page = client.get(address).content.decode()
    assert "Finds shops." in page
    assert 'value="result:1:exception:No shop"' in page
    assert "Ask the simulator" in page


def test_a_built_in_action_has_its_form_without_any_context(client, address):
    call = '<<think>><<action>>{"name": "Calculate", "parameters": {}}<</action>>'
    client.post(address, keyed(client, address, turn_response=[call]))
    page = client.get(address).content.decode()
    assert "The expression, e.g. (3 + 4) * 2.5" in page
    assert "Run it" in page
    assert "expression: expected a value, found nothing" in page


def test_a_hint_is_put_away_and_called_back(client, address):
    fields = keyed(client, address)
    page = client.post(f"{address}save/", fields).content.decode()
    assert "Which thinking element is used?" in page
    client.post(address, keyed(client, address, do="dismiss:1:element"))
    page = client.get(address).content.decode()
    assert "Which thinking element is used?" not in page
    assert "Show 1 hint again" in page
    client.post(address, keyed(client, address, do="recall:1"))
    assert "Which thinking element is used?" in client.get(address).content.decode()


def test_a_fetch_puts_the_context_and_its_result_before_the_response(
    client, project, address
):
    wine = ThinkingContext.objects.create(
        project=project,
        scope="local",
        title="Wine cellar",
        guideline="Ask for the vintage of the wine.",
        content_hash="w" * 64,
    )
    asked = {"turn_text": ["Which wine vintage is good?"]}
    fields = keyed(
        client, address, turn_response=["<<think>>Hm.<</think>>Ten."], **asked
    )
    page = client.post(f"{address}save/", fields).content.decode()
    assert 'value="fetch:1"' in page
    response = client.post(
        address,
        keyed(
            client,
            address,
            do="fetch:1",
            turn_response=["<<think>>Hm.<</think>>Ten."],
            **asked,
        ),
    )
    assert response["Location"].endswith("#turn-2")
    content = Draft.objects.get().content
    first, second = content["turns"]
    assert first["response"].startswith(
        '<<think>><<action>>{"name": "Get thinking context"'
    )
    assert second["input"] == {
        "kind": "observation",
        "text": "Wine cellar\nAsk for the vintage of the wine.",
    }
    assert second["response"] == "Hm.<</think>>Ten."
    assert content["contexts"] == [{"existing": wine.pk}]


def test_the_result_of_a_call_comes_from_a_sample_that_records_it(
    client, project, address, context
):
    sample = make_sample(
        project=project,
        turns=(
            ("user", "A cake.", LABEL),
            (
                "observation",
                "Exception No shop: closed",
                "Again.\n" + LABEL[LABEL.index("<<action>>") :],
            ),
            ("observation", "Bakery Rose", "Found.<</think>>Rose."),
        ),
    )
    sample.samplecontext_set.create(context=context, position=0)
    fields = {"context": [str(context.pk)], "turn_response": [LABEL]}
    client.post(address, keyed(client, address, do="result:1:run", **fields))
    turns = Draft.objects.get().content["turns"]
    assert turns[1]["input"] == {
        "kind": "observation",
        "text": "Exception No shop: closed",
    }
    page = client.get(address).content.decode()
    assert f"as sample {sample} records it" in page


def test_a_call_that_nothing_knows_is_said_and_nothing_is_made_up(
    client, address, context
):
    fields = {"context": [str(context.pk)], "turn_response": [LABEL]}
    client.post(address, keyed(client, address, do="result:1:run", **fields))
    assert len(Draft.objects.get().content["turns"]) == 1
    assert (
        "No simulator knows what “Find shops” returns"
        in client.get(address).content.decode()
    )


def test_calculate_runs_and_an_exception_is_picked(client, address):
    call = '<<think>>Sum.<<action>>{"name": "Calculate", "parameters": {"expression": "6*7"}}<</action>>'
    client.post(
        address, keyed(client, address, do="result:1:run", turn_response=[call])
    )
    draft = Draft.objects.get()
    assert draft.content["turns"][1]["input"]["text"] == "42"
    keys = [turn["key"] for turn in draft.content["turns"]]
    fields = form(
        version=str(draft.version),
        do="result:1:exception:Cannot calculate",
        turn_key=keys,
        turn_kind=["user", "observation"],
        turn_text=["Six by seven", "42"],
        turn_response=[call, ""],
    )
    client.post(address, fields)
    turns = Draft.objects.get().content["turns"]
    assert [turn["input"]["text"] for turn in turns] == [
        "Six by seven",
        "Exception Cannot calculate",
    ]


def test_a_reference_is_held_against_the_response(client, address):
    client.post(
        address, keyed(client, address, do="add-reference:1", turn_response=[LABEL])
    )
    assert Draft.objects.get().content["turns"][0]["references"] == [LABEL]
    page = client.get(address).content.decode()
    assert "word by word" in page
    key = Draft.objects.get().content["turns"][0]["key"]
    same = LABEL.replace("The user wants a cake.", "A cake is asked for.")
    swapped = same.replace(
        "1. Find a bakery.\n2. Order the cake.", "1. Order the cake.\n2. Find a bakery."
    )
    other = same.replace('"bakery"', '"florist"')
    for text, said in (
        (same, "The same plan order and the same actions."),
        (swapped, "Other order, plan 1"),
        (other, "Other parameter, action 1 kind"),
        ("<<think>>", "Response, line 1, column 10"),
    ):
        fields = keyed(
            client,
            address,
            turn_response=[LABEL],
            reference_of=[key],
            reference_text=[text],
        )
        assert said in client.post(f"{address}save/", fields).content.decode()
    client.post(
        address,
        keyed(
            client,
            address,
            turn_response=["Other."],
            reference_of=[key],
            reference_text=[same],
        ),
    )
    assert Draft.objects.get().content["turns"][0]["references"] == [same]
    client.post(
        address,
        keyed(
            client,
            address,
            do="remove-reference:1:1",
            reference_of=[key],
            reference_text=[same],
        ),
    )
    assert not Draft.objects.get().content["turns"][0].get("references")


def test_references_reach_the_sample_and_empty_ones_do_not(client, address):
    key = Draft.objects.get().content["turns"][0]["key"]
    fields = keyed(
        client,
        address,
        do="submit",
        reference_of=[key, key],
        reference_text=["Which of them?", " "],
    )
    client.post(address, fields)
    references = Sample.objects.get().turns.get().references.all()
    assert [one.text for one in references] == ["Which of them?"]


# --- a policy's proposal ---------------------------------------------------------------

PROPOSAL = {"checkpoint": 3, "digest": "abc", "text": "Which one?"}


def test_a_proposal_stays_marked_through_edits_until_it_is_in_the_sample(
    client, address
):
    draft = Draft.objects.get()
    draft.content["turns"][0] |= {"proposal": PROPOSAL, "response": "Which one?"}
    draft.save()
    assert (
        "Proposed by a policy, not edited yet" in client.get(address).content.decode()
    )
    fields = keyed(client, address, turn_response=["Which one then?"])
    page = client.post(f"{address}save/", fields).content.decode()
    assert "Proposed by a policy, edited by you" in page
    client.post(
        address, keyed(client, address, do="submit", turn_response=["Which one then?"])
    )
    sample = Sample.objects.get()
    assert sample.turns.get().proposal == PROPOSAL
    return_sample(
        project=sample.project,
        sample=sample,
        user=make_user("rita"),
        comment="Say more.",
    )
    client.post(f"/p/cakes/write/revise/{sample.pk}/")
    assert Draft.objects.get().content["turns"][0]["proposal"] == PROPOSAL


def test_facts_of_a_text_go_when_it_changes(client, address):
    draft = Draft.objects.get()
    draft.content["turns"][0] |= {"facts": {"a": 1}, "response": "Which one?"}
    draft.save()
    same = {"turn_text": [""], "turn_response": ["Which one?"]}
    client.post(f"{address}save/", keyed(client, address, **same))
    assert Draft.objects.get().content["turns"][0]["facts"] == {"a": 1}
    client.post(f"{address}save/", keyed(client, address))
    assert "facts" not in Draft.objects.get().content["turns"][0]


# --- conflicts -------------------------------------------------------------------------


def test_a_conflict_shows_both_sides_and_merges_by_part(client, address):
    fields = keyed(client, address)
    key = fields["turn_key"][0]
    theirs = fields | {"turn_text": ["A pie, please."], "scenario": "pies"}
    client.post(f"{address}save/", theirs)
    mine = fields | {"turn_text": ["A bun, please."]}
    page = client.post(f"{address}save/", mine).content.decode()
    assert ">bun</del>" in page
    assert ">pie</ins>" in page
    assert f'name="choice-{key}"' in page
    merged = mine | {
        "do": "merge",
        "other_version": "1",
        f"choice-{key}": "mine",
        "choice-about": "theirs",
    }
    client.post(address, merged)
    content = Draft.objects.get().content
    assert (content["scenario"], content["turns"][0]["input"]["text"]) == (
        "pies",
        "A bun, please.",
    )


def test_a_merge_onto_an_older_version_is_a_conflict_again(client, address):
    fields = keyed(client, address)
    for text in ("one", "two"):
        client.post(address, keyed(client, address, turn_text=[text]))
    response = client.post(address, fields | {"do": "merge", "other_version": "1"})
    assert response.status_code == 409
    assert Draft.objects.get().content["turns"][0]["input"]["text"] == "two"


# --- other ways to begin ---------------------------------------------------------------


@pytest.fixture
def told(project, lena) -> Sample:
    return save_sample(project=project, document=CAKE, author=lena, status="approved")


def test_a_sample_is_made_into_another_situation(client, project, lena, told):
    page = client.get(f"/p/cakes/samples/{told.pk}/").content.decode()
    assert 'value="exception"' in page
    response = client.post(
        f"/p/cakes/write/from/{told.pk}/", {"situation": "exception"}
    )
    assert response["Location"].endswith("#turn-3")
    draft = Draft.objects.get()
    assert draft.sample is None
    assert draft.content["meta"] == {"derived_from": "cake-for-saturday"}
    page = client.get(response["Location"]).content.decode()
    assert "In turn 3 the action now fails" in page
    client.post(response["Location"], keyed_all(draft, do="advice-read"))
    assert (
        "the action now fails" not in client.get(response["Location"]).content.decode()
    )


def keyed_all(draft: Draft, **changes) -> dict:
    turns = draft.content["turns"]
    return {
        "version": str(draft.version),
        "turn_kind": [turn["input"]["kind"] for turn in turns],
        "turn_text": [turn["input"]["text"] for turn in turns],
        "turn_response": [turn["response"] for turn in turns],
    } | changes


def test_a_derived_draft_is_submitted_with_its_source_named(client, told):
    client.post(f"/p/cakes/write/from/{told.pk}/", {"situation": "noise"})
    draft = Draft.objects.get()
    fields = keyed_all(draft, situation="noise")
    fields["turn_response"] = [
        text or "A fine day. And the cake?" for text in fields["turn_response"]
    ]
    address = f"/p/cakes/write/{draft.pk}/"
    fields["context"] = [str(one["existing"]) for one in draft.content["contexts"]]
    response = client.post(address, fields | {"do": "submit"})
    sample = Sample.objects.exclude(pk=told.pk).first()
    assert sample is not None, response.content.decode()[:3000]
    assert sample.meta["derived_from"] == "cake-for-saturday"
    assert sample.situation == "noise"


def test_where_no_place_fits_the_page_says_so(client, project, lena):
    sample = make_sample(project=project, author=lena)
    response = client.post(
        f"/p/cakes/write/from/{sample.pk}/", {"situation": "nested"}, follow=True
    )
    assert "no point where the user could say" in response.content.decode()
    assert not Draft.objects.exists()


def test_another_authors_sample_is_for_curators_only(client, project, told):
    sign_in(client, make_user("luis"))
    address = f"/p/cakes/write/from/{told.pk}/"
    assert client.post(address, {"situation": "noise"}).status_code == 403
    sign_in(client, make_user("sam"))
    assert client.post(address, {"situation": "noise"}).status_code == 404
    sign_in(client, make_user("rita"))
    assert client.post(address, {"situation": "noise"}).status_code == 302


def test_a_pasted_conversation_is_shown_before_it_becomes_a_draft(
    client, project, lena
):
    text = "User: A cake\nAssistant: <<think>>Hm.<</think>>Which?\nUser: Red"
    page = client.post("/p/cakes/write/paste/", {"text": text}).content.decode()
    assert "It becomes 2 turns" in page
    assert "The response is empty." in page
    assert not Draft.objects.exists()
    client.post("/p/cakes/write/paste/", {"text": text, "do": "make"})
    assert len(Draft.objects.get().content["turns"]) == 2


def test_a_bad_paste_names_its_place_and_loses_nothing(client, project, lena):
    response = client.post(
        "/p/cakes/write/paste/", {"text": "User: a\nAssistant:", "do": "make"}
    )
    page = response.content.decode()
    assert response.status_code == 422
    assert "line 2: expected what the assistant says" in page
    assert "User: a\nAssistant:</textarea>" in page
    assert not Draft.objects.exists()


def test_a_paste_of_several_megabytes_is_not_lost_either(client, project, lena):
    text = f"User: {'a cake ' * 600_000}\nAssistant:"
    assert len(text) > MAX_LINE_BYTES
    response = client.post("/p/cakes/write/paste/", {"text": text})
    assert response.status_code == 422
    assert text in response.content.decode()


@pytest.mark.parametrize(
    ("name", "status"), [("sam", 404), ("tara", 403), ("rita", 200)]
)
def test_who_may_paste(client, project, name, status):
    sign_in(client, make_user(name))
    assert client.get("/p/cakes/write/paste/").status_code == status


# --- costs and fairness ----------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 12])
def test_a_save_costs_the_same_queries_whatever_the_length(
    client, address, context, count, django_assert_max_num_queries
):
    fields = form(
        turn_kind=["user"] * count,
        turn_text=["A cake, please."] * count,
        turn_response=["<<think>>Hm.<</think>>Which?"] * count,
        context=[str(context.pk)],
    )
    with django_assert_max_num_queries(10):
        client.post(f"{address}save/", fields)


def test_the_list_costs_the_same_queries_whatever_its_length(
    client, project, lena, django_assert_max_num_queries
):
    for _ in range(12):
        Draft.objects.create(project=project, author=lena, content=empty_content())
        make_sample(project=project, author=lena, status="submitted")
    with django_assert_max_num_queries(8):
        assert client.get("/p/cakes/write/").status_code == 200


def test_ones_own_sample_never_comes_into_ones_own_queue(
    client, project, lena, address
):
    client.post(address, form(do="submit", turn_response=[LABEL]))
    sample = approve_sample(
        project=Sample.objects.get().project,
        sample=Sample.objects.get(),
        user=make_user("rita"),
    )
    rows = [ResponseRow(sample.external_id, 0, 0, SAMPLED)]
    receive_responses(project=project, producer=PRODUCER, responses=rows)
    assert claim_slot(project=project, user=lena).kind == "nothing for you"
    claim = claim_slot(project=project, user=make_user("luis"))
    assert claim.pair.turn.sample == sample


CALCULATE = (
    '<<think>><<action>>{"name": "Calculate", "parameters": '
    '{"expression": "6*7"}}<</action>>'
)


def make_context(project, scope, title, *names):
    return ThinkingContext.objects.create(
        project=project,
        scope=scope,
        title=title,
        actions=[
            {
                "name": name,
                "description": "",
                "parameters": {"expression": {"type": "string"}},
            }
            for name in names
        ],
        content_hash=title[0] * 64,
    )


def test_an_action_of_the_global_context_is_not_run_as_the_built_in_one(
    client, project, address
):
    shop = make_context(project, "global", "Shop", "Calculate")
    fields = {"context": [str(shop.pk)], "turn_response": [CALCULATE]}
    client.post(address, keyed(client, address, do="result:1:run", **fields))
    assert len(Draft.objects.get().content["turns"]) == 1
    page = client.get(address).content.decode()
    assert "No simulator knows what “Calculate” returns" in page
    assert "Ask the simulator" in page
    assert "Run it" not in page


def test_an_action_of_a_local_context_is_hinted_until_a_call_fetches_it(
    client, project, address
):
    refunds = make_context(project, "local", "Refunds", "Pay back")
    pay = CALCULATE.replace("Calculate", "Pay back")
    fetch = (
        '<<think>><<action>>{"name": "Get thinking context", "parameters": '
        '{"query": "refund"}}<</action>>'
    )
    fields = {"context": [str(refunds.pk)], "turn_response": [pay]}
    client.post(address, keyed(client, address, do="result:1:run", **fields))
    page = client.get(address).content.decode()
    assert "“Pay back” belongs to a local thinking context" in page
    assert "No action is named “Pay back” where it is called." in page
    fields = {
        "context": [str(refunds.pk)],
        "turn_kind": ["user", "observation"],
        "turn_text": ["A refund.", "Refunds"],
        "turn_response": [fetch, pay.removeprefix("<<think>>")],
        "turn_key": ["1", "2"],
    }
    client.post(address, keyed(client, address, **fields))
    page = client.get(address).content.decode()
    assert "“Pay back”" in page
    assert "belongs to a local thinking context" not in page
