"""A simulated user and environment, so that a policy can be led through a whole task.

The user says the lines of the written sample in their order, the environment answers
action calls: a call equal to the label's gets the recorded observation, any other the
demo's simulator (``actions.demo.simulators``; "not found" where its world has nothing).
A call may name the actions in force (``actions.in_force``): those of a local context
only once the policy itself has fetched it.
History is the policy's own. The task ends early where the sample cannot go on: after an
ill-formed response, or when the policy acts where the label answers, or the reverse.
"""

from __future__ import annotations

from actions.demo import simulators
from actions.executor import Executor, Limits
from actions.grammar import FormatError, parse
from actions.in_force import definitions_in_force, fetched_by
from actions.json_values import json_equal
from training.engine.data.conversations import Encoder, Sample
from training.engine.sampling.answers import Answer, Prompt, parsed_label

ACTION_SECONDS = 10.0


class Environment:
    """What answers a policy in one conversation; take a new one for each.

    ``turn``: where the policy begins to answer; before it stand the labels.
    """

    def __init__(self, sample: Sample, turn: int = 0) -> None:
        self.sample = sample
        self.handlers = simulators.handlers(sample.document)
        self.fetched = sample.fetched_by_labels(turn)

    def reply(self, given: Answer) -> str | None:
        """Return the text of the next turn's input, None where the task ends here."""
        turns = self.sample.turns
        following = given.turn + 1
        if given.format_error is not None or following == len(turns):
            return None
        inside = turns[given.turn].inside_thinking
        response = parse(given.text, inside_thinking=inside)
        if response.ends_with_action != (turns[following].kind == "observation"):
            return None
        if not response.ends_with_action:
            return turns[following].text
        call = response.actions[-1]
        in_force = definitions_in_force(self.sample.action_contexts, self.fetched)
        # Also where the recorded observation is used: the world keeps count.
        executor = Executor(
            in_force.values(), self.handlers, Limits(seconds=ACTION_SECONDS)
        )
        observation = executor.execute(call).text
        # The label may call an action that the policy has not fetched as the label had.
        is_missing = call.name not in in_force and call.name in self.sample.in_force(
            given.turn
        )
        if same_calls(given) and not is_missing:
            observation = turns[following].text
        self.fetched += fetched_by(call, observation)
        return observation


def same_calls(given: Answer) -> bool:
    """Whether a well-formed answer makes the calls of its label."""
    turn = given.sample.turns[given.turn]
    label = parsed_label(turn)
    try:
        found = parse(given.text, inside_thinking=turn.inside_thinking)
    except FormatError:
        return False
    return (
        label is not None
        and found.ends_with_action
        and len(found.actions) == len(label.actions)
        and all(
            ours.name == theirs.name
            and json_equal(dict(ours.parameters), dict(theirs.parameters))
            for ours, theirs in zip(label.actions, found.actions, strict=True)
        )
    )


def next_turn(
    encoder: Encoder,
    environment: Environment,
    given: Answer,
    so_far: list[int],
    longest: int,
) -> Prompt | None:
    """Return the turn after ``given``, None at the task's end.

    ``so_far`` has all ids of the conversation, the answer's included; the turn's ids go
    on with those of its input.
    """
    text = environment.reply(given)
    if text is None:
        return None
    following = given.turn + 1
    kind = given.sample.turns[following].kind
    ids = so_far + encoder.following(kind, text, so_far[-1])
    if len(ids) > longest:
        return None
    return Prompt(given.sample, following, ids)
