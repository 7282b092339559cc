# What type checkers and editors see of the lazily imported public names; tests/api/test_public.py keeps the two equal.
from mft_cli import answers as answers
from mft_cli import methods as methods
from mft_cli.api.configuration import load_config as load_config
from mft_cli.api.examples import load_examples as load_examples
from mft_cli.api.verbs import compare as compare
from mft_cli.api.verbs import evaluate as evaluate
from mft_cli.api.verbs import score as score
from mft_cli.api.verbs import scores as scores
from mft_cli.api.verbs import train as train
from mft_cli.config.schema.runs import EvalRunConfig as EvalRunConfig
from mft_cli.config.schema.runs import TrainConfig as TrainConfig
from mft_cli.data.ordered import TrainingOrder as TrainingOrder
from mft_cli.data.ordered import ValidationOrder as ValidationOrder
from mft_cli.errors import Stopped as Stopped
from mft_cli.errors import UserError as UserError
from mft_cli.methods.mask_finetune import MaskFinetuneCallback as MaskFinetuneCallback
from mft_cli.methods.masked_critique import MaskedCritiqueCollator as MaskedCritiqueCollator
from mft_cli.methods.masked_thought import MaskedThoughtCollator as MaskedThoughtCollator
from mft_cli.methods.sft import SftCollator as SftCollator
from mft_cli.rng import Draw as Draw

__version__: str
__all__: list[str]
