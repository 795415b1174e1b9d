"""The proposing program answers the last turn, or says in one line why not."""

import io
import json

import pytest

from tests.engine.micro import demo_rows, micro_policy, micro_tokenizer
from training.engine.modeling.policies import save_policy
from training.engine.propose import main


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = micro_tokenizer()
    save_policy(micro_policy(tokenizer), tokenizer, folder)
    return folder


def document(turns=1):
    row = json.loads(json.dumps(demo_rows()[0]))
    row["turns"] = row["turns"][:turns]
    row["turns"][-1]["response"] = ""
    return row


def ask(policy, request, capsys):
    target = io.StringIO()
    status = main([str(policy)], io.StringIO(json.dumps(request)), target)
    return status, target.getvalue(), capsys.readouterr().err


def test_answers_with_a_text_and_says_whether_it_keeps_to_the_grammar(policy, capsys):
    request = {"document": document(), "settings": {"max_new_tokens": 24, "seed": 3}}
    status, said, _ = ask(policy, request, capsys)
    answer = json.loads(said)
    assert status == 0
    assert answer["text"]
    # A random policy cannot have ended its response in 24 tokens.
    assert "the end of the response" in answer["format_error"]


def test_the_same_seed_proposes_the_same_and_another_something_else(policy, capsys):
    def text(seed):
        settings = {"max_new_tokens": 16, "seed": seed}
        request = {"document": document(2), "settings": settings}
        return json.loads(ask(policy, request, capsys)[1])["text"]

    assert text(1) == text(1)
    assert text(1) != text(2)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "`document`: expected a JSON object, found nothing"),
        ({"document": {"id": "x", "turns": []}}, "expected at least one turn"),
        ({"document": document(), "settings": {"warmth": 1}}, "expected settings"),
        (
            {"document": document(), "settings": {"max_prompt_tokens": 20}},
            "this policy reads 20 at most",
        ),
    ],
    ids=["no document", "no turns", "unknown setting", "too long"],
)
def test_the_last_line_says_what_stands_in_the_way(policy, capsys, request_, message):
    status, said, error = ask(policy, request_, capsys)
    assert (status, said) == (1, "")
    assert message in error.splitlines()[-1]
