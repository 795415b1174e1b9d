"""Writes one demo sample: a conversation that follows a plan through a scenario."""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

from actions.builtins import GET_THINKING_CONTEXT, LocalContext, show_context
from actions.demo.facts import Call, Facts, Opening, Sentence, render
from actions.demo.orders import HELD_OUT_SHARE, Order, SeededRandom, allowed_orders
from actions.demo.scenarios import (
    ACCEPT,
    BREAK_OFF,
    NOISE,
    ActionStep,
    LastStep,
    Scenario,
    Trouble,
    Value,
    Wordings,
)
from actions.demo.shapes import Context, Difficulty, Input, Sample, Turn
from actions.executor import exception_text
from actions.tags import JSON


def _parameter(value: Value) -> dict[str, JSON]:
    # The name explains the parameter; a description would cost tokens in every prompt.
    return {
        "type": "integer" if isinstance(value, int) else "string",
        "description": "",
    }


def _definition(
    step: ActionStep | LastStep, parameters: dict[str, Value]
) -> dict[str, JSON]:
    return {
        "name": step.action,
        "description": step.description,
        "parameters": {name: _parameter(value) for name, value in parameters.items()},
        "exception": {step.trouble.name: step.trouble.description},
    }


@dataclass
class Writer:
    """Writes one sample, turn by turn."""

    scenario: Scenario
    situation: str
    random: SeededRandom
    difficulty: Difficulty
    split: str
    habit: float = 0.0
    turns: list[Turn] = field(default_factory=list)

    def write(self, identity: str) -> Sample:
        scenario = self.scenario
        self.middle = self._order()
        self.plan = (*self.middle, scenario.last.id)
        self.values = self._values()
        self.local = (
            self.situation == "normal" and self.random.below(1) < self.difficulty.local
        )
        self.failing = self._failing_step()
        self.guideline = self._guideline()
        contexts = self._contexts()
        command: dict[str, JSON] = {
            slot: self.values[slot]
            for slot in ("thing", "option", "extra")
            if slot in self.values
        }
        self._converse()
        return {
            "id": identity,
            "scenario": scenario.name,
            "situation": self.situation,
            "status": "approved",
            "split": self.split,
            "contexts": contexts,
            "turns": self.turns,
            "meta": {"order": list(self.middle), "command": command},
        }

    # What the task is about

    def _order(self) -> Order:
        ask = self.scenario.ask.id
        orders = allowed_orders(
            self.scenario.name, self.split == "held-out-unseen", self.difficulty.steps
        )
        self.refuse_first = self.situation == "refusal" and self.random.below(1) < 0.5
        talks = self.situation in ("noise", "nested", "interruption") or (
            self.situation == "refusal" and not self.refuse_first
        )
        while True:
            order = self.random.pick(orders)
            if talks and ask not in order:
                continue
            if self.situation == "interruption" and order[0] == ask:
                continue
            return order

    def _pool(self, slot: str) -> tuple[Value, ...]:
        pool = self.scenario.pools[slot]
        numeric = isinstance(pool[0], int)
        return pool[: self.difficulty.numbers if numeric else self.difficulty.names]

    def _values(self) -> dict[str, Value]:
        """Pick all values, numbers without repetition, on this split's side."""
        slots: list[str] = ["thing", "option", "asked", "found", "looked", "number"]
        if self.difficulty.values > 2:
            slots.append("extra")
        command = [slot for slot in slots if slot in ("thing", "option", "extra")]
        values: dict[str, Value] = {}
        while True:
            for slot in command:
                values[slot] = self.random.pick(self._pool(slot))
            key = "|".join(
                [self.scenario.name, *self.middle, *(str(values[s]) for s in command)]
            )
            held_out = crc32(key.encode()) % HELD_OUT_SHARE == 0
            if held_out == bool(self.split):
                break
        for slot in slots:
            if slot not in command:
                values[slot] = self._fresh(slot, values)
        values["other"] = self._fresh("thing", values)
        values["alternative"] = self._fresh("option", values)
        return values

    def _fresh(self, slot: str, values: dict[str, Value]) -> Value:
        while True:
            value = self.random.pick(self._pool(slot))
            if value not in values.values():
                return value

    def _failing_step(self) -> str:
        if self.situation != "exception":
            return ""
        steps = [step for step in self.middle if step != self.scenario.ask.id]
        return self.random.pick([*steps, self.scenario.last.id])

    # What the assistant is told beforehand

    def _guideline(self) -> str:
        scenario = self.scenario
        steps = {
            step.id: step
            for step in (scenario.find, scenario.lookup, scenario.check, scenario.ask)
        }
        nouns = [steps[step].noun for step in self.middle]
        deeds = [_lower(steps[step].phrases[0]) for step in self.middle]
        last = _lower(scenario.last.phrases[0])
        return self._some(
            (
                f"Start with {', then '.join(nouns)}. At the end {last}.",
                f"First {', then '.join(deeds)}. At the end {last}.",
                f"The order is {', '.join(nouns)}. After that {last}.",
                f"Always {', then '.join(deeds)}, and {last} last.",
            )
        )

    def _contexts(self) -> list[Context]:
        scenario, values = self.scenario, self.values
        background = self._some(scenario.backgrounds)
        used = [
            step
            for step in (scenario.find, scenario.lookup, scenario.check)
            if step.id in self.middle
            or (step is scenario.lookup and self.situation == "nested")
        ]
        definitions: list[JSON] = [
            _definition(
                step,
                {
                    step.parameter: values[
                        "option" if step is scenario.check else "thing"
                    ]
                },
            )
            for step in used
        ]
        definitions.append(
            _definition(scenario.last, dict(self._last_call().parameters))
        )
        guideline = self.guideline
        if self.local:
            guideline = self._some(
                (
                    f"The steps are in the thinking context {scenario.name}.",
                    f"For the steps get the thinking context {scenario.name}.",
                )
            )
        contexts: list[Context] = [
            {
                "scope": "global",
                "title": scenario.name,
                "background": background,
                "guideline": guideline,
                "actions": definitions,
            }
        ]
        if self.local:
            contexts.append(
                {
                    "scope": "local",
                    "title": f"{scenario.name} steps",
                    "background": "",
                    "guideline": self.guideline,
                    "actions": [],
                }
            )
        return contexts

    # The conversation

    def _converse(self) -> None:
        scenario = self.scenario
        command = self._some(scenario.commands, self.difficulty.wordings + 1)
        if "extra" in self.values:
            command += self._some((" My name is {extra}.", " It is for {extra}."))
        command = command.format_map(self.values)
        if self.refuse_first:
            refused = self.random.pick(scenario.refused)
            self._user(self._some(refused.requests))
            self._answer(
                [Sentence(f"unsafe/{refused.reason}", {})],
                [Sentence(f"refuse/{refused.reason}", {})],
            )
            command = f"{self._some(('All right.', 'Then not.', 'Fine.'))} {command}"
        self._user(command)
        prefix = "new"
        if self.local:
            self._call(
                [Sentence("fetch", {})],
                Call(GET_THINKING_CONTEXT.name, {"query": self.scenario.name}),
            )
            self._observe(
                show_context(LocalContext(f"{scenario.name} steps", "", self.guideline))
            )
            prefix = "fetched"
        self._make_plan(prefix)
        for number, step in enumerate(self.middle, start=1):
            thinking = self._finish_step(number, step)
            if thinking is None:
                return
            following = self.plan[number]
            thinking.append(Sentence(f"step/{following}", {"n": number + 1}))
            if following == scenario.last.id:
                self._call(thinking, self._last_call())
            else:
                self._open(thinking, self._opening(following))
        last = scenario.last
        if self.failing == last.id:
            self._try_again(last.trouble, self._last_call())
        self._observe(self._some(last.observations).format_map(self.values))
        number_slot = self._slots("number")
        answer = [Sentence("done", self._slots("thing", "option"))]
        if scenario.lookup.id in self.middle:
            answer.append(Sentence("told", self._slots("looked")))
        answer.append(Sentence("told_number", number_slot))
        if self.habit and self.random.below(1) < self.habit:
            answer.append(Sentence("upsell", {}))
        self._answer(
            [Sentence("got/number", number_slot), Sentence("finished", {})], answer
        )

    def _finish_step(self, number: int, step: str) -> list[Sentence] | None:
        """Get what the current step needs; return the next thought.

        None: the user broke off the task.
        """
        scenario = self.scenario
        if step == scenario.ask.id:
            return self._be_answered(number)
        action = scenario.action_step(step)
        assert action is not None
        slot = {scenario.find.id: "found", scenario.lookup.id: "looked"}.get(
            step, "option"
        )
        if self.failing == step and slot == "option":
            return self._take_alternative(action.trouble)
        if self.failing == step:
            call = self._opening(step).action
            assert call is not None
            self._try_again(action.trouble, call)
        self._observe(self._some(action.observations).format_map(self.values))
        return [Sentence(f"got/{step}", self._slots(slot))]

    def _be_answered(self, number: int) -> list[Sentence] | None:
        """Let the user answer the open question, perhaps after something else."""
        scenario = self.scenario
        question = Sentence(f"ask/{scenario.ask.id}", {})
        place: dict[str, Value] = {"n": number}
        if self.situation == "interruption":
            self._user(self._some(BREAK_OFF, self.difficulty.wordings + 1))
            self._answer([Sentence("stop", {})], [Sentence("stopped", {})])
            return None
        if self.situation == "noise":
            topic = self.random.pick(tuple(NOISE))
            self._user(self._some(NOISE[topic][0]))
            self._answer(
                [Sentence("noise", place)], [Sentence(f"reply/{topic}", {}), question]
            )
        elif self.situation == "refusal" and not self.refuse_first:
            refused = self.random.pick(scenario.refused)
            self._user(self._some(refused.requests))
            self._answer(
                [Sentence(f"unsafe/{refused.reason}", {}), Sentence("back", place)],
                [Sentence(f"refuse/{refused.reason}", {}), question],
            )
        elif self.situation == "nested":
            self._user(self._some(scenario.aside).format_map(self.values))
            self._call(
                [Sentence("aside", place)],
                Call(
                    scenario.lookup.action,
                    {scenario.lookup.parameter: self.values["other"]},
                ),
            )
            looked: dict[str, Value] = {"looked": self._fresh("looked", self.values)}
            self._observe(self._some(scenario.lookup.observations).format_map(looked))
            self._answer(
                [
                    Sentence(f"got/{scenario.lookup.id}", looked),
                    Sentence("back", place),
                ],
                [
                    Sentence("told_aside", {**self._slots("other"), **looked}),
                    question,
                ],
            )
        self._user(self._some(scenario.ask.replies).format_map(self.values))
        return [Sentence(f"got/{scenario.ask.id}", self._slots("asked"))]

    def _try_again(self, trouble: Trouble, call: Call) -> None:
        message = self._some(trouble.messages)
        self._observe(exception_text(trouble.name, message))
        self._call([Sentence("again", {"exception": trouble.name})], call)

    def _take_alternative(self, trouble: Trouble) -> list[Sentence]:
        message = self._some(trouble.messages).format_map(self.values)
        self._observe(exception_text(trouble.name, message))
        both = self._slots("option", "alternative")
        self._answer([Sentence("taken", both)], [Sentence("offer", both)])
        self._user(self._some(ACCEPT).format_map(self.values))
        self.values["option"] = self.values["alternative"]
        return [Sentence("accepted", self._slots("option"))]

    def _opening(self, step: str) -> Opening:
        """Return how a response continues that starts with this middle step."""
        action = self.scenario.action_step(step)
        if action is None:
            return Opening(None, (Sentence(f"ask/{step}", {}),))
        slot = "option" if action is self.scenario.check else "thing"
        return Opening(Call(action.action, {action.parameter: self.values[slot]}), ())

    def _last_call(self) -> Call:
        scenario, values = self.scenario, self.values
        parameters = {
            scenario.find.parameter: values["thing"],
            scenario.check.parameter: values["option"],
        }
        if "extra" in values:
            parameters["name"] = values["extra"]
        if scenario.ask.id in self.middle:
            parameters[scenario.ask.parameter] = values["asked"]
        if scenario.find.id in self.middle:
            parameters[scenario.found_parameter] = values["found"]
        return Call(scenario.last.action, parameters)

    # Turns

    def _some(self, wordings: Wordings, limit: int = 0) -> str:
        """Pick one of the first wordings, as many as the difficulty allows."""
        return self.random.pick(wordings[: limit or self.difficulty.wordings])

    def _slots(self, *names: str) -> dict[str, Value]:
        return {name: self.values[name] for name in names}

    def _user(self, text: str) -> None:
        self.input: Input = {"kind": "user", "text": text}

    def _observe(self, text: str) -> None:
        self.input = {"kind": "observation", "text": text}

    def _make_plan(self, prefix: str) -> None:
        first = self._opening(self.middle[0])
        self._turn(
            [Sentence(f"{prefix}/{self.middle[0]}", {})],
            first,
            plan=self.plan,
            openings={step: self._opening(step) for step in self.middle},
        )

    def _call(self, thinking: list[Sentence], call: Call) -> None:
        self._turn(thinking, Opening(call, ()))

    def _answer(self, thinking: list[Sentence], answer: list[Sentence]) -> None:
        self._turn(thinking, Opening(None, tuple(answer)))

    def _open(self, thinking: list[Sentence], opening: Opening) -> None:
        self._turn(thinking, opening)

    def _turn(
        self,
        thinking: list[Sentence],
        end: Opening,
        plan: Order = (),
        openings: dict[str, Opening] | None = None,
    ) -> None:
        """Add the turn with the pending input and the response with this meaning."""
        facts = Facts(
            scenario=self.scenario,
            inside=self.input["kind"] == "observation",
            thinking=tuple(thinking),
            plan=plan,
            action=end.action,
            answer=end.answer,
            openings=openings or {},
        )
        response = render(facts)
        references: list[str] = []
        while len(references) < self.difficulty.references:
            reference = render(facts, self.random.pick)
            if reference != response:
                references.append(reference)
        self.turns.append(
            {
                "input": self.input,
                "response": response,
                "references": references,
                "facts": facts.to_json(),
            }
        )


def _lower(phrase: str) -> str:
    return phrase[0].lower() + phrase[1:]
