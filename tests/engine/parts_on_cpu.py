"""Run ``sft`` with its weights in parts on CPUs: ``python -m tests.engine.parts_on_cpu RUN_DIR``.

accelerate cuts weights on GPUs only, and on a CPU takes ``fsdp2`` for ``ddp`` without a
word, though torch can do it there. This lifts its check and ours, and nothing else.
"""

import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from records.recipes import SftRecipe
from training.engine import sft
from training.engine.modeling.optim import update
from training.engine.run.directory import run_program

STEPS = 6
build = PartialState.__init__


def build_as_if_on_gpus(self, *args, **settings):
    build(self, *args, **settings)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def update_and_tell(stepper, schedule, parameters, *, step, **settings):
    """Take a step; after the last say how much of a weight this process holds."""
    weights = list(parameters)
    figures = update(stepper, schedule, weights, step=step, **settings)
    if step == STEPS:
        held, whole = tuple(weights[0].to_local().shape), tuple(weights[0].shape)
        # In one piece: the other process writes to the same place.
        sys.stdout.write(f"each holds {held} of {whole}\n")
        sys.stdout.flush()
    return figures


if __name__ == "__main__":
    PartialState.__init__ = build_as_if_on_gpus
    sft.check_sharding = lambda recipe, place: None
    sft.update = update_and_tell
    sys.exit(run_program("sft", SftRecipe, sft.train))
