"""DeepSpeed, parameter-efficient fine-tuning, and where the processes of a run are started."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, AtLeastOne, Count, Positive, Processes, Seconds, Values, key


@dataclass(config=STRICT)
class DeepspeedConfig:
    """DeepSpeed. Stages and offload change memory and speed, never the numbers: they may change in a resume."""

    name: str = key("none", "Preset; none is plain torch (data-parallel with several processes).")
    config: Values = key({}, "DeepSpeed's own keys. Batch sizes, clipping and precision are written by mft.")
    config_file: str | None = key(None, "A DeepSpeed JSON file of your own, used instead of the preset's `config`.")


@dataclass(config=STRICT)
class PeftConfig:
    """Parameter-efficient fine-tuning (the peft library)."""

    name: Literal["none", "lora", "qlora"] = key("none", "none: all weights train; qlora: lora on 4-bit weights.")
    rank: AtLeastOne = key(16, "Rank of the adapters.", needs="name!=none")
    alpha: Positive = key(32.0, "The adapters' product is scaled by alpha / rank.", needs="name!=none")
    dropout: Annotated[float, Field(ge=0, lt=1)] = key(0.0, "Dropout before the adapters.", needs="name!=none")
    targets: list[str] = key(
        ["auto"], "Names of the adapted modules, or their ends; auto: every linear but the head.", needs="name!=none"
    )
    rslora: bool = key(
        False, "Scale by alpha / sqrt(rank) instead (rank-stabilized LoRA, arXiv 2312.03732).", needs="name!=none"
    )


@dataclass(config=STRICT)
class SlurmConfig:
    """What a SLURM job asks for; null leaves a setting to the cluster."""

    partition: str | None = key(None, "Partition.")
    account: str | None = key(None, "Account.")
    qos: str | None = key(None, "Quality of service.")
    time: str | None = key(None, "Time limit, such as 12:00:00.")
    gpus_per_node: Count | None = key(None, "GPUs of a node; null: launch.gpus.")
    cpus_per_task: Processes | None = key(None, "Processor cores of a task.")
    memory: str | None = key(None, "Memory of a node, such as 200G.")
    constraint: str | None = key(None, "Node features.")
    container: str | None = key(None, "Container image in which the ranks run (srun --container-image, pyxis).")
    container_mounts: list[str] = key([], "Folders that the container sees, such as /data:/data.")
    setup: list[str] = key([], "Shell lines before the command, such as module load cuda.")
    signal_s: AtLeastOne | None = key(
        None,
        "Seconds before the time limit at which the run is told to save and requeue; null: 120, more for a large checkpoint.",
    )
    requeue: bool = key(True, "Put a job that was stopped by preemption or its time limit back into the queue.")
    max_requeues: Count = key(100, "Restarts after which a job is not requeued any more.")
    max_parallel: Processes = key(256, "Jobs of a sweep's array that run at the same time.")
    eval_job: bool = key(False, "Evaluate in a job of its own, on one GPU, after the training has ended well.")
    extra: dict[str, str] = key(
        {}, "More sbatch options by long name: {reservation: week}; an empty text: a bare flag."
    )


@dataclass(config=STRICT)
class LaunchConfig:
    """Where the run's processes run."""

    name: Literal["local", "slurm"] = key("local", "local: processes on this machine; slurm: as srun tasks.")
    device: Literal["auto", "cpu", "cuda"] = key("auto", "auto: a GPU if there is one.")
    threads: Processes | None = key(None, "CPU threads of torch in a process; null: the cores shared out.")
    compile: bool = key(False, "torch.compile the model (GPU).")
    gpus: Processes | None = key(None, "GPUs of a node to use, one process each; null: one process.")
    processes: Processes | None = key(None, "Processes on a node where there are no GPUs; null: one.")
    nodes: Processes | None = key(None, "Nodes; null: the SLURM allocation's, else one.")
    node_rank: Count | None = key(None, "This node's number, from 0; null: the allocation's, else 0.")
    host: str | None = key(None, "Rendezvous host (node 0); null: the allocation's first node, else this machine.")
    port: Annotated[int, Field(ge=1, le=65535)] | None = key(None, "Rendezvous port; null: a free one.")
    timeout_minutes: Annotated[float, Field(gt=0, le=10080)] = key(
        20.0, "Minutes that ranks wait for each other: at the start, and within a step. Preparing data may take hours."
    )
    grace_s: Seconds | None = key(
        None, "Seconds that the processes have to save after a signal; null: 120, more for a large checkpoint."
    )
    allow_idle_gpus: bool = key(False, "Let a SLURM job start whose ranks use fewer GPUs than are visible to them.")
    dry_run: bool = key(False, "Print what would be submitted to SLURM, and stop.")
    slurm: SlurmConfig = key(SlurmConfig, "What a SLURM job asks for.")
