"""Measure policies on held-out samples.

Every role in ``inputs`` except ``reward`` names a policy; all of them answer the same
turns. With ``history`` "labels" it is *teacher-forced*: the turns before are the label's,
so a task is complete when each of its turns is right by itself. That is easier than
holding a whole conversation, where a wrong turn spoils what follows; ``history`` "own"
measures this: a simulated user and environment (``worlds``) lead the policy through each
task. Turns that it does not reach are missing from the shares of turns, and their tasks
count as not complete.

For each policy, on all samples, by situation and by split:

    format_valid       responses that pass the format check
    plan_order         plans with the label's steps in the label's order
    action_name        action calls with the label's name
    action_parameters  action calls with the label's parameters, value by value
    turns_right        turns that the oracle calls consistent (where it can judge)
    tasks_complete     samples all of whose turns the oracle calls consistent
    rm_consistent      turns that the reward model calls consistent (where one is given)
    rm_agreement       turns on which reward model and oracle say the same

They are measured on held-out samples that no checkpoint is chosen on (``holdout``); where
there are too few to be split, on all of them. The interval beside a figure is a bootstrap
over samples (``figures``).

``outputs/samples.jsonl`` has a row for each policy and sample: its turns, how many are
right, whether the task is complete (null where the oracle cannot judge). Two policies
answered the same samples, so their difference is taken sample by sample: ``gains`` has,
for each policy beside ``initial``, the difference of ``tasks_complete`` and
``turns_right`` with the percentile interval of a *paired* bootstrap, which draws samples
with the verdicts of both. What makes a sample hard for both then cancels out, and the
interval is narrower than the two shares' own would suggest.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple

from transformers import PreTrainedModel

from records.recipes import EvaluateRecipe
from training.engine.data.conversations import (
    Encoder,
    Sample,
    lengths_summary,
    read_samples,
)
from training.engine.data.holdout import split_held_out
from training.engine.modeling.loading import load_policy
from training.engine.modeling.policies import Place, prepare
from training.engine.reward_model.model import RewardModel, load_reward_model, score_of
from training.engine.reward_model.packing import Pair
from training.engine.rl.environment import Environment, next_turn
from training.engine.run.directory import (
    Ending,
    RunDirectory,
    RunError,
    run_program,
    step_random,
)
from training.engine.run.distributed import (
    all_reduce_max,
    join,
    map_over_ranks,
    world_size,
)
from training.engine.sampling.answers import (
    Answer,
    Prompt,
    answer,
    answer_together,
    build_prompts,
    check_of,
    longest_prompt,
    measure,
    parsed_label,
)
from training.engine.sampling.decoding import WITHOUT_CACHE, caching
from training.engine.sampling.figures import (
    CONFIDENCE,
    METRICS,
    Row,
    Verdicts,
    error_counts,
    gains,
    grouped,
    situation_of,
    split_of,
    summary,
    tasks_complete,
    verdicts_of,
)
from training.engine.sampling.sampler import Sampled, Sampling, room

CHUNK = 256  # turns answered between two looks at the wish to stop


def evaluate(run: RunDirectory, recipe: EvaluateRecipe) -> Ending:
    """Measure every policy in ``inputs``; see the module's docstring."""
    place = prepare(recipe)
    join(place.device)
    samples = read_samples(run.need_data("held_out"))
    if not samples:
        raise RunError("data.held_out", "at least one sample", "an empty file")
    held_out = split_held_out(samples, lambda sample: sample.id)
    if held_out.is_split:
        samples = held_out.report
        run.log(
            f"measured on {len(samples)} held-out samples; on the other "
            f"{len(held_out.choose)} checkpoints are chosen"
        )
    else:
        run.log(
            f"{len(samples)} held-out samples are too few to be split: measured on all "
            "of them, which flatters a checkpoint that was chosen on them",
            "warning",
        )
    if recipe.samples and recipe.samples < len(samples):
        random = step_random(recipe.seed, "samples")
        samples = random.sample(samples, recipe.samples)
    roles = sorted(role for role in run.inputs if role != "reward")
    if not roles:
        raise RunError("run.json: `inputs`", "at least one policy", "none")
    reward = None
    if "reward" in run.inputs:
        reward = load_reward_model(run.inputs["reward"], place.device)

    if run.speaks:  # of an earlier attempt
        (run.outputs / "samples.jsonl").unlink(missing_ok=True)
    policies: dict[str, dict[str, object]] = {}
    by_situation: dict[str, dict[str, object]] = {}
    by_split: dict[str, dict[str, object]] = {}
    truth: dict[str, dict[str, Verdicts]] = {}
    for number, role in enumerate(roles):
        answered = answer_all(run, recipe, role, samples, place, (number, len(roles)))
        if answered is None:
            return Ending("stopped", {})
        answers, left_out = answered
        rows = judged(answers, reward)
        figures = summary(rows, left_out, samples, recipe)
        policies[role] = {**figures, "errors": dict(error_counts(rows))}
        by_situation[role] = grouped(rows, left_out, samples, recipe, situation_of)
        by_split[role] = grouped(rows, left_out, samples, recipe, split_of)
        truth[role] = {
            "tasks_complete": tasks_complete(rows, left_out, samples),
            "turns_right": verdicts_of(rows, METRICS["turns_right"]),
        }
        run.metrics(
            number + 1,
            {f"{role}/{name}": figure["value"] for name, figure in figures.items()},
        )
        show(run, number + 1, rows)
        if run.speaks:
            write_samples(run, role, rows, left_out, samples)
    values: dict[str, object] = {
        "policies": policies,
        "by_situation": by_situation,
        "by_split": by_split,
        "gains": gains(truth, recipe),
        "samples": len(samples),
        "samples_to_choose_on": len(held_out.choose),
        "history": "teacher-forced" if recipe.history == "labels" else "own",
        "interval": f"{CONFIDENCE:.0%} bootstrap over samples",
    }
    text = json.dumps(values, indent=1, ensure_ascii=False)
    if run.speaks:
        (run.outputs / "evaluation.json").write_text(text + "\n")
    return Ending("finished", values)


def answer_all(
    run: RunDirectory,
    recipe: EvaluateRecipe,
    role: str,
    samples: Sequence[Sample],
    place: Place,
    part: tuple[int, int],
) -> tuple[list[Answer], list[Prompt]] | None:
    """Return one policy's answers and the turns left out; None when asked to stop."""
    model, tokenizer = load_policy(run.inputs[role], place)
    encoder = Encoder(tokenizer)
    longest = longest_prompt(model, recipe.max_prompt_tokens, recipe.max_new_tokens)
    prompts, left_out = build_prompts(encoder, samples, longest)
    lengths = lengths_summary([len(item.ids) for item in prompts])
    run.log(
        f"{role}: {len(prompts)} turns of {len(samples)} samples; prompts have "
        f"{lengths['median']} tokens (median), {lengths['max']} at most"
    )
    if left_out:
        run.log(
            f"{role}: {len(left_out)} turns are left out, their prompts are longer than "
            f"{longest} tokens; their samples do not count as complete",
            "warning",
        )
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
    if recipe.history == "own":
        answered = whole_tasks(
            run, recipe, role, model, encoder, prompts, sampling, place, part
        )
        return answered and (answered[0], left_out + answered[1])
    # Neighbours in length share a batch; the order of the answers does not matter.
    prompts.sort(key=lambda item: len(item.ids))
    answers: list[Answer] = []
    for start in range(0, len(prompts), CHUNK):
        if all_reduce_max(run.stop_requested, place.device):
            return None
        run.progress(part[0] * len(prompts) + start, part[1] * len(prompts))
        chunk = prompts[start : start + CHUNK]
        seeds = seeds_of(recipe, role, chunk)
        drawn = answer_together(
            model, tokenizer, chunk, sampling, place=place, seeds=seeds
        )
        answers += [group[0] for group in drawn]
    run.progress((part[0] + 1) * len(prompts), part[1] * len(prompts))
    return answers, left_out


def seeds_of(recipe: EvaluateRecipe, role: str, prompts: Sequence[Prompt]) -> list[int]:
    """Return a seed for each turn: an answer hangs on no other turn."""
    return [
        step_random(recipe.seed, role, item.sample.id, item.turn).getrandbits(31)
        for item in prompts
    ]


def whole_tasks(
    run: RunDirectory,
    recipe: EvaluateRecipe,
    role: str,
    model: PreTrainedModel,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    place: Place,
    part: tuple[int, int],
) -> tuple[list[Answer], list[Prompt]] | None:
    """Return the answers of one policy led through each task, and what was not reached.

    All conversations of a process take their next turn together, and a process leads
    its tasks from the first turn to the last; None when asked to stop.
    """
    longest = longest_prompt(model, recipe.max_prompt_tokens, recipe.max_new_tokens)
    stopped = False

    def lead(tasks: Sequence[Prompt]) -> list[list[Answer]]:
        nonlocal stopped
        environments = {item.sample.id: Environment(item.sample) for item in tasks}
        answers: dict[str, list[Answer]] = {item.sample.id: [] for item in tasks}
        going, done = list(tasks), 0
        while going:
            further: list[Prompt] = []
            for start in range(0, len(going), CHUNK):
                if run.stop_requested:
                    stopped = True
                    return list(answers.values())
                turns = part[0] * len(prompts) + done * world_size()
                run.progress(turns, part[1] * len(prompts))
                chunk = going[start : start + CHUNK]
                drawn = answer(
                    model,
                    encoder.tokenizer,
                    chunk,
                    sampling,
                    place=place,
                    seed=seeds_of(recipe, role, chunk),
                )
                done += len(chunk)
                for item, (response,) in zip(chunk, drawn, strict=True):
                    answers[item.sample.id].append(response)
                    so_far = item.ids + response.sampled.ids
                    environment = environments[item.sample.id]
                    following = next_turn(
                        encoder, environment, response, so_far, longest
                    )
                    if following is not None:
                        further.append(following)
            going = further
        return list(answers.values())

    checked = check_of(encoder.tokenizer, sampling.stop_ids[-1])
    led = map_over_ranks(
        [item for item in prompts if item.turn == 0],
        lead,
        lambda task: [(each.turn, *astuple(each.sampled)) for each in task],
        lambda item, turns: [
            checked(item.sample, turn, 0, Sampled(*sampled)) for turn, *sampled in turns
        ],
    )
    if all_reduce_max(stopped, place.device):
        return None
    answers = [each for task in led for each in task]
    reached = {(each.sample.id, each.turn) for each in answers}
    missed = [item for item in prompts if (item.sample.id, item.turn) not in reached]
    run.progress((part[0] + 1) * len(prompts), part[1] * len(prompts))
    return answers, missed


def judged(answers: Sequence[Answer], reward: RewardModel | None) -> list[Row]:
    """Return each answer with what grammar, label, oracle and reward model say."""
    scores: dict[int, float] = {}
    threshold = 0.5
    if reward is not None:
        threshold = reward.settings.threshold
        numbers = [
            number
            for number, each in enumerate(answers)
            if parsed_label(each.sample.turns[each.turn]) is not None
        ]
        pairs = [pair_of(answers[number]) for number in numbers]
        scored = map_over_ranks(pairs, reward.score, astuple, score_of)
        for number, score in zip(numbers, scored, strict=True):
            valid = answers[number].format_error is None
            scores[number] = score.probability if valid else 0.0
    return [
        Row(
            each,
            measure(each),
            scores.get(number),
            scores[number] >= threshold if number in scores else None,
        )
        for number, each in enumerate(answers)
    ]


def pair_of(answer: Answer) -> Pair:
    """Return the pair of the label response and the answer."""
    turn = answer.sample.turns[answer.turn]
    return Pair(turn.response, answer.text, turn.kind, turn.history)


def write_samples(
    run: RunDirectory,
    role: str,
    rows: Sequence[Row],
    left_out: Sequence[Prompt],
    samples: Sequence[Sample],
) -> None:
    """Append a row for each sample to ``outputs/samples.jsonl``."""
    complete = tasks_complete(rows, left_out, samples)
    right: Counter[str] = Counter()
    for row in rows:
        right[row.answer.sample.id] += bool(row.measured.consistent)
    with (run.outputs / "samples.jsonl").open("a", encoding="utf-8") as file:
        for sample in samples:
            verdict = complete.get(sample.id)
            line = {
                "role": role,
                "sample": sample.id,
                "split": sample.split,
                "turns": len(sample.turns),
                "right": right[sample.id],
                "complete": verdict and verdict[0],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def show(run: RunDirectory, step: int, rows: Sequence[Row]) -> None:
    """Show a few answers on the run's page, wrong ones first."""
    ordered = sorted(rows, key=lambda row: row.measured.consistent is not False)
    for row in ordered[:4]:
        turn = row.answer.sample.turns[row.answer.turn]
        scores: dict[str, object] = {
            "format_valid": row.measured.format_valid,
            "consistent": row.measured.consistent,
            "reward_model": row.rm,
            "errors": ", ".join(row.measured.errors),
        }
        run.sample(
            step,
            prompt=turn.text,
            text=row.answer.text,
            label=turn.response,
            scores=scores,
        )


if __name__ == "__main__":
    sys.exit(run_program("evaluate", EvaluateRecipe, evaluate))
