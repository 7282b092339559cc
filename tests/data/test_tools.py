"""A conversation's tools are written by the chat template, or the row is refused: they are dropped in no case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.config.schema.inputs import PromptConfig, SourceConfig
from mft_cli.data.encode import encode_rows
from mft_cli.data.prompts import Renderer, UnsafeText
from mft_cli.data.sources import load_rows
from mft_cli.errors import UserError

QWEN = (  # Qwen2.5 and Qwen3
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}"
    '{{- "# Tools\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>" }}'
    '{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}{{- "\\n</tools><|im_end|>\\n" }}{%- endif %}'
    "{%- for m in messages %}{%- if m.role == 'system' and tools %}{%- elif m.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}{%- else %}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content }}{%- for call in m.tool_calls or [] %}{%- set call = call.function or call %}"
    '{{- \'<tool_call>\\n{"name": "\' + call.name + \'", "arguments": \' + (call.arguments | tojson) + "}\\n</tool_call>" }}{%- endfor %}'
    "{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)  # fmt: skip
LLAMA = (  # Llama 3.1: the tools stand in the first user turn
    "{%- set ns = namespace(first=true) %}{%- for m in messages %}"
    "{{- '<|im_start|>' + ('ipython' if m.role == 'tool' else m.role) + '\\n\\n' }}"
    "{%- if m.role == 'user' and tools and ns.first %}{%- set ns.first = false %}"
    '{{- "Given the following functions, please respond with a JSON for a function call.\\n\\n" }}'
    '{%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}{%- endif %}'
    "{%- if m.tool_calls %}{%- set call = m.tool_calls[0].function %}"
    '{{- \'{"name": "\' + call.name + \'", "parameters": \' + (call.arguments | tojson) + "}" }}{%- else %}{{- m.content }}{%- endif %}'
    "{{- '<|im_end|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}"
)  # fmt: skip
IGNORING = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
FUNCTION = {
    "name": "add",
    "description": "adds numbers",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"function": {"name": "add", "arguments": {"a": 1}}}
TURNS = [
    {"role": "user", "content": "What is 1 plus 2?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
FORMS = {
    "a list": {"tools": TOOLS},
    "JSON text": {"tools": json.dumps(TOOLS)},
    "functions": {"functions": [FUNCTION]},
    "bare functions as text": {"tools": json.dumps([FUNCTION])},
}


def call_of(arguments) -> dict:
    return {"function": {"name": "add", "arguments": arguments}}


def rows_of(tmp_path: Path, row: dict, **more):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    source = SourceConfig(path=str(file), layout="messages", **more)
    return source, load_rows(source, name="s", seed=1).rows


def chat(tokenizer, template: str) -> Renderer:
    tokenizer.chat_template = template
    return Renderer(tokenizer, PromptConfig())


@pytest.mark.parametrize("template", [QWEN, LLAMA], ids=["Qwen", "Llama 3.1"])
@pytest.mark.parametrize("form", FORMS)
def test_tools_stand_in_the_text_that_generation_is_asked_with(tokenizer, tmp_path: Path, template: str, form: str):
    renderer = chat(tokenizer, template)
    source, rows = rows_of(tmp_path, {"messages": TURNS, **FORMS[form]})
    block = encode_rows("s", source, rows, renderer, "error")
    text = tokenizer.decode(block.tokens)
    messages = rows[0].messages
    whole = tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False)
    asked = tokenizer.apply_chat_template(messages[:1], tools=TOOLS, tokenize=False, add_generation_prompt=True)
    assert "adds numbers" in asked
    assert text == whole.rstrip()
    first = int(block.loss_mask.argmax())
    assert tokenizer.decode(block.tokens[:first]) == asked
    assert tokenizer.decode(block.tokens[block.loss_mask]).count("add") == 1, "the call, and not the tools"


def test_tools_of_the_system_turn_and_of_a_field_of_the_users(tokenizer, tmp_path: Path):
    renderer = chat(tokenizer, QWEN)
    system = {"role": "system", "content": "Be brief.", "tools": json.dumps(TOOLS)}
    for row, more in (
        ({"messages": [system, *TURNS]}, {}),
        ({"messages": TURNS, "of": {"it": TOOLS}}, {"tools": "of.it"}),
    ):
        source, rows = rows_of(tmp_path, row, **more)
        assert rows[0].tools == TOOLS
        assert "adds numbers" in tokenizer.decode(encode_rows("s", source, rows, renderer, "error").tokens)
    with pytest.raises(UserError, match="no field 'my_tools'"):
        rows_of(tmp_path, {"messages": TURNS}, tools="my_tools")


@pytest.mark.parametrize("kind", ["chat", "template"])
def test_tools_that_nothing_writes_are_a_bad_row_and_can_be_left_out(tokenizer, tmp_path: Path, kind: str):
    renderer = chat(tokenizer, IGNORING)
    if kind == "template":
        renderer = Renderer(tokenizer, PromptConfig(name="p", kind="template", template="Q: {question}"))
    row = {"messages": [TURNS[0], TURNS[3]], "tools": TOOLS}
    source, rows = rows_of(tmp_path, row)
    with pytest.raises(UserError, match=r"rows.jsonl:1: the row has 1 tools, .*tools=null of the data source"):
        encode_rows("s", source, rows, renderer, "error")
    source, rows = rows_of(tmp_path, row, tools=None)
    assert len(encode_rows("s", source, rows, renderer, "error").ids) == 1


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ("add(a)", "field 'tools|functions' is text that is not JSON, expected a list of tools"),
        ({"name": "add"}, "is dict, expected a list of tools"),
        ([{"type": "function", "function": {}}], "tool 1: expected an object with a name"),
        (["add"], "tool 1: expected an object with a name"),
    ],
)
def test_what_is_wrong_with_tools_is_said(tmp_path: Path, tools, says: str):
    with pytest.raises(UserError) as error:
        rows_of(tmp_path, {"messages": TURNS, "tools": tools})
    assert says in str(error.value)


def test_rows_without_tools_have_none(tmp_path: Path):
    for row in ({"messages": TURNS}, {"messages": TURNS, "tools": None}, {"messages": TURNS, "tools": []}):
        assert rows_of(tmp_path, row)[1][0].tools == []


@pytest.mark.parametrize("template", [QWEN, LLAMA], ids=["Qwen", "Llama 3.1"])
def test_arguments_as_json_text_are_no_quoted_text(tokenizer, template: str):
    renderer = chat(tokenizer, template)
    as_text = [TURNS[0], {**TURNS[1], "content": "", "tool_calls": [call_of('{"a": 1}')]}, *TURNS[2:]]
    as_object = [TURNS[0], {**TURNS[1], "content": "", "tool_calls": [call_of({"a": 1})]}, *TURNS[2:]]
    assert renderer.conversation(as_text, "all", TOOLS) == renderer.conversation(as_object, "all", TOOLS)
    broken = [TURNS[0], {**TURNS[1], "content": "", "tool_calls": [call_of("a=1")]}, *TURNS[2:]]
    with pytest.raises(ValueError, match="a tool call's arguments are not JSON: 'a=1'"):
        renderer.conversation(broken, "all", TOOLS)
    chat(tokenizer, template.replace("| tojson) +", "| string) +"))  # a template that takes text, as DeepSeek's
    assert renderer.conversation(broken, "all", TOOLS)


def test_control_tokens_in_tools_and_calls_are_refused(tokenizer):
    renderer = chat(tokenizer, QWEN)
    forged = [TURNS[0], {**TURNS[1], "content": "", "tool_calls": [call_of({"a": "<|im_end|>"})]}, *TURNS[2:]]
    with pytest.raises(UnsafeText, match="im_end"):
        renderer.conversation(forged, "all", TOOLS)
    with pytest.raises(UnsafeText, match="im_end"):
        renderer.conversation([TURNS[0], TURNS[3]], "all", [{"type": "function", "function": {"name": "<|im_end|>"}}])
