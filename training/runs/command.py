"""How a program starts: its command, for one or several processes, and environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from training.runs.placement import visible_devices

if TYPE_CHECKING:
    from actions.tags import JSON

CONFIG = "accelerate.json"
SECRETS = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "PGPASSWORD")
STORE_SECRETS = ("AWS_", "AZURE_", "FSSPEC_", "GOOGLE_APPLICATION_", "CONCORD_STORE")


def program_command(
    kind: str, recipe: Mapping[str, JSON], directory: Path
) -> list[str]:
    """Return the command of a program, without the run directory as last argument.

    With more than one of ``processes`` in the recipe it uses ``accelerate launch``,
    whose configuration is written to the run directory.
    """
    processes = recipe.get("processes", 1)
    if not isinstance(processes, int) or processes < 2:
        return [sys.executable, "-m", f"training.engine.{kind}"]
    config = accelerate_config(processes, str(recipe.get("strategy", "ddp")))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(directory / CONFIG)),
        *("--main_process_port", "0"),  # any free one
        *("-m", f"training.engine.{kind}"),
    ]


def program_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program: without secrets."""
    # Make idle OpenMP threads sleep instead of spin, unless OMP_WAIT_POLICY is set.
    # With spinning, two programs on two cores ran at a tenth of their speed.
    sleeping = {"OMP_WAIT_POLICY": "PASSIVE"}
    inherited = {
        key: value
        for key, value in environment.items()
        if key not in SECRETS
        and not key.endswith("_FILE")
        # Programs never access the store: the files they need are in place.
        and not key.startswith(STORE_SECRETS)
    }
    return {
        **sleeping,
        **inherited,
        **visible_devices(settings.WORKER_DEVICE, environment),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def accelerate_config(processes: int, strategy: str) -> dict[str, JSON]:
    """Return a configuration for ``accelerate launch`` on one machine.

    ``ddp``: each process has the whole model. ``fsdp2`` and ``deepspeed-zero3``:
    weights, gradients and moments are sharded over the processes. The program sets
    precision and device.
    """
    config: dict[str, JSON] = {
        "compute_environment": "LOCAL_MACHINE",
        "num_machines": 1,
        "machine_rank": 0,
        "num_processes": processes,
        "mixed_precision": "no",
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": False,
        "debug": False,
    }
    if strategy == "fsdp2":
        return config | {
            "distributed_type": "FSDP",
            "fsdp_config": {
                "fsdp_version": 2,
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_reshard_after_forward": True,
                "fsdp_state_dict_type": "FULL_STATE_DICT",
                "fsdp_cpu_ram_efficient_loading": False,
                "fsdp_offload_params": False,
            },
        }
    if strategy == "deepspeed-zero3":
        return config | {
            "distributed_type": "DEEPSPEED",
            "deepspeed_config": {
                "zero_stage": 3,
                "zero3_init_flag": False,
                "zero3_save_16bit_model": True,
                "offload_optimizer_device": "none",
                "offload_param_device": "none",
                "gradient_accumulation_steps": 1,
            },
        }
    # The name means "through torchrun". Without a GPU, gloo connects the processes.
    return config | {"distributed_type": "MULTI_GPU"}
