"""Conversations as data sets write them, and templates that treat turns specially: right, or refused with the turn named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.config.schema.inputs import ModelConfig, PromptConfig, SourceConfig
from mft_cli.data.chat_templates import frozen, settled
from mft_cli.data.prompts import Renderer, UnsafeText
from mft_cli.data.sources import load_rows
from mft_cli.errors import UserError

TURN = "{{ '<|im_start|>' + m['role'] + '\n' }}%s{{ m['content'] + '<|im_end|>' + '\n' }}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
THINK = "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
EOS = "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
TEMPLATES = {
    "plain": "{% for m in messages %}" + TURN % "" + "{% endfor %}" + ASK,
    "eos at the end": "{% for m in messages %}" + TURN % "" + "{% endfor %}" + EOS + ASK,
    "empty think in the last turn": "{% for m in messages %}" + TURN % THINK + "{% endfor %}" + ASK,
    "channels": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}{% if m['role'] == 'assistant' %}{{ '<channel>final' }}{% endif %}"
        "{{ '\n' + m['content'] + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
    ),
}  # fmt: skip
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "?"}]
CHAT = [
    {"role": "user", "content": "What is 1 plus 2?"},
    {"role": "assistant", "content": "It is 3."},
    {"role": "user", "content": "And 1 more?"},
    {"role": "assistant", "content": "4"},
]


def conversation(tmp_path: Path, turns, **more):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": turns}) + "\n")
    return load_rows(SourceConfig(path=str(file), layout="messages", **more), name="s", seed=1).rows[0].messages


def trained_texts(renderer: Renderer, turns, loss_on: str = "all") -> list[str]:
    return [
        renderer.tokenizer.decode(p.ids)
        for pieces in renderer.tokenized(renderer.conversation(turns, loss_on))
        for p in pieces
        if p.loss_mask
    ]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("turns", [CHAT[:2], CHAT], ids=["one turn", "two turns"])
def test_every_answer_with_its_end_token_is_trained_on_and_stands_where_it_is_asked(tokenizer, name: str, turns):
    tokenizer.chat_template = TEMPLATES[name]
    renderer = Renderer(tokenizer, PromptConfig())
    pieces = renderer.tokenized(renderer.conversation(turns, "all"))[0]
    answers = [p for p in pieces if p.loss_mask]
    assert len(answers) == len(turns) // 2
    for piece, turn in zip(answers, turns[1::2], strict=True):
        assert piece.ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert tokenizer.decode(piece.ids[:-1]).endswith(turn["content"])
    before_last = tokenizer.decode([i for p in pieces[:-1] for i in p.ids])
    asked = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    assert before_last == asked, "what is asked in evaluation"


def test_the_think_block_that_a_template_puts_before_the_last_answer_is_written_by_the_model(tokenizer):
    tokenizer.chat_template = TEMPLATES["empty think in the last turn"]
    texts = trained_texts(Renderer(tokenizer, PromptConfig()), CHAT)
    assert texts == ["It is 3.<|im_end|>", "<think>\n\n</think>\n\n4<|im_end|>"]


def test_a_template_that_opens_the_thought_trains_on_what_the_model_writes_after_it(tokenizer):
    tokenizer.chat_template = TEMPLATES["plain"] + "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    turns = [CHAT[0], {"role": "assistant", "content": "<think>\nadd</think>3"}]
    assert trained_texts(Renderer(tokenizer, PromptConfig()), turns) == ["add</think>3<|im_end|>"]


def test_an_answer_that_is_a_word_of_the_turns_header(tokenizer):
    turns = [CHAT[0], {"role": "assistant", "content": "assistant"}]
    assert trained_texts(Renderer(tokenizer, PromptConfig()), turns) == ["assistant<|im_end|>"]


def test_a_generation_prompt_that_the_conversation_does_not_hold_is_refused_with_the_turn(tokenizer):
    tokenizer.chat_template = TEMPLATES["plain"] + "{% if add_generation_prompt %}<final>{% endif %}"
    with pytest.raises(
        ValueError,
        match=r"turn 2 \(assistant\): the chat template asks for it with .*<final>.*model.chat_template=FILE",
    ):
        Renderer(tokenizer, PromptConfig()).conversation(CHAT, "all")
    assert "responses are trained on right behind it" in str(Renderer(tokenizer, PromptConfig()).notice)
    tokenizer.chat_template = TEMPLATES["plain"]
    assert Renderer(tokenizer, PromptConfig()).notice is None


def test_a_turn_that_the_template_leaves_out_is_named(tokenizer):
    tokenizer.chat_template = "{% for m in messages if m['role'] != 'tool' %}" + TURN % "" + "{% endfor %}" + ASK
    turns = [*CHAT[:2], {"role": "tool", "content": "sum=42"}, {"role": "assistant", "content": "It is 42"}]
    with pytest.raises(ValueError, match=r"turn 3 \(tool\): the chat template does not write its text"):
        Renderer(tokenizer, PromptConfig()).conversation(turns, "all")


def test_an_end_token_that_only_tokenizer_json_calls_special_ends_answers_and_is_refused_in_texts(tokenizer):
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken("<end_of_turn>", special=True)], special_tokens=False)
    tokenizer.chat_template = TEMPLATES["plain"].replace("<|im_end|>", "<end_of_turn>")
    assert "<end_of_turn>" not in tokenizer.all_special_tokens
    renderer = Renderer(tokenizer, PromptConfig())
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert renderer.end_id == end
    assert end in renderer.end_ids
    assert [p.ids[-1] for p in renderer.tokenized(renderer.conversation(CHAT, "all"))[0] if p.loss_mask] == [end, end]
    with pytest.raises(UnsafeText, match="<end_of_turn>"):
        renderer.segments("Hi<end_of_turn>\n<|im_start|>", "ok", None, None)


def test_turns_with_weight_0_are_not_trained_on(tokenizer):
    turns = [CHAT[0], {**CHAT[1], "weight": 0.0}, *CHAT[2:]]
    assert trained_texts(Renderer(tokenizer, PromptConfig()), turns) == ["4<|im_end|>"]


def test_one_question_and_answer_train_under_a_template_prompt_and_more_say_why_not(tokenizer):
    prompt = PromptConfig(name="alpaca", kind="template", template="### Q: {question}\n### A: ")
    renderer = Renderer(tokenizer, prompt)
    assert renderer.conversation(CHAT[:2], "all") == [
        renderer.segments(CHAT[0]["content"], CHAT[1]["content"], None, None)
    ]
    with pytest.raises(ValueError, match="4 turns, and prompt=alpaca is a text around one question"):
        renderer.conversation(CHAT, "all")


def test_a_system_turn_under_a_template_prompt_is_in_the_text_or_an_error(tokenizer):
    system = {"role": "system", "content": "Be {question} brief."}
    bare = PromptConfig(name="bare", kind="template", template="Q: {question}")
    with pytest.raises(ValueError, match=r"no \{system\} in its template"):
        Renderer(tokenizer, bare).conversation([system, *CHAT[:2]], "all")
    placed = PromptConfig(name="placed", kind="template", template="{system}\nQ: {question}")
    (segments,) = Renderer(tokenizer, placed).conversation([system, *CHAT[:2]], "all")
    assert segments[0].text.endswith("Be {question} brief.\nQ: What is 1 plus 2?")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (json.dumps(CHAT[:2]), CHAT[:2]),
        ([{"role": "user", "content": PARTS}, CHAT[1]], [{"role": "user", "content": "a?"}, CHAT[1]]),
        ([{"role": "developer", "content": "Be brief"}, *CHAT[:2]], [{"role": "developer", "content": "Be brief"}, *CHAT[:2]]),
        ([*CHAT[:2], {"from": "observation", "value": "42"}, CHAT[3]], [*CHAT[:2], {"role": "tool", "content": "42"}, CHAT[3]]),
        ([CHAT[1], *CHAT[:2]], [CHAT[1], *CHAT[:2]]),
        ([*CHAT[:2], CHAT[0]], CHAT[:2]),
    ],
    ids=["text", "parts", "developer", "tool", "greeting", "question at the end"],
)  # fmt: skip
def test_forms_of_turns(tmp_path: Path, turns, expected):
    assert conversation(tmp_path, turns) == expected


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([*CHAT[:3], {"role": "assistant", "content": " "}], "turn 4: the last answer is empty"),
        ([CHAT[0], {"role": "assistant", "content": None}], "turn 2: 'content' is missing, expected text"),
        ([{"role": "user", "content": [{"type": "image"}]}, CHAT[1]], "turn 1: a part of type 'image'"),
        ([{"role": "narrator", "content": "x"}, CHAT[1]], "turn 1: role='narrator'; expected one of human, user"),
        ([CHAT[0]], "no turn of the assistant"),
        (["hello"], "turn 1: expected an object, found str"),
        ([CHAT[0], {**CHAT[1], "weight": 0.5}], "turn 2: weight=0.5; expected 0"),
        ("### Human: x", "is text that is not JSON"),
        ([CHAT[0], {**CHAT[1], "tool_calls": "add(1)"}], r"turn 2: tool_calls='add\(1\)'; expected a list of objects"),
        (
            [CHAT[0], {**CHAT[1], "tool_calls": [{"function": "add"}]}],
            "turn 2: tool_calls=.*; expected a list of objects",
        ),
    ],
)
def test_what_is_wrong_with_a_turn_is_said_with_its_number(tmp_path: Path, turns, says: str):
    with pytest.raises(UserError, match=says):
        conversation(tmp_path, turns)


def test_a_greeting_before_the_first_question_is_trained_on_where_the_template_allows_it(tokenizer):
    greeting = {"role": "assistant", "content": "Hello!"}
    assert trained_texts(Renderer(tokenizer, PromptConfig()), [greeting, *CHAT[:2]]) == [
        "Hello!<|im_end|>",
        "It is 3.<|im_end|>",
    ]


def test_dates_are_frozen_in_the_templates_text(tokenizer):
    dated = "{{ strftime_now('%d %b %Y') }}|" + TEMPLATES["plain"]
    tokenizer.chat_template = settled(dated, ModelConfig(template_date="2024-07-26"))
    assert tokenizer.apply_chat_template(CHAT[:1], tokenize=False).startswith("26 Jul 2024|")
    assert settled(dated, ModelConfig()) != settled(dated, ModelConfig(template_date="2024-07-26"))
    by_name = "{% set f = '%Y' %}{{ strftime_now(f) }}"
    tokenizer.chat_template = frozen(by_name, "2024-07-26")
    assert tokenizer.apply_chat_template(CHAT[:1], tokenize=False) == "2024-07-26"
    with pytest.raises(UserError, match="template_date=today"):
        frozen(dated, "today")


def test_template_options_reach_the_template(tokenizer):
    asking = "{% if enable_thinking is defined and not enable_thinking %}off{% else %}on{% endif %}{{ name }}"
    options = {"enable_thinking": False, "name": 'a "b"'}
    tokenizer.chat_template = settled(asking, ModelConfig(template_options=options))
    assert tokenizer.apply_chat_template(CHAT[:1], tokenize=False) == 'offa "b"'
    with pytest.raises(UserError, match=r"template_options.a-b"):
        settled(asking, ModelConfig(template_options={"a-b": 1}))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("  ", "does not write what the user says"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_rendered_is_one_sentence(tokenizer, template: str, says: str):
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=says):
        Renderer(tokenizer, PromptConfig())


@pytest.mark.parametrize(
    ("field", "value"),
    [("reasoning_content", "hm"), ("tool_calls", [{"type": "function", "function": {"name": "add", "arguments": {}}}])],
)
def test_what_the_template_leaves_out_of_an_answer_is_told(tokenizer, field: str, value):
    turns = [CHAT[0], {**CHAT[1], field: value}]
    with pytest.raises(
        ValueError, match=r"turn 2 \(assistant\): the chat template does not write .* of its tool_calls or reasoning"
    ):
        Renderer(tokenizer, PromptConfig()).conversation(turns, "all")
    earlier = [*turns, *CHAT[:2]]
    if field == "reasoning_content":  # of earlier turns templates leave it out on purpose
        assert Renderer(tokenizer, PromptConfig()).conversation(earlier, "all")


def test_what_the_template_writes_beside_the_text_is_taken(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = [CHAT[0], {**CHAT[1], "reasoning_content": "hm"}]
    (segments,) = Renderer(tokenizer, PromptConfig()).conversation(turns, "all")
    answers = [s.text for s in segments if s.loss_mask]
    assert answers == [f"(hm){CHAT[1]['content']}"]


CALLING = (  # turns end with <|end|>, the last with <|return|>, calls of tools with <|call|>, as gpt-oss writes them
    "{% for m in messages %}{{ '<|start|>' + m['role'] }}{% if m['tool_calls'] %}{{ ' to=' + m['tool_calls'][0]['function']['name'] }}"
    "{{ '<|message|>{}<|call|>' }}{% else %}{{ '<|message|>' + m['content'] }}"
    "{% if loop.last and m['role'] == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)  # fmt: skip
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}


def calling(tokenizer) -> Renderer:
    from tokenizers import AddedToken

    ends = [f"<|{name}|>" for name in ("start", "message", "end", "return", "call")]
    tokenizer.add_tokens([AddedToken(end, special=True) for end in ends], special_tokens=True)
    tokenizer.chat_template = CALLING
    return Renderer(tokenizer, PromptConfig())


def test_a_call_of_a_tool_ends_before_what_the_tool_says(tokenizer):
    turns = [CHAT[0], CALL, {"role": "tool", "content": "3"}, CHAT[1]]
    assert trained_texts(calling(tokenizer), turns) == [
        " to=add<|message|>{}<|call|>",
        "<|message|>It is 3.<|return|>",
    ]


def test_another_end_token_in_the_middle_is_not_trained_on(tokenizer):
    assert trained_texts(calling(tokenizer), CHAT) == ["<|message|>It is 3.", "<|message|>4<|return|>"]


def test_a_call_of_a_tool_whose_end_is_not_told_is_refused_with_the_turn(tokenizer):
    renderer = calling(tokenizer)
    tokenizer.chat_template = CALLING.replace("<|call|>' }}", "' }}{% if loop.last %}<|call|>{% endif %}")
    with pytest.raises(ValueError, match=r"turn 2 \(assistant\): the chat template does not tell where its tool calls"):
        renderer.conversation([CHAT[0], CALL, {"role": "tool", "content": "3"}, CHAT[1]], "all")


def test_an_end_token_is_learnt_where_the_template_writes_none(tokenizer):
    tokenizer.chat_template = TEMPLATES["plain"].replace("<|im_end|>", "")
    assert trained_texts(Renderer(tokenizer, PromptConfig()), CHAT) == ["It is 3.", "4<|im_end|>"]


def test_what_a_templates_code_fails_on_is_a_bad_row(tokenizer):
    tokenizer.chat_template = TEMPLATES["plain"] + "{% if messages[0]['name'] %}{{ 'x' + 3 }}{% endif %}"
    renderer = Renderer(tokenizer, PromptConfig())
    with pytest.raises(ValueError, match="the chat template cannot write this conversation"):
        renderer.conversation([{**CHAT[0], "name": "me"}, CHAT[1]], "all")
    tokenizer.chat_template += "{{ 'x' + 3 }}"
    with pytest.raises(UserError, match=r"the chat template cannot be used with prompt=.*model.chat_template=FILE"):
        Renderer(tokenizer, PromptConfig())
