"""Every configuration key: its type, range, default and one line of documentation. Imports no torch.

The YAML files in `conf/` hold only what differs from the defaults here. `docs/keys.md` is generated from these files
(`python -m mft_cli.config.reference`), and a test keeps the two equal. Validation is pydantic's, in strict mode: 1 is not a boolean,
"3" no number.
"""

from mft_cli.config.schema.critique import BudgetConfig, CritiqueRunConfig, SolutionsConfig, TeacherConfig
from mft_cli.config.schema.evaluation import ApiConfig, BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import (
    DataConfig,
    ModelConfig,
    PromptConfig,
    Shot,
    SourceConfig,
    ValidationConfig,
    expand,
)
from mft_cli.config.schema.launching import DeepspeedConfig, LaunchConfig, PeftConfig, SlurmConfig
from mft_cli.config.schema.methods import AnyMethod, MethodConfig, method_classes
from mft_cli.config.schema.runs import EvalRunConfig, RunConfig, TrainConfig
from mft_cli.config.schema.training import CheckpointConfig, LogConfig, SweepConfig, TrainingConfig

# conf/<name>.yaml -> the dataclass that it fills
ROOTS: dict[str, type] = {"train": TrainConfig, "eval": EvalRunConfig, "critique": CritiqueRunConfig}

__all__ = [
    "ROOTS", "AnyMethod", "ApiConfig", "BenchmarkConfig", "BudgetConfig", "CheckpointConfig", "CritiqueRunConfig",
    "DataConfig", "DeepspeedConfig", "EvalConfig", "EvalRunConfig", "LaunchConfig", "LogConfig", "MethodConfig",
    "ModelConfig", "PeftConfig", "PromptConfig", "RunConfig", "Shot", "SlurmConfig", "SolutionsConfig",
    "SourceConfig", "SweepConfig", "TeacherConfig", "TrainConfig", "TrainingConfig", "ValidationConfig", "expand",
    "method_classes",
]  # fmt: skip
