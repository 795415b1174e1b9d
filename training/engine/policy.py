"""Improve the policy against a reward model: ``python -m training.engine.policy RUN_DIR``.

Group relative policy optimisation (GRPO, Shao et al. 2024) and its kin, run by
``trl.GRPOTrainer``: for each prompt (a turn with its history) G responses are sampled,
each gets a reward

    r = format_weight × [the response is well formed] + consistency
        (or, by kind of task, [right by the rule], or the score of a preference model:
        ``rewards``)

and an advantage: how much better it is than the others. The policy's tokens are pushed
along their advantages, clipped as in PPO, and held near the initial policy. Baseline,
scale, averaging of the loss and place of the divergence are those of ``algorithm``
(``algorithms``: GRPO, Dr. GRPO, DAPO, REINFORCE++, RLOO; PPO with a learned ``critic``). Consistency is what the reward model (RM) says of
(label response, sampled response), or with ``consistency_source`` "oracle" the demo's
truth, the upper bound of any RM, or with "alignment" a rule without learning, its rival.

What is ours is the rollout: which turns are answered, how, and which groups are kept.
More groups are drawn than needed and those whose rewards are (nearly) equal are dropped
first: they would teach nothing, or, once their tiny spread is scaled up, only noise. With
``whole_tasks`` a response goes on after the observation of its action call; observation
tokens are masked from the loss (``env_mask``).

A policy finds the faults of its RM. Three things stand against that: the run does not
start unless the RM passed its gate; at every look at a fixed held-out set the RM's score
and the truth are reported side by side, and when they part the run stops itself; and the
final checkpoint is the one of the best held-out truth, the start included, so what is
promoted was never worse there than what was.

Everything random depends on the seed and the step only, so a resumed run repeats an
uninterrupted one from weights, optimiser moments and the step number.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from records.recipes import PolicyRecipe
from training.engine.data.conversations import Encoder, read_samples
from training.engine.modeling.configs import restore
from training.engine.modeling.finite_weights import guard_steps
from training.engine.modeling.loading import load_policy
from training.engine.modeling.lora import adapters, load_adapters, merged, save_adapters
from training.engine.modeling.micro_batch import Parts
from training.engine.modeling.optim import (
    adamw_rate,
    load_optimizer,
    muon_and_adamw,
    save_optimizer,
    warmup_stable_decay,
)
from training.engine.modeling.policies import Place, prepare, save_policy
from training.engine.modeling.shared_prompt import ROWS_OF_THEIR_OWN, sharing
from training.engine.reward_model.metrics import GateError, Look, gate_misses, parted
from training.engine.reward_model.model import load_reward_models
from training.engine.reward_model.preference import PreferenceModel
from training.engine.rl.advantages import TRL_LOSS, algorithm_of
from training.engine.rl.critic import load_critic
from training.engine.rl.rewards import KINDS, Rewards
from training.engine.rl.rollouts import Rollouts
from training.engine.rl.trainer import SharedPromptTrainer, given_reward
from training.engine.rl.validation import (
    HeldOut,
    Looked,
    best,
    load_progress,
    save_progress,
)
from training.engine.run.directory import Ending, RunDirectory, RunError, run_program
from training.engine.run.distributed import any_process, process_count, share_of_step
from training.engine.sampling.answers import (
    build_prompts,
    count_unreadable,
    longest_prompt,
)
from training.engine.sampling.backends import check_backend
from training.engine.sampling.decoding import WITHOUT_CACHE, caching
from training.engine.sampling.sampler import Sampling, room

SHOWN_EVERY, SHOWN = 4, 2  # steps between sampled texts on the run's page; how many
VLLM_MEMORY = 0.3  # share of the GPU's memory that vLLM may take beside the trainer
# How far the truth may fall while the reward model's score rises, and for how many tests
# in a row, before the run stops itself.
ALARM_TOLERANCE, ALARM_EVALUATIONS = 0.02, 2


# The program


def main(run: RunDirectory, recipe: PolicyRecipe) -> Ending:
    """Train on ``run``; announce the best checkpoint by held-out truth as final."""
    started = time.monotonic()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func is marked experimental
    place = prepare(recipe)
    check_settings(recipe)
    check_backend(recipe.backend)
    gate = check_gate(run, recipe)
    # On a CPU bf16 products of small models are slower, not faster.
    half = place.half and place.device.type == "cuda"
    reward_model = load_reward_models(run.inputs, place.device, half)

    # The policy, and what it answers.
    start = run.need_input("policy")
    full = recipe.method == "full"
    model, tokenizer = load_policy(run.resume if run.resume and full else start, place)
    encoder = Encoder(tokenizer)
    model.generation_config.eos_token_id = list(encoder.frame.stop_ids)
    longest = longest_prompt(model, recipe.max_prompt_tokens, recipe.max_new_tokens)
    for measure, instead in ((sharing, ROWS_OF_THEIR_OWN), (caching, WITHOUT_CACHE)):
        measure(model, longest + recipe.max_new_tokens).tell(run.log, instead)
    samples = read_samples(run.need_data("train"))
    prompts, left_out = build_prompts(encoder, samples, longest)
    preference = None
    if "preference" in run.inputs:
        preference = PreferenceModel(run.inputs["preference"], place)
    rewards = Rewards(recipe, reward_model, preference)
    if recipe.consistency_source == "oracle":
        prompts = [
            a
            for a in prompts
            if a.sample.task != "action" or a.sample.turns[a.turn].has_facts
        ]
    if recipe.whole_tasks:
        prompts = [a for a in prompts if a.turn == 0 and a.sample.task == "action"]
    if not prompts:
        raise RunError("data.train", "turns to answer", "none that can be asked")
    run.log(
        f"{len(prompts)} turns to answer; {len(left_out)} left out, their prompts being "
        f"longer than {longest} tokens",
        "warning" if left_out else "info",
    )
    if reward_model is not None and (unreadable := count_unreadable(prompts)):
        run.log(
            f"{unreadable} of them have a label response that breaks the response "
            "grammar: their answers get no consistency reward",
            "warning",
        )

    def sampling(temperature: float, backend: str = "own") -> Sampling:
        return Sampling(
            temperature=temperature,
            top_p=1.0,
            max_new_tokens=recipe.max_new_tokens,
            stop_ids=encoder.frame.stop_ids,
            pad_id=_pad(tokenizer),
            backend=backend,
            parts=room(place, run.log),
        )

    held_out = HeldOut(
        run,
        encoder,
        sampling(0.0),
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

    first, looks = 0, list[Looked]()
    if run.resume:
        first, looks = load_progress(run.resume / "trainer")
    rollouts = Rollouts(
        recipe,
        prompts,
        encoder,
        sampling(recipe.temperature, recipe.backend),
        place,
        rewards,
        first,
    )
    trainer = make_trainer(run, recipe, model, tokenizer, rollouts, place, first)
    learner = trainer.accelerator.unwrap_model(trainer.model)
    restore(model)
    refer_to_initial(run, recipe, trainer, place)
    if algorithm_of(recipe).baseline == "critic":
        if process_count() > 1:
            raise RunError("recipe: `algorithm`", "one process with ppo", "several")
        trainer.critic = load_critic(run, recipe, tokenizer, place)
    optimizer = muon_and_adamw(
        learner.named_parameters(),
        muon_rate=recipe.muon_learning_rate,
        adamw_rate=recipe.learning_rate,
        weight_decay=0.0,
        muon=bool(recipe.muon_learning_rate) and recipe.method == "full",
    )
    if run.resume:
        if isinstance(learner, PeftModel):
            load_adapters(learner, run.resume / "trainer")
        load_optimizer(optimizer, run.resume / "trainer")
    trainer.optimizer = optimizer
    trainer.lr_scheduler = warmup_stable_decay(
        optimizer,
        first=first,
        steps=recipe.steps,
        warmup=recipe.warmup_steps,
        decay_fraction=recipe.decay_fraction,
    )

    def look(step: int) -> None:
        looks.append(held_out.look(learner, step))

    def write(step: int, folder: Path) -> None:
        save_policy(merged(learner), tokenizer, folder)
        (folder / "trainer").mkdir()
        save_optimizer(optimizer, folder / "trainer")
        save_progress(folder / "trainer", step, looks)
        if trainer.critic is not None:
            trainer.critic.save(folder / "trainer")
        if isinstance(learner, PeftModel):
            save_adapters(learner, folder / "trainer")

    def save(step: int, final: bool = False) -> None:
        latest = next((x for x in reversed(looks) if x.step == step), None)
        told = {"rm_score": latest.rm_score, "truth": latest.truth} if latest else {}
        run.save_checkpoint(
            step,
            functools.partial(write, step),
            kind="policy",
            recipe=recipe,
            metrics=told,
            final=final,
        )

    watch = Watch(run, recipe, first, rollouts, looks, look, save)
    if first:
        run.rehearse_checkpoint(functools.partial(write, first))
    else:
        look(0)
        save(0)
    if first < recipe.steps:
        guard_steps(trainer, first)
        trainer.add_callback(watch)
        trainer.train()
    values: dict[str, object] = {
        "steps": watch.step,
        "seconds": round(time.monotonic() - started, 1),
        "gate": gate,
        "held_out_samples": held_out.samples,
        **{f"seconds/{name}": round(total, 1) for name, total in watch.seconds.items()},
    }
    if watch.step < recipe.steps and not watch.alarm:
        return Ending("stopped", values)  # by a person: to be resumed, nothing final

    kept = functools.partial(run.has_checkpoint, recipe=recipe)
    chosen, told = best(looks, held_out.has_truth, kept)
    values |= told
    save(chosen.step, final=True)
    if watch.alarm:
        values["alarm"] = watch.alarm
        return Ending("stopped", values)
    return Ending("finished", values)


def make_trainer(
    run: RunDirectory,
    recipe: PolicyRecipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Rollouts,
    place: Place,
    first: int,
) -> SharedPromptTrainer:
    """Return the trainer of the steps after ``first``, still without an optimiser."""
    algorithm = algorithm_of(recipe)
    prompts = share_of_step("prompts_per_step", recipe.prompts_per_step)
    alone = prompts * recipe.num_generations
    return SharedPromptTrainer(
        parts=Parts(min(recipe.micro_batch or alone, alone), run.log, "responses"),
        model=model,
        processing_class=tokenizer,
        reward_funcs=[given_reward],
        rollout_func=rollouts,
        # Placeholders: one for every group of every step, see Rollouts.
        train_dataset=Dataset.from_dict(
            {
                "prompt": ["turn"]
                * (recipe.prompts_per_step * (recipe.steps - first or 1))
            }
        ),
        peft_config=None if recipe.method == "full" else adapters(recipe.lora_rank),
        args=GRPOConfig(
            output_dir=str(run.outputs),
            max_steps=max(1, recipe.steps - first),
            per_device_train_batch_size=alone,
            ddp_find_unused_parameters=False,
            num_generations=recipe.num_generations,
            num_iterations=recipe.num_iterations,
            max_completion_length=recipe.max_new_tokens,
            temperature=recipe.temperature,
            # Under full training the reference comes later: refer_to_initial.
            beta=0.0 if recipe.method == "full" else divergence_weight(recipe),
            use_bias_correction_kl=algorithm.divergence == "loss, corrected",
            epsilon=recipe.epsilon,
            epsilon_high=algorithm.clip_high,
            loss_type=TRL_LOSS[algorithm.loss],
            max_grad_norm=recipe.max_grad_norm,
            shuffle_dataset=False,
            **vllm_settings(recipe, rollouts.sampling.stop_ids),
            bf16=place.half,
            use_cpu=place.device.type == "cpu",
            gradient_checkpointing=recipe.gradient_checkpointing,
            seed=recipe.seed,
            logging_steps=1,
            logging_nan_inf_filter=False,
            router_aux_loss_coef=0.0,  # the loss is the one above, also of experts
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=place.device.type == "cuda",
        ),
    )


def vllm_settings(recipe: PolicyRecipe, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Return what TRL is told when vLLM draws; it then keeps vLLM's weights the newest."""
    if recipe.backend != "vllm":
        return {}
    return {
        "use_vllm": True,
        "vllm_mode": "server" if recipe.vllm_server else "colocate",
        "vllm_server_base_url": recipe.vllm_server or None,
        "vllm_gpu_memory_utilization": VLLM_MEMORY,
        "generation_kwargs": {"stop_token_ids": list(stop_ids)},
    }


class Watch(TrainerCallback):
    """After every step: report, look at the held-out set, save, and know when to stop."""

    def __init__(
        self,
        run: RunDirectory,
        recipe: PolicyRecipe,
        first: int,
        rollouts: Rollouts,
        looks: Sequence[Looked],
        look: Callable[[int], None],
        save: Callable[[int], None],
    ) -> None:
        self.run, self.recipe, self.first = run, recipe, first
        self.rollouts, self.looks = rollouts, looks
        self.look, self.save = look, save
        self.step = first
        self.alarm = ""
        self.since = time.monotonic()
        self.drew = True  # whether this step drew responses, or only learned again
        self.spent: dict[str, float] = {}
        self.seconds = dict.fromkeys(
            ("generation", "scoring", "reference", "update", "evaluation"), 0.0
        )

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.since = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Report the figures of one step: the rollout's and the trainer's."""
        told = {
            ours: (logs or {})[theirs]
            for ours, theirs in FIGURES.items()
            if theirs in (logs or {})
        }
        rate = adamw_rate(kwargs.get("optimizer"), told.get("learning_rate"))
        if told and rate is not None:
            told["learning_rate"] = rate
        if told:  # not the summary after the last step
            drawn = self.rollouts.figures if self.drew else {}
            self.run.metrics(
                self.first + state.global_step, {**drawn, **told, **self.spent}
            )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        run, recipe = self.run, self.recipe
        step = self.step = self.first + state.global_step
        self.drew = (state.global_step - 1) % recipe.num_iterations == 0
        self._count_seconds(time.monotonic() - self.since)
        run.progress(step, recipe.steps)
        if step % SHOWN_EVERY == 0:
            self._show(step)
        # Within a draw the trainer holds responses that no checkpoint has: finish it.
        asked = any_process(run.stop_requested, self.rollouts.place.device)
        stopping = asked and step % recipe.num_iterations == 0
        if step % recipe.evaluate_every == 0 or step >= recipe.steps or stopping:
            started = time.monotonic()
            self.look(step)
            self.save(step)
            self.seconds["evaluation"] += time.monotonic() - started
            self.alarm = self._alarm()
            if self.alarm:
                run.log(self.alarm, "error")
        if stopping or self.alarm:
            control.should_training_stop = True

    def _alarm(self) -> str:
        known = [
            Look(x.step, x.rm_score, x.truth)
            for x in self.looks
            if x.rm_score is not None and x.truth is not None
        ]
        reason = parted(
            known,
            tolerance=ALARM_TOLERANCE,
            evaluations=ALARM_EVALUATIONS,
        )
        return reason or ""

    def _count_seconds(self, whole: float) -> None:
        """Split the seconds of a step; what is left of it is update."""
        parts = dict.fromkeys(("generation", "scoring", "reference"), 0.0)
        if self.drew:  # else it learned again from responses drawn before
            spent = self.rollouts.figures
            parts = {n: spent[f"seconds/{n}"] for n in parts}
            if "seconds/critic" in spent:
                parts["critic"] = spent["seconds/critic"]
        parts["update"] = whole - sum(parts.values())
        self.spent = {"seconds/update": parts["update"]}
        for name, value in parts.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def _show(self, step: int) -> None:
        """Show the first and the last response of a group with their rewards."""
        group = self.rollouts.groups[0]
        total = [self.rollouts.reward(episode) for episode in group]
        pushed = self.rollouts.pushed
        assert pushed is not None
        ranked = sorted(range(len(group)), key=lambda i: -total[i])
        for i in (ranked[0], ranked[-1])[:SHOWN]:
            episode = group[i]
            given = episode.answers[0]
            turn = given.sample.turns[given.turn]
            scores = {
                **{
                    kind: value
                    for kind in KINDS
                    if (value := episode.earned(kind)) is not None
                },
                "advantage": float(pushed[i]),
            }
            self.run.sample(
                step,
                prompt=turn.text,
                text=given.text,
                label=turn.response,
                scores=scores,
            )


# Our names for the trainer's figures.
FIGURES = {
    "loss": "loss",
    "gradient_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio": "clip_ratio/region_mean",
}


# Settings and starting points


def check_settings(recipe: PolicyRecipe) -> None:
    """Raise ``RunError`` for settings that do not go together."""
    share_of_step("prompts_per_step", recipe.prompts_per_step)
    if process_count() > 1 and recipe.backend == "vllm" and recipe.vllm_server:
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
        found = gate_misses(
            manifest.metrics if manifest else {},
            balanced_order=recipe.gate_balanced_order,
            bad_caught=recipe.gate_bad_recall,
        )
        misses += found if name == "reward" else [f"{name}: {why}" for why in found]
    if not misses:
        return {"passed": True}
    if not recipe.gate_override.strip():
        raise GateError(misses)
    said = {"passed": False, "misses": misses, "override": recipe.gate_override}
    run.log(f"{GateError(misses)}; overridden: {recipe.gate_override}", "warning")
    return said


def refer_to_initial(
    run: RunDirectory, recipe: PolicyRecipe, trainer: GRPOTrainer, place: Place
) -> None:
    """Make the initial policy the reference of the divergence.

    Under full training that is a second model: ``inputs.initial`` (else
    ``inputs.policy``), loaded as every policy is, tags included. TRL would load it again
    from the directory, as it is there. Under LoRA the reference is the model with its
    adapters off: the policy that this run started from.
    """
    if recipe.method != "full":
        if "initial" in run.inputs and run.inputs["initial"] != run.inputs["policy"]:
            run.log("LoRA: the divergence is from the policy that this run starts from")
        return
    if not divergence_weight(recipe):
        return
    initial, _ = load_policy(run.inputs.get("initial", run.inputs["policy"]), place)
    add_fused_lm_head(initial, temperature=trainer.temperature)
    prepared = trainer.accelerator.prepare_model(initial, evaluation_mode=True)
    trainer.ref_model, trainer.beta = prepared, divergence_weight(recipe)


def divergence_weight(recipe: PolicyRecipe) -> float:
    """Return the weight of the divergence; 0 where the algorithm has none."""
    return 0.0 if algorithm_of(recipe).divergence == "none" else recipe.beta


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    return pad


if __name__ == "__main__":
    sys.exit(run_program("policy", PolicyRecipe, main))
