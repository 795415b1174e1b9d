"""Draw sampled responses for people to judge.

G responses to each chosen turn from the current policy, and as many from the initial
policy, so that people see where the policy came from as well as where it is (section
3.2 of the paper). History is the label's.

* Turns: ``random``, or ``hard first``: by the largest surprisal, max −log π(token), of
  the label's tokens under the current policy. One surprising token is enough to fail.
* A response that ends in an action call is executed: when it makes the label's call, the
  recorded observation is replayed; otherwise the demo's simulator answers built-in
  actions, and others where the sample has facts; otherwise there is no observation.
* A response that equals the label byte for byte is marked ``identical``: it is
  consistent by itself and no person is asked. Equal responses among the G are all kept,
  each with its index, since how often a policy says something is part of its behaviour.

* ``keep`` "accepted" is rejection sampling (Yuan et al. 2023, RFT; Dong et al. 2023,
  RAFT), to grow the data: of the N answers to a turn only those go to people that are
  well formed, differ from the label and each other, and that the reward model accepts
  (in a reasoning task: that are right by its rule), the likeliest first. Those that
  people then judge consistent can be learned by SFT as further wordings.
* With a reward model among the inputs each answer is scored beside its label. People
  judge without seeing that; afterwards the two can be compared. A label that breaks the
  grammar cannot be compared with: its answers have no score, none is accepted, and the
  turns are counted (``turns_label_unreadable``).

``outputs/responses.jsonl`` grows turn by turn. A run that is started again keeps the
turns that are whole and draws the rest: what is drawn for a turn depends on the seed,
the role and the turn only.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from actions.builtins import BUILT_IN_ACTIONS
from actions.demo import simulators
from actions.executor import Executor, Limits
from actions.grammar import ActionCall, parse
from actions.json_values import json_equal
from records.finite import must_be_finite
from records.reading import RecordError, parse_object
from records.recipes import DrawRecipe
from records.responses import ResponseRow
from training.engine.data.conversations import (
    Encoder,
    Sample,
    lengths_summary,
    read_samples,
)
from training.engine.modeling.loading import load_policy
from training.engine.modeling.policies import Place, prepare
from training.engine.reward_model.model import RewardModel, load_reward_model, score_of
from training.engine.reward_model.packing import Pair
from training.engine.run.directory import (
    Ending,
    RunDirectory,
    RunError,
    run_program,
    step_random,
)
from training.engine.run.distributed import (
    all_reduce_max,
    broadcast,
    join,
    map_over_ranks,
)
from training.engine.run.rows import read_records
from training.engine.sampling.answers import (
    Answer,
    Prompt,
    answer_together,
    count_unreadable,
    is_well_formed,
    longest_prompt,
    parsed_label,
    rule_verdict,
)
from training.engine.sampling.decoding import WITHOUT_CACHE, caching
from training.engine.sampling.sampler import Sampling, room

CHUNK = 64  # turns drawn between two looks at the wish to stop
ACTION_SECONDS = 10.0  # the longest that one action may take
KEPT_AT_MOST = 2  # accepted answers of a policy to one turn that go to people


def draw(run: RunDirectory, recipe: DrawRecipe) -> Ending:
    """Draw from the policies in ``inputs``; see the module's docstring."""
    place = prepare(recipe)
    join(place.device)
    samples = read_samples(run.need_data("train"))
    models = {"current": load_policy(run.need_input("policy"), place)}
    if "initial" in run.inputs:
        models["initial"] = load_policy(run.inputs["initial"], place)
    reward = None
    if "reward" in run.inputs:
        reward = load_reward_model(run.inputs["reward"], place.device)
    elif recipe.keep == "accepted":
        run.need_input("reward")

    model, tokenizer = models["current"]
    longest = longest_prompt(model, recipe.max_prompt_tokens, recipe.max_new_tokens)
    encoder = Encoder(tokenizer)
    chosen, left_out = choose(samples, recipe, model, encoder, place, longest)
    lengths = lengths_summary([len(a.ids) for a in (*chosen, *left_out)])
    run.log(
        f"{len(chosen)} of {sum(len(each.turns) for each in samples)} turns of "
        f"{len(samples)} samples; their prompts have {lengths['median']} tokens (median), "
        f"95 % within {lengths['p95']}, {lengths['max']} at most"
    )
    if left_out:
        run.log(
            f"{len(left_out)} turns are left out: their prompts are longer than "
            f"{longest} tokens",
            "warning",
        )
    if not chosen:
        found = f"none of {len(left_out)} turns"
        raise RunError("recipe: `max_prompt_tokens`", "room for some prompt", found)
    unreadable = count_unreadable(chosen) if reward is not None else 0
    if unreadable:
        run.log(
            f"{unreadable} of {len(chosen)} turns have a label response that breaks the "
            "response grammar: their answers are drawn, but not scored",
            "warning",
        )

    output = run.outputs / "responses.jsonl"
    done = whole_turns(run, output, recipe.responses_per_turn)
    counts: Counter[str] = Counter()
    total = len(chosen) * len(models)
    written = output if run.speaks else Path(os.devnull)
    with written.open("a", encoding="utf-8") as file:
        for part, (role, (model, tokenizer)) in enumerate(models.items()):
            encoder = Encoder(tokenizer)
            assert isinstance(tokenizer.pad_token_id, int)
            sampling = Sampling(
                recipe.temperature,
                1.0,
                recipe.max_new_tokens,
                encoder.frame.stop_ids,
                tokenizer.pad_token_id,
                parts=room(place, run.log),
            )
            caching(model, longest + recipe.max_new_tokens).tell(run.log, WITHOUT_CACHE)
            for start in range(0, len(chosen), CHUNK):
                run.progress(part * len(chosen) + start, total)
                if all_reduce_max(run.stop_requested, place.device):
                    return Ending("stopped", dict(counts))
                chunk = [
                    Prompt(a.sample, a.turn, encoder.encode(a.sample).prompt(a.turn))
                    for a in chosen[start : start + CHUNK]
                    if (role, a.sample.id, a.turn) not in done
                ]
                drawn = answer_together(
                    model,
                    tokenizer,
                    chunk,
                    sampling,
                    place=place,
                    seeds=[
                        step_random(recipe.seed, role, a.sample.id, a.turn).getrandbits(
                            31
                        )
                        for a in chunk
                    ],
                    per_turn=recipe.responses_per_turn,
                )
                responses = [[row_of(a, role) for a in group] for group in drawn]
                if reward is not None:
                    responses = score_rows(responses, drawn, reward)
                for rows, group in zip(responses, drawn, strict=True):
                    if reward is not None and recipe.keep == "accepted":
                        rows = mark_kept(rows, group, reward)
                    file.writelines(
                        json.dumps(row.to_json(), ensure_ascii=False) + "\n"
                        for row in rows
                    )
                    counts.update(counted(rows, role))
                file.flush()
                if run.speaks:  # the others write to nowhere
                    os.fsync(file.fileno())
                if drawn:
                    report(run, part * len(chosen) + start, drawn[0][0], counts, role)
    run.progress(total, total)
    values: dict[str, object] = {
        **counts,
        "turns": len(chosen),
        "done_before": len(done),
    }
    values["turns_too_long"] = len(left_out)
    if reward is not None and run.speaks:
        values |= {"turns_label_unreadable": unreadable, **mean_scores(output)}
    return Ending("finished", values)


# Which turns


def choose(
    samples: Sequence[Sample],
    recipe: DrawRecipe,
    model: PreTrainedModel,
    encoder: Encoder,
    place: Place,
    longest: int,
) -> tuple[list[Prompt], list[Prompt]]:
    """Return the turns to answer, by the recipe's choice, and those found too long.

    At random, no more turns are read than it takes to find as many that fit.
    """
    places = [(s, turn) for s in samples for turn in range(len(s.turns))]
    step_random(recipe.seed, "turns").shuffle(places)
    wanted = recipe.turns or len(places)
    hard_first = recipe.choice == "hard first" and wanted < len(places)
    fitting: list[Prompt] = []
    left_out: list[Prompt] = []
    for sample, turn in places:
        if len(fitting) == wanted and not hard_first:
            break
        prompt = Prompt(sample, turn, encoder.encode(sample).prompt(turn))
        (fitting if len(prompt.ids) <= longest else left_out).append(prompt)
    if hard_first:
        hardness = surprisal(model, encoder, fitting, place)
        order = sorted(range(len(fitting)), key=lambda i: -hardness[i])
        fitting = [fitting[i] for i in order[:wanted]]
    return fitting, left_out


@torch.inference_mode()
def surprisal(
    model: PreTrainedModel, encoder: Encoder, prompts: Sequence[Prompt], place: Place
) -> list[float]:
    """Return for each turn the largest −log π(token) over the tokens of its label."""
    model.train(False)
    # A conversation holds all its turns: it is read once, and up to the last one asked.
    last: dict[str, Prompt] = {}
    for item in prompts:
        if item.sample.id not in last or last[item.sample.id].turn < item.turn:
            last[item.sample.id] = item

    def of_turns(item: Prompt) -> list[tuple[int, float]]:
        encoded = encoder.encode(item.sample, turns=range(item.turn + 1))
        ids = torch.tensor([encoded.ids], device=place.device)
        with place.autocast():
            logits = model(input_ids=ids).logits[0, :-1].float()
        lost = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        what = "surprisal of a label"
        return [
            (turn, must_be_finite(float(lost[start - 1 : end - 1].max()), what))
            for turn, (start, end) in zip(encoded.turns, encoded.spans, strict=True)
        ]

    read = list(last.values())
    surprisals = map_over_ranks(
        read, lambda items: [of_turns(i) for i in items], list, lambda _, row: row
    )
    hardest = {
        (item.sample.id, turn): value
        for item, of_item in zip(read, surprisals, strict=True)
        for turn, value in of_item
    }
    return [hardest[item.sample.id, item.turn] for item in prompts]


# What comes of a response


def row_of(given: Answer, role: str) -> ResponseRow:
    """Return the output row of one sampled response."""
    turn = given.sample.turns[given.turn]
    observation, source = observe(given)
    return ResponseRow(
        sample=given.sample.id,
        turn=given.turn,
        index=given.index,
        role=role,
        text=given.text,
        format_error=str(given.format_error) if given.format_error else "",
        observation=observation,
        observation_source=source,
        identical=given.text == turn.response,
    )


def observe(given: Answer) -> tuple[str, str]:
    """Return the observation of the response's action call, and where it is from."""
    call = last_call(given)
    if call is None:
        return "", ""
    turns = given.sample.turns
    label = parsed_label(turns[given.turn])
    following = turns[given.turn + 1] if given.turn + 1 < len(turns) else None
    if (
        label is not None
        and label.ends_with_action
        and following is not None
        and following.kind == "observation"
        and same_call(call, label.actions[-1])
    ):
        return following.text, "recorded"
    definitions = given.sample.in_force(given.turn)
    # The world of a sample without facts is unknown, except for the built-in actions.
    is_built_in = definitions.get(call.name) in BUILT_IN_ACTIONS
    if not (is_built_in or turns[given.turn].has_facts):
        return "", ""
    executor = Executor(
        definitions.values(),
        simulators.handlers(given.sample.document, turn=given.turn),
        Limits(seconds=ACTION_SECONDS),
    )
    return executor.execute(call).text, "simulator"


def last_call(given: Answer) -> ActionCall | None:
    """Return the call that ends a well-formed response, if one does."""
    if given.format_error is not None:
        return None
    inside = given.sample.turns[given.turn].inside_thinking
    response = parse(given.text, inside_thinking=inside)
    return response.actions[-1] if response.ends_with_action else None


def same_call(one: ActionCall, other: ActionCall) -> bool:
    """Say whether two calls name the same action with equal parameters."""
    return one.name == other.name and json_equal(
        dict(one.parameters), dict(other.parameters)
    )


def score_rows(
    rows: Sequence[Sequence[ResponseRow]],
    groups: Sequence[Sequence[Answer]],
    reward: RewardModel,
) -> list[list[ResponseRow]]:
    """Return the rows with what the reward model says of each answer.

    One outside the grammar gets 0, one whose label is outside the grammar nothing.
    """
    scored = {
        (number, i): Pair(turn.response, given.text, turn.kind, turn.history)
        for number, group in enumerate(groups)
        for i, given in enumerate(group)
        for turn in (given.sample.turns[given.turn],)
        if is_well_formed(turn.response, turn)
    }
    scores = map_over_ranks(list(scored.values()), reward.score, astuple, score_of)
    complete = [list(of_turn) for of_turn in rows]
    for (number, i), score in zip(scored, scores, strict=True):
        row = complete[number][i]
        rm_score = 0.0 if row.format_error else round(score.probability, 6)
        complete[number][i] = replace(row, rm_score=rm_score)
    return complete


def mark_kept(
    rows: Sequence[ResponseRow],
    group: Sequence[Answer],
    reward: RewardModel,
    at_most: int = KEPT_AT_MOST,
) -> list[ResponseRow]:
    """Return the rows of one turn, each with whether it is worth a person's judgment.

    A row without a score is accepted by its task's rule or not at all.
    """
    threshold = reward.settings.threshold
    scores = [-math.inf if row.rm_score is None else row.rm_score for row in rows]
    marked = list(rows)
    seen: set[str] = set()
    for i in sorted(range(len(rows)), key=lambda i: -scores[i]):
        row, right = rows[i], rule_verdict(group[i])
        accepted = scores[i] >= threshold if right is None else right
        kept = (
            accepted
            and not row.format_error
            and not row.identical
            and row.text not in seen
            and (not at_most or len(seen) < at_most)
        )
        marked[i] = replace(row, kept=kept)
        if kept:
            seen.add(row.text)
    return marked


def mean_scores(output: Path) -> dict[str, float]:
    """Return the mean score of each role's answers, those of earlier attempts too."""
    scores: dict[str, list[float]] = {}
    for row in read_records(output, ResponseRow.from_json):
        if row.rm_score is not None:  # else of an attempt without a reward model
            scores.setdefault(f"{row.role}/rm_score", []).append(row.rm_score)
    return {name: sum(each) / len(each) for name, each in scores.items()}


def counted(rows: Sequence[ResponseRow], role: str) -> Counter[str]:
    """Return the counts that the run reports, of some rows."""
    return Counter(
        {
            f"{role}/responses": len(rows),
            f"{role}/format_errors": sum(bool(row.format_error) for row in rows),
            f"{role}/identical": sum(row.identical for row in rows),
            f"{role}/distinct": len({row.text for row in rows}),
            f"{role}/observed": sum(bool(row.observation_source) for row in rows),
            f"{role}/kept": sum(row.goes_to_people for row in rows),
        }
    )


def report(
    run: RunDirectory, step: int, shown: Answer, counts: Counter[str], role: str
) -> None:
    """Show one drawn response and the shares so far."""
    turn = shown.sample.turns[shown.turn]
    run.sample(step, prompt=turn.text, text=shown.text, label=turn.response)
    responses = max(1, counts[f"{role}/responses"])
    run.metrics(
        step,
        {
            f"{role}/{name}": counts[f"{role}/{name}"] / responses
            for name in ("format_errors", "identical", "distinct")
        },
    )


def whole_turns(
    run: RunDirectory, output: Path, per_turn: int
) -> set[tuple[str, str, int]]:
    """Return the (role, sample, turn)s that are done; rank 0 reads the file.

    Collective: every rank must call it.
    """
    done = (
        [list(key) for key in keep_whole_turns(output, per_turn)] if run.speaks else []
    )
    return {(role, sample, turn) for role, sample, turn in broadcast(done)}


def keep_whole_turns(output: Path, per_turn: int) -> set[tuple[str, str, int]]:
    """Drop turns that a killed attempt left unfinished; return (role, sample, turn)s.

    The file is written anew and moved into place, so a crash here loses nothing.
    """
    if not output.exists():
        return set()
    rows: dict[tuple[str, str, int], list[str]] = {}
    for line in output.read_text(encoding="utf-8").split("\n"):
        try:
            row = ResponseRow.from_json(parse_object(line, output.name))
        except RecordError:  # the torn last line
            continue
        rows.setdefault(row.place, []).append(line)
    whole = {key: lines for key, lines in rows.items() if len(lines) == per_turn}
    kept = output.with_suffix(".kept")
    kept.write_text(
        "".join(line + "\n" for lines in whole.values() for line in lines),
        encoding="utf-8",
    )
    kept.replace(output)
    return set(whole)


if __name__ == "__main__":
    sys.exit(run_program("draw", DrawRecipe, draw))
