"""Templates that open, add or leave out thoughts: every answer is trained on behind the ids that inference sees."""

from __future__ import annotations

import numpy as np
import pytest

from mft_cli.config.schema.inputs import PromptConfig, ValidationConfig
from mft_cli.data.conversations import Turn
from mft_cli.data.examples import Examples
from mft_cli.data.load import split
from mft_cli.data.prompts import Renderer
from mft_cli.errors import UserError

USER = "{%- if m.role != 'assistant' %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
FOR = "{%- for m in messages %}"
# DeepSeek-R1: thoughts are never written, the generation prompt opens one
R1 = (
    FOR + USER + "{%- else %}{{- '<|im_start|>assistant\\n' + m.content.split('</think>')[-1] + '<|im_end|>' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)  # fmt: skip
# QwQ: the last turn's thought is written as it is
QWQ = (
    FOR + USER + "{%- else %}{%- set c = m.content %}{%- if not loop.last %}{%- set c = c.split('</think>')[-1].lstrip('\\n') %}"
    "{%- endif %}{{- '<|im_start|>assistant\\n' + c + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)  # fmt: skip
# Qwen3: the last turn's thought is written in a form of its own, an empty one where it has none
QWEN3 = (
    FOR + USER + "{%- else %}{%- set c, t = m.content, '' %}{%- if '</think>' in c %}"
    "{%- set t = c.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set c = c.split('</think>')[-1].lstrip('\\n') %}{%- endif %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.last %}{{- '<think>\\n' + t.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}{{- c + '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)  # fmt: skip
OFF = "{%- set enable_thinking = false %}" + QWEN3
TEMPLATES = {"R1": R1, "QwQ": QWQ, "Qwen3": QWEN3}
PLAIN: list[Turn] = [
    {"role": "user", "content": "What is 1 plus 2?"},
    {"role": "assistant", "content": "It is 3."},
    {"role": "user", "content": "And 1 more?"},
    {"role": "assistant", "content": "4"},
]
THOUGHTS = ["It is 3. I am sure.", "3 and 1"]
THINKING: list[Turn] = [
    PLAIN[0], {"role": "assistant", "content": f"<think>\n{THOUGHTS[0]}\n</think>\n\nIt is 3."},
    PLAIN[2], {"role": "assistant", "content": f"<think>\n{THOUGHTS[1]}\n</think>\n\n4"},
]  # fmt: skip


def renderer_of(tokenizer, template: str) -> Renderer:
    tokenizer.chat_template = template
    return Renderer(tokenizer, PromptConfig())


def trained(renderer: Renderer, turns: list[Turn], loss_on: str = "all") -> list[tuple[str, str]]:
    """(text before it, text) of every answer that is trained on, of their ids."""
    result = []
    for pieces in renderer.tokenized(renderer.conversation(turns, loss_on)):
        before = ""
        for piece in pieces:
            text = renderer.tokenizer.decode(piece.ids)
            if piece.loss_mask:
                result.append((before, text))
            before += text
    return result


def asked(renderer: Renderer, turns: list[Turn]) -> str:
    return str(renderer.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("length", [2, 4], ids=["one turn", "two turns"])
@pytest.mark.parametrize("break_", ["\n", ""], ids=["lines", "no line breaks"])
def test_every_thought_and_answer_stand_behind_what_generation_is_asked_with(
    tokenizer, name: str, length: int, break_: str
):
    renderer = renderer_of(tokenizer, TEMPLATES[name])
    turns = [{**t, "content": t["content"].replace("\n", break_)} for t in THINKING[:length]]
    answers = sorted(trained(renderer, turns), key=lambda pair: len(pair[0]))
    assert [before for before, _ in answers] == [asked(renderer, turns[:i]) for i in range(1, length, 2)]
    opened = asked(renderer, turns[:1]).endswith("<think>\n")
    for (_, text), thought, turn in zip(answers, THOUGHTS, PLAIN[1::2], strict=False):
        assert text.count(thought) == text.count("</think>") == 1
        assert text.count("<think>") == (0 if opened else 1)
        assert text.endswith(turn["content"] + "<|im_end|>")
    assert len(trained(renderer, turns, "last")) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_question_with_a_thinking_response_has_the_conversations_ids(tokenizer, name: str):
    renderer = renderer_of(tokenizer, TEMPLATES[name])
    row = renderer.segments(PLAIN[0]["content"], THINKING[1]["content"], None, None)
    whole, turns = renderer.tokenized([row, *renderer.conversation(THINKING[:2], "all")])
    assert [p.ids for p in whole] == [p.ids for p in turns]


@pytest.mark.parametrize("name", ["R1", "QwQ"])
def test_an_answer_that_leaves_the_opened_thought_open_is_refused_with_the_way_out(tokenizer, name: str):
    renderer = renderer_of(tokenizer, TEMPLATES[name])
    for row in (lambda: renderer.conversation(PLAIN, "all"), lambda: renderer.segments("1+2?", "3", None, None)):
        with pytest.raises(
            ValueError, match=r"turn 2 .* open <think>, and this one has no </think>.*model.chat_template="
        ):
            row()
    unopened = THINKING[1]["content"].removeprefix("<think>\n")  # as R1's own endpoint writes it
    assert trained(renderer, [PLAIN[0], {"role": "assistant", "content": unopened}]) == trained(renderer, THINKING[:2])


def test_qwen3_without_thinking_trains_every_turn_as_the_last_one(tokenizer):
    renderer = renderer_of(tokenizer, OFF)
    answers = trained(renderer, PLAIN)
    assert sorted(answers) == sorted((asked(renderer, PLAIN[:i]), PLAIN[i]["content"] + "<|im_end|>") for i in (1, 3))
    assert all(before.endswith("<think>\n\n</think>\n\n") for before, _ in answers)
    assert trained(renderer, PLAIN, "last") == [a for a in answers if a[1].startswith("4")]
    with pytest.raises(ValueError, match=r"turn 2 .*loss_on: everything takes one text only"):
        renderer.conversation(PLAIN, "everything")
    with pytest.raises(ValueError, match=r"turn 2 .*the chat template asks for it with"):
        renderer.conversation(THINKING, "all")  # thoughts, and a template that forbids them


def test_a_thought_that_only_a_later_turn_repeats_is_not_taken_for_it(tokenizer):
    renderer = renderer_of(tokenizer, QWEN3)
    turns = [*THINKING[:2], *THINKING[:2]]
    answers = trained(renderer, turns)
    assert len(answers) == 2
    assert all(text.count("<|im_end|>") == 1 for _, text in answers)


def test_a_conversation_of_several_examples_validates_or_trains_as_a_whole():
    ones = np.ones(8, dtype=np.int64)
    rows = Examples.of(np.array([7, 7, 9, 9]), [2, 2, 2, 2], ones.astype(np.int32), ones.astype(bool))
    train, validation = split(rows, ValidationConfig(rows=1), seed=1)
    assert len(validation) == 1
    assert len(train) == 2
    assert not set(train.ids) & set(validation.ids)
    with pytest.raises(UserError, match="the 3 examples that would validate are of all rows"):
        split(rows, ValidationConfig(rows=3), seed=1)
