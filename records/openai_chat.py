"""OpenAI-style chat JSONL to samples and back. No database here.

``docs/data-formats.md`` has the whole mapping and what it normalises. In short: system
prompts become global thinking contexts, tools their actions; an assistant message with
tool calls becomes ``<<think>>content<<action>>{…}<</action>>``, the tool's result the
next turn's input, and what follows goes on inside the thinking. What a chat has and the
grammar has not (ids of calls, several calls in one message, messages nobody answered)
is kept in ``meta["openai-chat"]``, from where the export takes it back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actions.builtins import BUILT_IN_ACTIONS
from actions.definitions import (
    ActionDefinition,
    DefinitionError,
    describe,
    from_openai,
    parse_definition,
    to_openai,
)
from actions.grammar import ActionCall, parse
from actions.json_values import JSONError, dump_json, load_json
from actions.tags import ACTION_CLOSE, ACTION_OPEN, JSON, THINK_CLOSE, THINK_OPEN
from records.sample_format import (
    SampleError,
    check_id,
    check_sample,
    check_text_values,
    refuse_tags,
)
from records.samples import Context, Sample, Turn, content_hash

KEPT = "openai-chat"
SAMPLE_FIELDS = ("scenario", "situation", "split")
RESERVED = ("id", "messages", "tools", *SAMPLE_FIELDS, KEPT)
JOINT = "\n\n"


@dataclass
class _Said:
    """Inputs waiting for a response, and the turns made so far."""

    turns: list[Turn] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """User texts since the last response; more than one are joined into one input."""
    joined: dict[str, JSON] = field(default_factory=dict)
    calls: list[JSON] = field(default_factory=list)
    observation: str | None = None
    stray: str = ""
    """The place of a user message where the assistant should have spoken."""

    def respond(self, thinking: str | None, ending: str) -> None:
        """Add a turn: the waiting input and the response to it."""
        if self.stray:
            expected = "a message of the assistant after a tool's result"
            raise SampleError(self.stray, expected, "one of the user")
        if self.observation is not None:
            text, kind = self.observation, "observation"
            response = (thinking or "") + ending
        else:
            text, kind = JOINT.join(self.waiting), "user"
            if len(self.waiting) > 1:
                self.joined[str(len(self.turns))] = list(self.waiting)
            response = ending if thinking is None else THINK_OPEN + thinking + ending
        self.waiting, self.observation = [], None
        self.turns.append(Turn(kind, text, response))


@dataclass(frozen=True)
class _Call:
    id: str | None
    call: ActionCall
    place: str


def read_conversation(document: JSON, tools: JSON = None) -> Sample:
    """Turn one conversation into a checked sample; raise :class:`SampleError`.

    ``tools`` is used where the conversation brings none of its own.
    """
    if not isinstance(document, dict):
        raise SampleError("conversation", "an object", describe(document))
    check_text_values(document)
    if KEPT in document:
        raise SampleError(KEPT, "another name", "a key that Concord uses itself")
    messages = document.get("messages")
    if not isinstance(messages, list):
        raise SampleError("messages", "a list of messages", describe(messages))
    own_tools = document.get("tools")
    actions = read_tools(tools if own_tools is None else own_tools)

    rest = _skip_system(messages)
    contexts = _contexts(messages[:rest], actions)
    said = _Said()
    index = rest
    while index < len(messages):
        index = _read_message(messages, index, said)
    if not said.turns:
        raise SampleError("messages", "a message of the assistant", "none")

    kept: dict[str, JSON] = {}
    if said.calls:
        kept["calls"] = said.calls
    if said.joined:
        kept["joined"] = said.joined
    unanswered: list[JSON] = [{"kind": "user", "text": text} for text in said.waiting]
    if said.observation is not None:
        unanswered.insert(0, {"kind": "observation", "text": said.observation})
    if unanswered:
        kept["unanswered"] = unanswered
    meta = {key: value for key, value in document.items() if key not in RESERVED}
    if kept:
        meta[KEPT] = kept
    turns: list[JSON] = [turn.to_json() for turn in said.turns]
    sample: dict[str, JSON] = {
        "contexts": [context.to_json() for context in contexts],
        "turns": turns,
        "meta": meta,
    }
    for key in SAMPLE_FIELDS:
        if key in document:
            sample[key] = document[key]
    number = document.get("id")
    if number is None:
        number = "chat-" + content_hash(sample)[:24]
    elif isinstance(number, int) and not isinstance(number, bool):
        number = str(number)
    sample["id"] = check_id(number)
    return check_sample(sample)


def read_tools(tools: JSON) -> list[JSON]:
    """Turn OpenAI tools (a list, or ``{"tools": […]}``) into action definitions."""
    if isinstance(tools, dict) and "tools" in tools:
        tools = tools["tools"]
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise SampleError("tools", "a list of tools", describe(tools))
    try:
        return [
            from_openai(tool, f"tools[{index}]").to_json()
            for index, tool in enumerate(tools)
        ]
    except DefinitionError as error:
        raise SampleError(error.place, error.expected, error.found) from None


def _message(value: JSON, place: str) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise SampleError(place, "an object", describe(value))
    return value


def _skip_system(messages: list[JSON]) -> int:
    count = 0
    for index, value in enumerate(messages):
        if _message(value, f"messages[{index}]").get("role") in ("system", "developer"):
            count += 1
        else:
            break
    return count


def _contexts(systems: list[JSON], actions: list[JSON]) -> list[Context]:
    contexts: list[Context] = []
    for index, value in enumerate(systems):
        place = f"messages[{index}]"
        message = _message(value, place)
        _only(message, ("content",), place)
        text = _content(message, place)
        if not text:
            continue
        first = text.strip().split("\n", 1)[0].strip("# \t\r") or "System prompt"
        contexts.append(
            Context("global", first[:200], "", text, [] if contexts else actions)
        )
    if not contexts and actions:
        contexts.append(Context("global", "Actions", "", "", actions))
    return contexts


def _only(message: dict[str, JSON], allowed: tuple[str, ...], place: str) -> None:
    for key, value in message.items():
        empty = value is None or value in ([], {})
        if key not in ("role", *allowed) and not empty:
            expected = "no field but role, " + ", ".join(allowed)
            raise SampleError(f"{place}.{key}", expected, describe(value))


def _content(message: dict[str, JSON], place: str) -> str:
    """Return the text of a message; parts of type text are put together."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise SampleError(f"{place}.content", "text", describe(content))
    texts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) else None
        if (
            not isinstance(part, dict)
            or part.get("type") != "text"
            or not isinstance(text, str)
        ):
            raise SampleError(
                f"{place}.content[{index}]", "a part of type text", describe(part)
            )
        texts.append(text)
    return "".join(texts)


def _read_message(messages: list[JSON], index: int, said: _Said) -> int:
    """Read the message at ``index`` (and its tools' results); return the next index."""
    place = f"messages[{index}]"
    message = _message(messages[index], place)
    role = message.get("role")
    if role == "user":
        _only(message, ("content",), place)
        text = _content(message, place)
        if not text:
            raise SampleError(f"{place}.content", "text", "nothing")
        refuse_tags(text, f"{place}.content")
        if said.observation is not None:
            said.stray = said.stray or place
        said.waiting.append(text)
        return index + 1
    if role == "assistant":
        _only(message, ("content", "tool_calls", "reasoning_content"), place)
        text = _content(message, place)
        refuse_tags(text, f"{place}.content")
        reasoning = message.get("reasoning_content")
        if reasoning is not None and not isinstance(reasoning, str):
            raise SampleError(f"{place}.reasoning_content", "text", describe(reasoning))
        refuse_tags(reasoning or "", f"{place}.reasoning_content")
        if message.get("tool_calls"):
            if reasoning and text:
                raise SampleError(
                    f"{place}.reasoning_content",
                    "only one of content and reasoning_content beside tool_calls",
                    "both",
                )
            calls = _calls(message["tool_calls"], place)
            return _read_calls(messages, index + 1, calls, reasoning or text, said)
        if not text.strip():
            raise SampleError(f"{place}.content", "text or tool_calls", "nothing")
        if said.observation is not None:
            said.respond(reasoning or "", THINK_CLOSE + text)
        elif reasoning is not None:
            said.respond(reasoning, THINK_CLOSE + text)
        else:
            said.respond(None, text)
        return index + 1
    if role == "tool":
        raise SampleError(
            place, "a tool message only after the tool_calls it answers", "another"
        )
    if role in ("system", "developer"):
        raise SampleError(f"{place}.role", "system messages first", describe(role))
    raise SampleError(
        f"{place}.role", "one of system, user, assistant, tool", describe(role)
    )


def _calls(value: JSON, place: str) -> list[_Call]:
    if not isinstance(value, list):
        raise SampleError(f"{place}.tool_calls", "a list", describe(value))
    calls = []
    ids = set()
    for index, item in enumerate(value):
        within = f"{place}.tool_calls[{index}]"
        call = _message(item, within)
        number = call.get("id")
        if number is not None and not isinstance(number, str):
            raise SampleError(f"{within}.id", "text", describe(number))
        if number in ids and number is not None:
            raise SampleError(f"{within}.id", "each id once", describe(number))
        ids.add(number)
        if call.get("type", "function") != "function":
            raise SampleError(f"{within}.type", '"function"', describe(call["type"]))
        function = _message(call.get("function"), f"{within}.function")
        name = function.get("name")
        if not isinstance(name, str) or not name.strip():
            raise SampleError(f"{within}.function.name", "a name", describe(name))
        arguments = function.get("arguments")
        place_of_arguments = f"{within}.function.arguments"
        if isinstance(arguments, str) and arguments.strip():
            try:
                arguments = load_json(arguments)
            except JSONError as error:
                raise SampleError(
                    place_of_arguments,
                    error.expected,
                    error.found,
                    f"character {error.position}",
                ) from None
        elif not arguments:
            arguments = {}
        if not isinstance(arguments, dict):
            raise SampleError(place_of_arguments, "a JSON object", describe(arguments))
        check_text_values(arguments, place_of_arguments)
        calls.append(_Call(number, ActionCall.make(name, arguments), within))
    return calls


def _read_calls(
    messages: list[JSON], index: int, calls: list[_Call], thinking: str, said: _Said
) -> int:
    """Make one turn of each call, each with its own result; return the next index."""
    results: dict[int, str] = {}
    while index < len(messages):
        place = f"messages[{index}]"
        message = _message(messages[index], place)
        if message.get("role") != "tool":
            break
        _only(message, ("content", "tool_call_id", "name"), place)
        number = message.get("tool_call_id")
        positions = [
            position
            for position, call in enumerate(calls)
            if call.id == number and position not in results
        ]
        if not positions:
            raise SampleError(
                f"{place}.tool_call_id",
                "the id of a call without result in the message before",
                describe(number),
            )
        called = calls[positions[0]].call.name
        name = message.get("name")
        if name is not None and name != called:
            raise SampleError(f"{place}.name", f'"{called}"', describe(name))
        text = _content(message, place)
        refuse_tags(text, f"{place}.content")
        results[positions[0]] = text
        index += 1
    for position, call in enumerate(calls):
        # The conversation may break off while a call runs, but only the last one's
        # result can be missing: without it nothing could follow.
        last = index == len(messages) and position == len(calls) - 1
        if position not in results and not last:
            raise SampleError(call.place, "a tool message with its result", "none")
        ending = ACTION_OPEN + call.call.source + ACTION_CLOSE
        said.respond("" if position else thinking, ending)
        said.observation = results.get(position)
    said.calls.append([call.id for call in calls])
    return index


def write_conversation(sample: Sample) -> dict[str, JSON]:
    """Return the conversation of a sample; undoes :func:`read_conversation`."""
    kept = sample.meta.get(KEPT)
    kept = kept if isinstance(kept, dict) else {}
    conversation: dict[str, JSON] = {"id": sample.id}
    if sample.scenario:
        conversation["scenario"] = sample.scenario
    if sample.situation != "normal":
        conversation["situation"] = sample.situation
    if sample.split:
        conversation["split"] = sample.split
    conversation |= {k: v for k, v in sample.meta.items() if k not in RESERVED}
    conversation["messages"] = list(_messages(sample, kept))
    tools = _tools(sample)
    if tools:
        conversation["tools"] = tools
    return conversation


def _messages(sample: Sample, kept: dict[str, JSON]) -> list[JSON]:
    messages: list[JSON] = []
    for context in sample.contexts:
        parts = [part for part in (context.background, context.guideline) if part]
        if context.scope == "global" and parts:
            messages.append({"role": "system", "content": JOINT.join(parts)})

    calls = iter(_message_calls(sample, kept.get("calls")))
    tool_calls: list[JSON] = []
    results: list[JSON] = []
    called = ("", "")
    for position, turn in enumerate(sample.turns):
        response = parse(turn.response, inside_thinking=turn.kind == "observation")
        thinking = response.thinking_text
        if turn.kind == "observation":
            results.append(_result(called, turn.text))
        number, joins_the_last = "", False
        if response.ends_with_action:
            number, joins_the_last = next(calls)
            called = (number, response.actions[-1].name)
        if joins_the_last:
            tool_calls.append(_tool_call(number, response.actions[-1]))
            continue
        messages += results
        results = []
        if turn.kind == "user":
            messages += _user_messages(turn.text, kept.get("joined"), position)
        message: dict[str, JSON] = {"role": "assistant"}
        if response.ends_with_action:
            tool_calls = [_tool_call(number, response.actions[-1])]
            message |= {"content": thinking or None, "tool_calls": tool_calls}
        else:
            message["content"] = response.answer
            if response.opens or thinking:
                message["reasoning_content"] = thinking
        messages.append(message)
    messages += results
    unanswered = kept.get("unanswered")
    for item in unanswered if isinstance(unanswered, list) else []:
        if isinstance(item, dict) and isinstance(item.get("text"), str):
            text = str(item["text"])
            observed = item.get("kind") == "observation"
            messages.append(
                _result(called, text) if observed else {"role": "user", "content": text}
            )
    return messages


def _message_calls(sample: Sample, kept: JSON) -> list[tuple[str, bool]]:
    """Return each call's id and whether it belongs to the message of the call before.

    Where what was kept no longer fits the turns (somebody edited them), ids are made up
    and each call gets a message of its own.
    """
    positions = [
        position
        for position, turn in enumerate(sample.turns)
        if turn.response.endswith(ACTION_CLOSE)
    ]
    groups = (
        [group for group in kept if isinstance(group, list)]
        if isinstance(kept, list)
        else []
    )
    flat = [
        (number, index > 0) for group in groups for index, number in enumerate(group)
    ]
    if len(flat) != len(positions):
        flat = [(None, False)] * len(positions)
    calls = []
    for count, (position, (number, joins)) in enumerate(
        zip(positions, flat, strict=True), start=1
    ):
        turn = sample.turns[position]
        can_join = turn.kind == "observation" and turn.response.startswith(ACTION_OPEN)
        named = number if isinstance(number, str) else f"call_{count}"
        calls.append((named, joins and can_join))
    return calls


def _tool_call(number: str, call: ActionCall) -> JSON:
    arguments = dump_json(dict(call.parameters))
    return {
        "id": number,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _result(called: tuple[str, str], text: str) -> JSON:
    number, name = called
    return {"role": "tool", "tool_call_id": number, "name": name, "content": text}


def _user_messages(text: str, joined: JSON, position: int) -> list[JSON]:
    """Return the user's messages before a turn: none where nothing was said."""
    pieces = joined.get(str(position)) if isinstance(joined, dict) else None
    texts = (
        [piece for piece in pieces if isinstance(piece, str)]
        if isinstance(pieces, list)
        else []
    )
    if JOINT.join(texts) != text:
        texts = [text]
    return [{"role": "user", "content": piece} for piece in texts if piece]


def _tools(sample: Sample) -> list[JSON]:
    """Return the actions of all contexts and the built-in actions that are called."""
    definitions: dict[str, ActionDefinition] = {}
    for context in sample.contexts:
        for action in context.actions:
            definition = parse_definition(action)
            definitions.setdefault(definition.name, definition)
    called = {
        call.name
        for turn in sample.turns
        for call in parse(
            turn.response, inside_thinking=turn.kind == "observation"
        ).actions
    }
    for definition in BUILT_IN_ACTIONS:
        if definition.name in called:
            definitions.setdefault(definition.name, definition)
    return [to_openai(definition) for definition in definitions.values()]
