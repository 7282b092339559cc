"""Error resilience: where solutions are cut and disturbed, and how an answer behind that is counted."""

from __future__ import annotations

import pytest

from mft_cli.analysis.resilience import cut, verdicts
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.data.chain_wording import vocabulary
from mft_cli.data.generated import generate
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import Row
from mft_cli.eval.engines.base import Completion
from mft_cli.models.new_model import tokenizer_of

GSM = Row(1, "g", "How many?", "He has 3 * 4 = 12 eggs.\nHe eats 2, so 12 - 2 = 10 are left.\n#### 10", "10")


def chain_rows() -> list[Row]:
    made = generate("generated:chains", "test", 30, {})
    return [Row(i, str(i), row["question"], row["response"], row["answer"]) for i, row in enumerate(made)]


def test_a_solution_is_cut_behind_a_result_that_is_not_the_last():
    for row in chain_rows():
        made = cut(row, seed=0)
        assert made is not None
        assert row.response.startswith(made.right)
        assert made.wrong[:-1] == made.right[:-1]
        assert made.wrong != made.right
        assert "####" not in made.right
        assert row.response[len(made.right)] == ";"  # behind a value, in front of another step
    made = cut(GSM, seed=0)
    assert made is not None
    assert made.right == "He has 3 * 4 = 12"
    assert cut(Row(2, "h", "?", "It is 3 + 4 = 7.\n#### 7", "7"), seed=0) is None


class Writes:
    """An engine that goes on with the same text whatever it is asked."""

    def __init__(self, text: str):
        self.text = text

    def generate(self, requests, done, sampling, report, tokens) -> None:
        for i, request in enumerate(requests):
            self.prompt = request.prompt
            report(i, Completion(self.text, "stop", 5))


@pytest.mark.parametrize(("text", "right"), [(" eggs. #### 10", True), (" eggs. #### 12", False), ("", False)])
def test_the_whole_solution_is_read(text: str, right: bool):
    tokenizer = tokenizer_of(vocabulary())
    tokenizer.pad_token = tokenizer.eos_token
    renderer = Renderer(tokenizer, PromptConfig(name="raw", kind="template", template="{question}\n"))
    engine = Writes(text)
    begun = "4 + 8 = 11"
    assert verdicts(engine, renderer, [GSM], [begun], 20) == [right]
    assert tokenizer.decode(engine.prompt).endswith(begun)
