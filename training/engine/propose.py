"""Propose the next response of a conversation that a person is writing.

    python -m training.engine.propose CHECKPOINT < request.json > answer.json

The request is ``{"document": a Concord JSONL sample, "settings": {…}}``. The sample's
last turn has an input and an empty response; the turns before it are the history as the
person wrote it. The answer is ``{"text", "format_error", "seconds"}``, the error empty
where the text keeps to the grammar. When there is no answer, the last line on stderr
says why and the exit status is 1. No run directory: an answer takes seconds, and nothing
is trained.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TextIO

from actions.tags import JSON
from records.reading import RecordError
from records.recipes.groups import Compute
from records.responses import ProposalRequest, ProposedResponse
from training.engine.data.conversations import Encoder, sample_from_json
from training.engine.modeling.loading import load_policy
from training.engine.modeling.policies import prepare
from training.engine.run.errors import RunError
from training.engine.run.leash import close_stdin
from training.engine.sampling.answers import Prompt, answer, longest_prompt
from training.engine.sampling.sampler import Sampling


@dataclass(frozen=True)
class ProposeSettings(Compute):
    """How to answer; temperature 0 takes the likeliest token, ``device`` "" a GPU if any."""

    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 512
    max_prompt_tokens: int = 16384
    seed: int = 0
    device: str = ""


class ProposeError(Exception):
    """The request cannot be answered; the text says why."""


def propose(checkpoint: str, obj: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return one response to the last turn of the request's document, as JSON."""
    started = time.perf_counter()
    try:
        request = ProposalRequest.from_json(obj)
    except RecordError as error:
        raise ProposeError(str(error)) from error
    settings = _settings(request.settings)
    try:
        sample = sample_from_json(request.document)
    except RecordError as error:
        raise ProposeError(f"request: `document`: {error}") from error
    place = prepare(settings, settings.device)
    model, tokenizer = load_policy(checkpoint, place)
    encoder = Encoder(tokenizer)
    last = len(sample.turns) - 1
    prompt = encoder.encode(sample).prompt(last)
    longest = longest_prompt(model, settings.max_prompt_tokens, settings.max_new_tokens)
    if len(prompt) > longest:
        raise ProposeError(
            f"The conversation is {len(prompt)} tokens long; this policy reads "
            f"{longest} at most."
        )
    assert isinstance(tokenizer.pad_token_id, int)
    sampling = Sampling(
        settings.temperature,
        settings.top_p,
        settings.max_new_tokens,
        encoder.frame.stop_ids,
        tokenizer.pad_token_id,
    )
    turn = Prompt(sample, last, prompt)
    ((given,),) = answer(
        model, tokenizer, [turn], sampling, place=place, seed=settings.seed
    )
    response = ProposedResponse(
        text=given.text,
        format_error=str(given.format_error) if given.format_error else "",
        seconds=round(time.perf_counter() - started, 3),
    )
    return response.to_json()


def _settings(given: Mapping[str, JSON]) -> ProposeSettings:
    known = {field.name for field in fields(ProposeSettings)}
    if not known.issuperset(given):
        raise ProposeError(f"request: expected settings among {', '.join(known)}")
    return ProposeSettings(**given)  # type: ignore[arg-type]  # its own program asks


def main(arguments: list[str], source: TextIO, target: TextIO) -> int:
    """Answer the request on ``source``; return the exit status."""
    if len(arguments) != 1:
        sys.stderr.write(__doc__ or "")
        return 2
    try:
        request = json.load(source)
        if not isinstance(request, dict):
            raise ProposeError("request: expected an object")
        json.dump(propose(arguments[0], request), target, ensure_ascii=False)
    except (ProposeError, RunError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    asked = io.StringIO(sys.stdin.read())
    close_stdin()
    sys.exit(main(sys.argv[1:], asked, sys.stdout))
