"""A classifier on a policy's backbone: how both kinds of reward model start to learn."""

from __future__ import annotations

from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from records.recipes import RewardRecipe
from training.engine.modeling.loading import load_classifier, load_tokenizer
from training.engine.modeling.new_tokens import (
    NEW_TOKEN_RATE,
    OURS,
    fit_vocabulary,
    new_rows,
    new_tokens,
)
from training.engine.modeling.optim import (
    Together,
    muon_and_adamw,
    warmup_stable_decay,
)
from training.engine.modeling.policies import Place, build_small_model, on_device
from training.engine.modeling.throughput import attend
from training.engine.modeling.tokenizer import add_tags
from training.engine.modeling.trainer_state import resume_trainer, resumed_progress
from training.engine.reward_model.model import RewardModel
from training.engine.reward_model.packing import (
    HISTORY,
    REWARD_MARKS,
    RewardSettings,
)
from training.engine.run.directory import RunDirectory

WEIGHT_DECAY = 0.01


def starting_classifier(
    run: RunDirectory, recipe: RewardRecipe, place: Place, *, outputs: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a classifier in fp32 and its tokenizer, tags included.

    It is the model that is resumed, or else the input ``policy`` with a head of so many
    ``outputs`` in place of its vocabulary's; of a ``backbone`` from scratch only the
    tokenizer is the policy's.
    """
    path = run.resume or run.need_input("policy")
    tokenizer = load_tokenizer(path)
    known = len(tokenizer)
    add_tags(tokenizer)
    if recipe.backbone == "scratch" and run.resume is None:
        small = build_small_model(tokenizer, width=recipe.width, layers=recipe.layers)
        small.config.num_labels = outputs
        build = AutoModelForSequenceClassification.from_config
        classifier = build(small.config)  # type: ignore[no-untyped-call]
        classifier.base_model.load_state_dict(small.base_model.state_dict())
    else:
        classifier = load_classifier(path, place, outputs=outputs)
    fit_vocabulary(classifier, tokenizer, known)
    return on_device(classifier, place), tokenizer


def starting_reward_model(
    run: RunDirectory, recipe: RewardRecipe, place: Place
) -> RewardModel:
    """Return the consistency model to train: two outputs, and rows for its marks."""
    classifier, tokenizer = starting_classifier(run, recipe, place, outputs=2)
    known = len(tokenizer)
    model = RewardModel(classifier, tokenizer, RewardSettings.of(recipe))
    fit_vocabulary(classifier, tokenizer, known)
    attend(classifier, place, recipe.max_tokens)
    return model


def start_learning(
    run: RunDirectory,
    recipe: RewardRecipe,
    module: nn.Module,
    classifier: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Together, LambdaLR, int]:
    """Return the optimizer, its schedule and the steps done, of a run resumed or new.

    ``module`` is what learns, with ``classifier`` inside or the same.
    """
    rows = None
    if recipe.backbone != "scratch":
        names = (*OURS, *REWARD_MARKS, HISTORY)
        start = run.need_input("policy")
        new = new_tokens(run, classifier, tokenizer, start=start, names=names)
        if not recipe.muon_learning_rate:
            rows = new_rows(classifier, new, NEW_TOKEN_RATE)
    optimizer = muon_and_adamw(
        module.named_parameters(),
        muon_rate=recipe.muon_learning_rate,
        adamw_rate=recipe.learning_rate,
        weight_decay=WEIGHT_DECAY,
        muon=bool(recipe.muon_learning_rate),
        rows=rows,
    )
    resume_trainer(run, classifier, optimizer)
    first, _ = resumed_progress(run)
    schedule = warmup_stable_decay(
        optimizer,
        first=first,
        steps=recipe.steps,
        warmup=recipe.warmup_steps,
        decay_fraction=recipe.decay_fraction,
    )
    return optimizer, schedule, first
