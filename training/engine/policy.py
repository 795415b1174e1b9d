"""Improve the policy against a reward model: ``python -m training.engine.policy RUN_DIR``.

Group relative policy optimization (GRPO, Shao et al. 2024) and its kin. For each prompt (a
turn with its history) G responses are sampled; each gets a reward

    r = format_weight × [the response is well formed] + consistency
        (or, by kind of task, [right by the rule], or the score of a preference model:
        ``rl/rewards.py``)

and an advantage A: how much better it is than the others. With ρ = π/π_old of a token,

    loss = mean over tokens of  −min(ρ A, clip(ρ, 1 − ε, 1 + ε_high) A) + β KL(π ‖ π_ref)

(Schulman et al. 2017, equation 7: ``rl/loss.py``). Baseline and scale of the advantage,
the mean, and the place of the KL are those of ``algorithm`` (``rl/advantages.py``: GRPO,
Dr. GRPO, DAPO, REINFORCE++, RLOO; PPO with a learned critic, ``rl/critic.py``).

Consistency is what the reward model (RM) says of (label response, sampled response), or
with ``consistency_source`` "oracle" the demo's truth, the upper bound of any RM, or with
"alignment" a rule without learning, its rival. Where the algorithm drops zero-variance
groups, more are drawn than needed: groups whose rewards are (nearly) equal teach nothing
or, scaled up, only noise. With ``whole_tasks`` the policy goes on through a simulated
environment; what others say is masked from the loss.

A policy finds the faults of its RM. Three things stand against that: the run does not
start unless the RM passed its gate; at every validation on a fixed held-out set the RM's
score and the truth are reported side by side, and when they part the run stops itself; and
the final checkpoint is the one of the best held-out truth, the start included, so what is
promoted was never worse there than what was.

Everything random depends on the seed and the step only, so a resumed run repeats an
uninterrupted one from weights, optimizer moments and the step number.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from transformers import PreTrainedModel

from records.recipes import PolicyRecipe
from training.engine.data.conversations import Encoder, read_samples
from training.engine.modeling.learner import load_learner
from training.engine.modeling.loading import load_policy
from training.engine.modeling.lora import merged
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.optim import (
    muon_and_adamw,
    update,
    warmup_stable_decay,
)
from training.engine.modeling.place import Place, accelerator_for, prepare
from training.engine.modeling.policies import save_policy
from training.engine.modeling.shared_prompt import ROWS_OF_THEIR_OWN, sharing
from training.engine.modeling.trainer_state import (
    resume_trainer,
    resumed_progress,
    save_trainer_state,
    seed_step,
)
from training.engine.reward_model.metrics import GateError, Look, gate_misses, parted
from training.engine.reward_model.model import load_reward_models
from training.engine.reward_model.preference import PreferenceModel
from training.engine.rl.advantages import algorithm_of
from training.engine.rl.batch import Batch, collate
from training.engine.rl.critic import load_critic
from training.engine.rl.rewards import KINDS, Rewards
from training.engine.rl.rollouts import Group, Rollouts
from training.engine.rl.update import (
    TokenLogProbs,
    accumulate_policy_gradient,
    with_advantages,
    with_logprobs,
)
from training.engine.rl.validation import (
    HeldOut,
    Validation,
    best_checkpoint,
    kept_validations,
)
from training.engine.run.directory import Ending, RunDirectory, RunError, run_program
from training.engine.run.distributed import (
    all_reduce_max,
    own_part,
    per_rank_share,
    process_rank,
    world_size,
)
from training.engine.sampling.answers import (
    Prompt,
    build_prompts,
    count_unreadable,
    longest_prompt,
)
from training.engine.sampling.backends import check_backend, vllm_engine
from training.engine.sampling.decoding import WITHOUT_CACHE, caching
from training.engine.sampling.sampler import Sampling, room

PHASES = tuple(
    f"seconds/{phase}"
    for phase in ("generation", "scoring", "reference", "update", "evaluation")
)
SHOWN_EVERY = 4  # steps between sampled texts on the run's page
# How far the truth may fall while the reward model's score rises, and for how many
# validations in a row, before the run stops itself.
ALARM_TOLERANCE, ALARM_EVALUATIONS = 0.02, 2


def main(run: RunDirectory, recipe: PolicyRecipe) -> Ending:
    """Train on ``run``; announce the best checkpoint by held-out truth as final."""
    started = time.monotonic()
    place = prepare(recipe)
    check_settings(recipe)
    check_backend(recipe.backend)
    gate = check_gate(run, recipe)
    algorithm = algorithm_of(recipe)

    # Load: the policy that learns, what scores its answers, the turns to answer.
    learner = load_learner(run, recipe, run.need_input("policy"), place)
    tokenizer = learner.tokenizer
    policy = cast(PreTrainedModel, learner.module)  # with its adapters, under LoRA
    encoder = Encoder(tokenizer)
    longest = longest_prompt(
        learner.model, recipe.max_prompt_tokens, recipe.max_new_tokens
    )
    for measure, instead in ((sharing, ROWS_OF_THEIR_OWN), (caching, WITHOUT_CACHE)):
        measure(learner.model, longest + recipe.max_new_tokens).tell(run.log, instead)
    rewards = load_rewards(run, recipe, place)
    prompts = load_prompts(run, recipe, encoder, longest, rewards)

    # Build: what samples, what validates, the reference, critic and optimizer.
    accelerator = accelerator_for(place)
    rows = len(own_part(range(recipe.prompts_per_step))) * recipe.num_generations
    micro_batch = MicroBatch(
        min(recipe.micro_batch or rows, rows), run.log, "responses"
    )
    if recipe.gradient_checkpointing:
        enable = learner.model.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    greedy = Sampling(
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=recipe.max_new_tokens,
        stop_ids=encoder.frame.stop_ids,
        pad_id=learner.pad_id,
        parts=room(place, run.log),
    )
    sampling = replace(greedy, temperature=recipe.temperature)
    if recipe.backend == "vllm":
        engine = vllm_engine(
            policy,
            tokenizer,
            accelerator,
            sampling,
            server=recipe.vllm_server,
            sequences=rows,
        )
        sampling = replace(sampling, engine=engine)
    rollouts = Rollouts(recipe, prompts, encoder, sampling, place, rewards)
    held_out = HeldOut(
        run,
        encoder,
        greedy,
        place,
        rewards,
        longest=longest,
        count=recipe.held_out_samples,
    )
    if not held_out.has_truth:
        run.log(
            "no held-out turn has facts: only the reward model's score is watched, no "
            "truth; the alarm cannot ring and the last checkpoint is the final one",
            "warning",
        )
    logprobs = TokenLogProbs(policy, recipe.temperature, place)
    reference = load_reference(run, recipe, logprobs)
    critic = None
    if algorithm.baseline == "critic":
        critic = load_critic(run, recipe, tokenizer, place, micro_batch)
    optimizer = muon_and_adamw(
        policy.named_parameters(),
        muon_rate=recipe.muon_learning_rate,
        adamw_rate=recipe.learning_rate,
        weight_decay=0.0,
        muon=bool(recipe.muon_learning_rate) and recipe.method == "full",
    )
    first, progress = resumed_progress(run)
    resume_trainer(run, policy, optimizer)
    validations = kept_validations(progress)
    schedule = warmup_stable_decay(
        optimizer,
        first=first,
        steps=recipe.steps,
        warmup=recipe.warmup_steps,
        decay_fraction=recipe.decay_fraction,
    )
    # DDP exchanges gradients after a forward pass of what it wraps.
    trained = logprobs if world_size() == 1 else accelerator.prepare_model(logprobs)
    trainable = [p for p in policy.parameters() if p.requires_grad]

    def write(step: int, folder: Path) -> None:
        save_policy(merged(policy), tokenizer, folder)
        rows = [asdict(each) for each in validations]
        save_trainer_state(folder, policy, optimizer, step, validations=rows)
        if critic is not None:
            critic.save(folder / "trainer")

    def save(step: int, final: bool = False) -> None:
        measured = {each.step: each for each in validations}[step]
        run.save_checkpoint(
            step,
            functools.partial(write, step),
            kind="policy",
            recipe=recipe,
            metrics={"rm_score": measured.rm_score, "truth": measured.truth},
            final=final,
        )

    if first:
        run.rehearse_checkpoint(functools.partial(write, first))
    else:
        validations.append(held_out.validate(policy, 0))
        save(0)

    # Loop.
    step, alarm, stopping = first, "", False
    seconds = dict.fromkeys(PHASES, 0.0)
    while step < recipe.steps and not (stopping or alarm):
        # Sample groups of responses, and score them.
        policy.train()
        seed_step(recipe.seed, step, process_rank())
        draw = rollouts.draw(policy, recipe.prompts_per_step, step)
        batch = collate(own_part(draw.episodes), learner.pad_id, place.device)
        metrics = dict(draw.metrics)
        # Log-probabilities under the reference, and under π_old where that is not π.
        with timed(metrics, "seconds/reference"):
            batch = with_logprobs(
                batch,
                logprobs,
                reference,
                micro_batch,
                old=recipe.num_iterations > 1,
                sampled_elsewhere=sampling.engine is not None,
            )
        # Advantages.
        batch = with_advantages(
            batch, draw, rollouts, critic, accelerator, step + 1, metrics
        )

        drawn_at = step
        for _ in range(min(recipe.num_iterations, recipe.steps - step)):
            # Update.
            with timed(metrics, "seconds/update"):
                metrics |= accumulate_policy_gradient(
                    accelerator, trained, batch, micro_batch, recipe
                )
                metrics |= update(
                    optimizer,
                    schedule,
                    trainable,
                    loss=metrics["loss"],
                    max_grad_norm=recipe.max_grad_norm,
                    step=step + 1,
                    clip=accelerator.clip_grad_norm_,
                )
            step += 1
            run.metrics(step, metrics)
            run.progress(step, recipe.steps)
            for phase in metrics.keys() & {*PHASES, "seconds/critic"}:
                seconds[phase] = seconds.get(phase, 0.0) + metrics[phase]
            if step % SHOWN_EVERY == 0:
                show(run, step, draw.groups[0], rollouts, batch)
            metrics = {}

        # Validate, save. A stop waits for the end of a draw, which no checkpoint holds.
        stopping = all_reduce_max(run.stop_requested, place.device)
        is_due = step // recipe.evaluate_every > drawn_at // recipe.evaluate_every
        if is_due or step >= recipe.steps or stopping:
            with timed(metrics, "seconds/evaluation"):
                validations.append(held_out.validate(policy, step))
                save(step)
            seconds["seconds/evaluation"] += metrics["seconds/evaluation"]
            alarm = alarm_of(validations)
            if alarm:
                run.log(alarm, "error")

    values: dict[str, object] = {
        "steps": step,
        "seconds": round(time.monotonic() - started, 1),
        "gate": gate,
        "held_out_samples": held_out.samples,
        **{phase: round(total, 1) for phase, total in seconds.items()},
    }
    if step < recipe.steps and not alarm:
        return Ending("stopped", values)  # by a person: to be resumed, nothing final
    kept = functools.partial(run.has_checkpoint, recipe=recipe)
    chosen, why = best_checkpoint(validations, held_out, kept)
    values |= why
    save(chosen.step, final=True)
    if alarm:
        return Ending("stopped", values | {"alarm": alarm})
    return Ending("finished", values)


# What comes in


def load_rewards(run: RunDirectory, recipe: PolicyRecipe, place: Place) -> Rewards:
    """Return what scores answers: reward models, and a preference model if there is one."""
    # On a CPU bf16 products of small models are slower, not faster.
    half = place.half and place.device.type == "cuda"
    reward_model = load_reward_models(run.inputs, place.device, half)
    preference = None
    if "preference" in run.inputs:
        preference = PreferenceModel(run.inputs["preference"], place)
    return Rewards(recipe, reward_model, preference)


def load_prompts(
    run: RunDirectory,
    recipe: PolicyRecipe,
    encoder: Encoder,
    longest: int,
    rewards: Rewards,
) -> list[Prompt]:
    """Return the turns of ``data.train`` that can be answered and scored.

    Raises ``RunError`` where there is none.
    """
    samples = read_samples(run.need_data("train"))
    prompts, left_out = build_prompts(encoder, samples, longest)
    if recipe.consistency_source == "oracle":
        prompts = [
            prompt
            for prompt in prompts
            if prompt.sample.task != "action"
            or prompt.sample.turns[prompt.turn].has_facts
        ]
    if recipe.whole_tasks:
        prompts = [p for p in prompts if p.turn == 0 and p.sample.task == "action"]
    if not prompts:
        raise RunError("data.train", "turns to answer", "none that can be asked")
    run.log(
        f"{len(prompts)} turns to answer; {len(left_out)} left out, their prompts being "
        f"longer than {longest} tokens",
        "warning" if left_out else "info",
    )
    if rewards.model is not None and (unreadable := count_unreadable(prompts)):
        run.log(
            f"{unreadable} of them have a label response that breaks the response "
            "grammar: their answers get no consistency reward",
            "warning",
        )
    return prompts


def load_reference(
    run: RunDirectory, recipe: PolicyRecipe, policy: TokenLogProbs
) -> TokenLogProbs | None:
    """Return what computes log-probabilities of the initial policy; None without a KL.

    Under full training that is a second model, ``inputs.initial`` (else
    ``inputs.policy``). Under LoRA it is the model with its adapters off: the policy that
    this run started from.
    """
    if algorithm_of(recipe).kl == "none":
        return None
    initial = run.inputs.get("initial", run.inputs["policy"])
    if recipe.method == "full":
        model, _ = load_policy(initial, policy.place)
        model.train(False).requires_grad_(False)
        return TokenLogProbs(model, policy.temperature, policy.place)
    if initial != run.inputs["policy"]:
        run.log("LoRA: the KL is from the policy that this run starts from")
    return TokenLogProbs(
        policy.model, policy.temperature, policy.place, adapters_off=True
    )


def check_settings(recipe: PolicyRecipe) -> None:
    """Raise ``RunError`` for settings that do not go together."""
    per_rank_share("prompts_per_step", recipe.prompts_per_step)
    if world_size() > 1 and recipe.algorithm == "ppo":
        raise RunError("recipe: `algorithm`", "one process with ppo", "several")
    if world_size() > 1 and recipe.backend == "vllm" and recipe.vllm_server:
        expected = "none with several processes"
        raise RunError("recipe: `vllm_server`", expected, repr(recipe.vllm_server))
    if recipe.evaluate_every % recipe.num_iterations:
        raise RunError(
            "recipe: `evaluate_every`",
            f"a multiple of num_iterations = {recipe.num_iterations}",
            str(recipe.evaluate_every),
        )


def check_gate(run: RunDirectory, recipe: PolicyRecipe) -> dict[str, object]:
    """Return what the gate said, for the run's record; raise ``GateError`` if closed.

    Another source of the reward needs no reward model and no gate.
    """
    if recipe.consistency_source != "reward model":
        why = f"the reward comes from the {recipe.consistency_source}"
        return {"passed": None, "why": why}
    run.need_input("reward")
    misses: list[str] = []
    for name in run.inputs:
        if name != "reward" and not name.startswith("reward-"):
            continue
        manifest = run.manifest(name)
        missed = gate_misses(
            manifest.metrics if manifest else {},
            balanced_order=recipe.gate_balanced_order,
            bad_caught=recipe.gate_bad_recall,
        )
        misses += missed if name == "reward" else [f"{name}: {why}" for why in missed]
    if not misses:
        return {"passed": True}
    if not recipe.gate_override.strip():
        raise GateError(misses)
    run.log(f"{GateError(misses)}; overridden: {recipe.gate_override}", "warning")
    return {"passed": False, "misses": misses, "override": recipe.gate_override}


# What goes out


def alarm_of(validations: Sequence[Validation]) -> str:
    """Return why the run must stop, score and truth having parted; else empty."""
    known = [
        Look(each.step, each.rm_score, each.truth)
        for each in validations
        if each.rm_score is not None and each.truth is not None
    ]
    reason = parted(known, tolerance=ALARM_TOLERANCE, evaluations=ALARM_EVALUATIONS)
    return reason or ""


def show(
    run: RunDirectory, step: int, group: Group, rollouts: Rollouts, batch: Batch
) -> None:
    """Show the best and the worst response of the first group with their rewards."""
    assert batch.advantages is not None
    advantages = batch.advantages.mean(1).tolist()
    rewards = [rollouts.reward(episode) for episode in group]
    ranked = sorted(range(len(group)), key=lambda i: -rewards[i])
    for i in (ranked[0], ranked[-1]):
        response = group[i].answers[0]
        turn = response.sample.turns[response.turn]
        earned = {kind: group[i].earned(kind) for kind in KINDS}
        run.sample(
            step,
            prompt=turn.text,
            text=response.text,
            label=turn.response,
            scores={
                **{kind: value for kind, value in earned.items() if value is not None},
                "advantage": advantages[i],
            },
        )


@contextmanager
def timed(metrics: dict[str, float], name: str) -> Iterator[None]:
    """Report the seconds that are spent within."""
    started = time.monotonic()
    yield
    metrics[name] = time.monotonic() - started


if __name__ == "__main__":
    sys.exit(run_program("policy", PolicyRecipe, main))
