"""DeepSpeed's own configuration keys (https://www.deepspeed.ai/docs/config-json), as of 0.19: names and kinds of values.

DeepSpeed itself takes unknown keys in silence at the top, and needs torch to look at the others. "auto" stands wherever
transformers lets it stand. A test compares these names with the installed DeepSpeed's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, Values

Auto = Literal["auto"]
Number = Annotated[float, Field(ge=0, le=2**63)] | Auto | None  # files write 5e8 for an integer, and sys.maxsize
Switch = bool | Auto | None
Section = Values | None


@dataclass(config=STRICT)
class OffloadSection:
    """offload_param and offload_optimizer."""

    device: Literal["none", "cpu", "nvme"] | None = None
    nvme_path: str | None = None
    buffer_count: Number = None
    buffer_size: Number = None
    max_in_cpu: Number = None
    pin_memory: Switch = None
    pipeline_read: Switch = None
    pipeline_write: Switch = None
    fast_init: Switch = None
    ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    super_offload: Switch = None
    cpuadam_cores_perc: Annotated[float, Field(ge=0, le=1)] | None = None


@dataclass(config=STRICT)
class ZeroSection:
    """zero_optimization."""

    stage: Annotated[int, Field(ge=0, le=3)] | None = None
    contiguous_gradients: Switch = None
    reduce_scatter: Switch = None
    reduce_bucket_size: Number = None
    use_multi_rank_bucket_allreduce: Switch = None
    allgather_partitions: Switch = None
    allgather_bucket_size: Number = None
    overlap_comm: Switch = None
    compute_grad_norm: Switch = None
    load_from_fp32_weights: Switch = None
    elastic_checkpoint: Switch = None
    offload_param: OffloadSection | None = None
    offload_optimizer: OffloadSection | None = None
    zenflow: Section = None
    sub_group_size: Number = None
    cpu_offload_param: Switch = None
    cpu_offload_use_pin_memory: Switch = None
    cpu_offload: Switch = None
    stage3_prefetch_bucket_size: Number = None
    stage3_param_persistence_threshold: Number = None
    stage3_model_persistence_threshold: Number = None
    stage3_max_live_parameters: Number = None
    stage3_max_reuse_distance: Number = None
    stage3_gather_16bit_weights_on_model_save: Switch = None
    stage3_module_granularity_threshold: Number = None
    stage3_use_all_reduce_for_fetch_params: Switch = None
    stage3_allgather_sequential: Switch = None
    stage3_gather_fp16_weights_on_model_save: Switch = None
    ignore_unused_parameters: Switch = None
    legacy_stage1: Switch = None
    round_robin_gradients: Switch = None
    parameter_alignment: Switch = None
    zero_hpz_partition_size: Number = None
    zero_quantized_weights: Switch = None
    zero_quantized_nontrainable_weights: Switch = None
    zero_quantized_gradients: Switch = None
    memory_efficient_linear: Switch = None
    pipeline_loading_checkpoint: Switch = None
    override_module_apply: Switch = None
    log_trace_cache_warnings: Switch = None
    enable_sanity_checks: Switch = None
    save_muon_momentum_buffer_in_memory: Switch = None
    leaf_module: Section = None


@dataclass(config=STRICT)
class DeepspeedFile:
    """A DeepSpeed configuration, as a file or as deepspeed.config."""

    zero_optimization: ZeroSection | None = None
    train_batch_size: Number = None
    train_micro_batch_size_per_gpu: Number = None
    gradient_accumulation_steps: Number = None
    managed_gradient_accumulation: Switch = None
    gradient_clipping: Number = None
    optimizer: Section | Auto = None
    scheduler: Section | Auto = None
    bf16: Section = None
    bfloat16: Section = None
    fp16: Section = None
    amp: Section = None
    torch_autocast: Section = None
    data_types: Section = None
    communication_data_type: str | None = None
    seq_parallel_communication_data_type: str | None = None
    prescale_gradients: Switch = None
    gradient_predivide_factor: Number = None
    gradient_allreduce_op: str | None = None
    sparse_gradients: Switch = None
    disable_allgather: Switch = None
    disable_python_gc: Switch = None
    dump_state: Switch = None
    memory_breakdown: Switch = None
    wall_clock_breakdown: Switch = None
    steps_per_print: Number = None
    log_level: str | None = None
    dataloader_drop_last: Switch = None
    zero_allow_untested_optimizer: Switch = None
    zero_force_ds_cpu_optimizer: Switch = None
    use_data_before_expert_parallelism: Switch = None
    expert_parallel: Section = None
    activation_checkpointing: Section = None
    aio: Section = None
    autotuning: Section = None
    checkpoint: Section = None
    comms_logger: Section = None
    comet: Section = None
    compile: Section = None
    compression_training: Section = None
    csv_monitor: Section = None
    curriculum_learning: Section = None
    data_efficiency: Section = None
    elasticity: Section = None
    flops_profiler: Section = None
    hybrid_engine: Section = None
    monitor_config: Section = None
    nebula: Section = None
    pipeline: Section = None
    progressive_layer_drop: Section = None
    sparse_attention: Section = None
    tensor_parallel: Section = None
    tensorboard: Section = None
    timers: Section = None
    wandb: Section = None
    weight_quantization: Section = None
