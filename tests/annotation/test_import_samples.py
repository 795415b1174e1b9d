"""Importing Concord JSONL: good lines are kept, bad ones named, nothing comes twice."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from annotation.authoring.export import sample_to_json
from annotation.authoring.import_files import MAX_LINE_BYTES, import_file
from annotation.authoring.sample_rows import save_sample
from annotation.models import Project, Sample, ThinkingContext, Turn
from records.sample_format import SampleError
from tests.cast import make_pair, make_project, make_user

pytestmark = pytest.mark.django_db

CALL = '<<action>>{"name": "Find cake", "parameters": {"size": 8}}<</action>>'


def make_document(number=1, **fields):
    return {
        "id": f"cake-{number}",
        "scenario": "food delivery",
        "situation": "normal",
        "status": "approved",
        "split": "",
        "contexts": [
            {
                "scope": "global",
                "title": "Cake shop",
                "background": "A shop.",
                "guideline": "Availability first.",
                "actions": [
                    {
                        "name": "Find cake",
                        "description": "Find a cake.",
                        "parameters": {"size": {"type": "integer", "description": ""}},
                        "exception": {"Sold out": "None is left."},
                    }
                ],
            }
        ],
        "turns": [
            {
                "input": {"kind": "user", "text": "A cake!"},
                "response": f"<<think>>Plan:\n1. Find it\n{CALL}",
                "references": [f"<<think>>I look.{CALL}"],
                "facts": {"size": 8, "price": 1.50},
            },
            {
                "input": {"kind": "observation", "text": "found"},
                "response": "Good.<</think>>Here it is.",
            },
        ],
        "meta": {"reward": 0.0},
    } | fields


def run(project, *documents, **options):
    lines = [d if isinstance(d, (str, bytes)) else json.dumps(d) for d in documents]
    return import_file(project=project, format="concord", lines=lines, **options)


def refusals(report):
    return [(r.line, r.field, r.reason) for r in report.refused]


def test_everything_in_a_sample_is_stored_and_given_back():
    project = make_project()
    document = make_document()
    report = run(project, document)
    assert str(report) == "1 conversations: 1 new, 0 unchanged, 0 refused"
    assert sample_to_json(Sample.objects.get()) == document


def test_absent_fields_get_their_defaults():
    turns = [{"input": {"kind": "user", "text": "Hi"}, "response": "Hello."}]
    run(make_project(), {"id": "a", "turns": turns})
    assert sample_to_json(Sample.objects.get()) == {
        "id": "a",
        "scenario": "",
        "situation": "normal",
        "status": "submitted",
        "split": "",
        "contexts": [],
        "turns": turns,
        "meta": {},
    }


def test_importing_again_adds_nothing():
    project = make_project()
    run(project, make_document(1), make_document(2))
    report = run(project, make_document(1), make_document(2), make_document(3))
    assert (report.new, report.unchanged) == (1, 2)
    assert Sample.objects.count() == 3


def test_same_line_twice_in_one_file_is_unchanged():
    report = run(make_project(), make_document(), make_document())
    assert (report.new, report.unchanged, report.refused) == (1, 1, [])


def test_key_order_and_spelling_of_numbers_change_nothing():
    project = make_project()
    run(project, make_document(meta={"a": 1, "b": 1e22, "c": 0.0}))
    report = run(
        project,
        '{"meta": {"c": -0.0, "b": 10000000000000000000000, "a": 1.0},'
        + json.dumps({k: v for k, v in make_document().items() if k != "meta"})[1:],
    )
    assert str(report) == "1 conversations: 0 new, 1 unchanged, 0 refused"


def test_text_that_only_speaks_of_nul_is_fine():
    document = make_document(meta={"text": "\\u0000 and \\ud800"})
    assert run(make_project(), document).new == 1
    assert sample_to_json(Sample.objects.get()) == document


def test_status_and_split_are_no_content():
    project = make_project()
    run(project, make_document())
    report = run(project, make_document(status="draft", split="held-out"))
    assert report.unchanged == 1
    assert Sample.objects.get().status == "approved"


def test_known_id_with_other_content_is_refused_and_nothing_overwritten():
    project = make_project()
    run(project, make_document())
    report = run(project, make_document(scenario="shopping"))
    assert refusals(report) == [
        (1, "id", '"cake-1" is known with other content; nothing was changed')
    ]
    assert Sample.objects.get().scenario == "food delivery"


def test_same_id_in_two_projects_is_two_samples():
    assert run(make_project(), make_document()).new == 1
    assert run(make_project(), make_document()).new == 1


def test_equal_contexts_are_stored_once():
    run(make_project(), *(make_document(n) for n in range(5)))
    assert ThinkingContext.objects.count() == 1


def test_options_go_before_what_the_file_says():
    run(make_project(), make_document(), status="draft", split="held-out")
    sample = Sample.objects.get()
    assert (sample.status, sample.split) == ("draft", "held-out")


def without(key):
    return {k: v for k, v in make_document().items() if k != key}


def with_turn(**fields):
    turns = make_document()["turns"]
    return make_document(turns=[turns[0] | fields, turns[1]])


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ("{", "line", "character 1: expected JSON (Expecting property name "
         "enclosed in double quotes), found end"),
        ("[1]", "sample", "expected an object, found a list of 1"),
        ("null", "sample", "expected an object, found null"),
        (b'"\xff"', "line", "expected UTF-8, found byte 0xff at byte 1"),
        ("x" * 2**20, "line", "character 0: expected JSON (Expecting value), found "
         "'xxxxxxxxxxxxxxxxxxxxxxxx…'"),
        ("[" * 2**20, "line", "character 64: expected nesting of at most 64, found "
         "deeper nesting"),
        ('{"id": 1, "id": 2}', "line",
         "character 0: expected each key once, found 'id' twice"),
        (without("id"), "id", "expected a value, found nothing"),
        (make_document(id=""), "id", 'expected an id, found ""'),
        (make_document(id="x" * 201), "id",
         "expected at most 200 characters, found 201 characters"),
        (make_document(name=1), "name",
         "expected one of id, scenario, situation, status, split, contexts, turns, "
         "meta, found an unknown field"),
        (make_document(situation="odd"), "situation",
         "expected one of normal, exception, interruption, noise, nested, refusal, "
         'found "odd"'),
        (make_document(split="heldout"), "split",
         'expected "" or "held-out…", found "heldout"'),
        (make_document(turns=[]), "turns", "expected at least one turn, found none"),
        (make_document(meta={"a": ["b\0"]}), "meta.a[0]",
         "expected text, found a NUL at character 1"),
        (make_document(meta=[]), "meta", "expected an object, found a list of 0"),
        (make_document(contexts=[{"scope": "local"}]), "contexts[0].title",
         "expected a value, found nothing"),
        (make_document(contexts=[{"scope": "x", "title": ""}]), "contexts[0].scope",
         'expected one of global, local, found "x"'),
        (make_document(contexts=[{"scope": "local", "title": "", "actions": [{}]}]),
         "contexts[0].actions[0].name", "expected text, found nothing"),
        (with_turn(response="<<think>>x"), "turns[0].response",
         "line 1, column 11: expected <<action>> or <</think>>, found the end of "
         "the text"),
        (with_turn(references=["<</think>>"]), "turns[0].references[0]",
         "line 1, column 1: expected an answer without tags, or <<think>> first, "
         "found <</think>>"),
        (with_turn(input={"kind": "user", "text": "a <<think>>"}),
         "turns[0].input.text",
         "expected text without the tags of a response, found <<think>>"),
        (with_turn(input={"kind": "observation", "text": "a"}), "turns[0].response",
         "line 1, column 1: expected text, <<action>> or <</think>>, found "
         "<<think>>"),
        (with_turn(response="Hi", references=[]), "turns[1].input.kind",
         "expected user, as no action was called before, found observation"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)  # fmt: skip
def test_bad_line_is_named_and_the_good_ones_are_kept(line, field, reason):
    report = run(make_project(), make_document(1), line, make_document(2))
    assert refusals(report)[0][1:] == (field, reason)
    assert [r.line for r in report.refused] == [2]
    assert report.new == 2


def test_line_over_the_limit_is_refused_without_being_read_whole(tmp_path):
    path = tmp_path / "long.jsonl"
    good = json.dumps(make_document())
    path.write_text("x" * (3 * MAX_LINE_BYTES) + "\n\n" + good + "\n")
    report = import_file(project=make_project(), format="concord", path=path)
    assert refusals(report) == [
        (1, "line", f"expected at most {MAX_LINE_BYTES} bytes, found more")
    ]
    assert report.new == 1


def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "a.jsonl"
    text = "\r\n".join(json.dumps(make_document(n)) for n in range(2))
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert import_file(project=make_project(), format="concord", path=path).new == 2


def test_batch_that_the_database_refuses_is_written_line_by_line(monkeypatch):
    from annotation.authoring import import_files

    project = make_project()
    lookups = []
    real = import_files._known

    def blind_at_first(project, lines):
        lookups.append(lines)
        return {} if len(lookups) == 1 else real(project, lines)

    # As if another import had written cake-1 just after the batch was looked up.
    run(project, make_document(1))
    monkeypatch.setattr(import_files, "_known", blind_at_first)
    report = run(project, make_document(1), make_document(2))
    assert (report.new, report.unchanged) == (1, 1)
    assert Sample.objects.count() == 2


def test_number_of_queries_does_not_grow_with_the_file(django_assert_max_num_queries):
    project = make_project()
    with django_assert_max_num_queries(12):
        run(project, *(make_document(n) for n in range(100)))


def command(*arguments):
    out, err = StringIO(), StringIO()
    call_command("import_samples", *map(str, arguments), stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_command_reports_lines_and_ends_in_one_line_over_all_files(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(json.dumps(make_document(1)) + "\nno\n")
    two.write_text(json.dumps(make_document(2)) + "\n" + json.dumps(make_document(1)))
    arguments = ("--project", "Törtchen", "--format", "concord", one, two)
    with pytest.raises(CommandError, match='There is no project "Törtchen"'):
        command(*arguments)
    out, err = command("--create", *arguments)
    assert out == "4 conversations: 2 new, 1 unchanged, 1 refused\n"
    assert err == (
        f"{one}:2: line: character 0: expected JSON (Expecting value), found 'no'\n"
    )
    assert Project.objects.get(name="Törtchen").slug == "tortchen"


def test_command_fails_when_every_line_is_refused(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("no\n")
    with pytest.raises(SystemExit):
        command("--create", "--project", "P", "--format", "concord", path)


def test_command_names_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CommandError, match="there is no such file"):
        command("--create", "--project", "P", "--format", "concord", tmp_path / "x")
    assert not Project.objects.filter(name="P").exists()


def test_a_rule_that_cannot_be_applied_is_refused_at_its_field():
    good = make_document(meta={"rule": {"match": "numeric", "answer": 5}})
    assert sample_to_json(save_sample(project=make_project(), document=good)) == good
    bad = make_document(meta={"rule": {"match": "numeric", "answer": "five"}})
    with pytest.raises(SampleError) as caught:
        save_sample(project=make_project(), document=bad)
    assert str(caught.value) == 'meta.rule.answer: expected a number, found "five"'


@pytest.mark.parametrize("depth", [62, 63, 5000])
def test_deep_nesting_is_refused_before_the_database_sees_it(depth):
    value = None
    for _ in range(depth):
        value = [value]
    document = make_document(meta={"deep": value})
    if depth == 62:  # with the sample and its meta 64
        sample = save_sample(project=make_project(), document=document)
        assert sample_to_json(sample) == document
        return
    with pytest.raises(SampleError, match="expected nesting of at most 64"):
        save_sample(project=make_project(), document=document)


def test_saved_sample_has_author_and_status():
    project, lena = make_project(), make_user("lena")
    sample = save_sample(
        project=project, document=make_document(), author=lena, status="submitted"
    )
    assert (sample.author, sample.status) == (lena, "submitted")


def test_saving_an_id_in_use_is_an_error():
    project = make_project()
    save_sample(project=project, document=make_document())
    with pytest.raises(SampleError) as caught:
        save_sample(project=project, document=make_document())
    assert str(caught.value) == 'id: expected an id that is not in use, found "cake-1"'


def test_saving_over_a_sample_replaces_its_content_and_keeps_its_turns():
    project = make_project()
    sample = save_sample(project=project, document=make_document())
    turns = list(Turn.objects.values_list("pk", flat=True))
    changed = make_document(scenario="shopping", contexts=[])
    changed["turns"][1]["response"] = "So.<</think>>There it is."
    again = save_sample(project=project, document=changed, sample=sample)
    assert again.pk == sample.pk
    assert sample_to_json(again) == changed
    assert list(Turn.objects.values_list("pk", flat=True)) == turns
    assert run(project, changed).unchanged == 1


def test_judged_turn_cannot_be_taken_away():
    project = make_project()
    sample = save_sample(project=project, document=make_document())
    make_pair(turn=sample.turns.get(position=1))
    short = make_document(
        turns=[{"input": {"kind": "user", "text": "Hi"}, "response": "Hello."}]
    )
    with pytest.raises(SampleError) as caught:
        save_sample(project=project, document=short, sample=sample)
    assert caught.value.field == "turns"
    assert sample_to_json(Sample.objects.get()) == make_document()


PROPOSAL = {"checkpoint": 3, "digest": "abc", "text": "Which one?"}


def with_proposal(proposal) -> dict:
    turn = {"input": {"kind": "user", "text": "A cake."}, "response": "Which?"}
    return {"id": "proposed", "turns": [turn | {"proposal": proposal}]}


def test_a_policys_proposal_comes_in_and_goes_out_again():
    project = make_project()
    sample = save_sample(project=project, document=with_proposal(PROPOSAL))
    assert sample.turns.get().proposal == PROPOSAL
    assert sample_to_json(sample)["turns"][0]["proposal"] == PROPOSAL
    changed = with_proposal(PROPOSAL | {"checkpoint": 4})
    save_sample(project=project, document=changed, sample=sample)
    assert sample.turns.get().proposal["checkpoint"] == 4


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        ("x", 'turns[0].proposal: expected an object, found "x"'),
        (
            PROPOSAL | {"checkpoint": "3"},
            'turns[0].proposal.checkpoint: expected a checkpoint\'s number, found "3"',
        ),
        (
            {"checkpoint": 3, "digest": "a"},
            "turns[0].proposal.text: expected a value, found nothing",
        ),
        (
            PROPOSAL | {"more": 1},
            "turns[0].proposal.more: expected one of checkpoint, digest, text, found "
            "an unknown field",
        ),
    ],
)
def test_a_malformed_proposal_is_refused_with_its_place(proposal, message):
    with pytest.raises(SampleError) as error:
        save_sample(project=make_project(), document=with_proposal(proposal))
    assert str(error.value) == message


def test_command_tells_equal_refusals_once_with_their_count_and_places(tmp_path):
    path = tmp_path / "bad.jsonl"
    bad = [{"id": str(n), "turns": None} for n in range(53_000)]
    odd = make_document(5, situation="odd")
    lines = [make_document(), *bad, odd, make_document(scenario="other")]
    path.write_text("\n".join(map(json.dumps, lines)))
    out, err = command("--create", "--project", "P", "--format", "concord", path)
    assert out == "53003 conversations: 1 new, 0 unchanged, 53002 refused\n"
    assert err.splitlines() == [
        f"{path}: lines 2, 3, 4, 5, 6 and 52995 more: turns: expected a list, found null",
        f"{path}:53002: situation: expected one of normal, exception, interruption, "
        'noise, nested, refusal, found "odd"',
        f'{path}:53003: id: "cake-1" is known with other content; nothing was changed',
    ]


def test_refusals_that_differ_in_what_was_found_are_told_together():
    report = run(make_project(), *(f'{{"id": {n} no' for n in range(3)))
    (group,) = report.groups
    assert str(group) == (
        "lines: lines 1, 2, 3: line: character 9: expected JSON (Expecting ',' "
        "delimiter), found 'no'"
    )


def test_command_names_a_file_of_another_kind_once(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(make_document()) + "\n", encoding="utf-16")
    out, err = StringIO(), StringIO()
    arguments = ["--create", "--project", "P", "--format", "concord", str(path)]
    with pytest.raises(SystemExit):
        call_command("import_samples", *arguments, stdout=out, stderr=err)
    assert err.getvalue() == (
        f"{path}: expected JSON, one sample or conversation a line, found UTF-16 text: "
        "save it as UTF-8\n"
    )


def test_a_pretty_printed_list_is_imported(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([make_document(1), make_document(2)], indent=1))
    report = import_file(project=make_project(), format="concord", path=path)
    assert str(report) == "2 conversations: 2 new, 0 unchanged, 0 refused"
