"""Conversations as data sets write them: {"role", "content"} or ShareGPT's {"from", "value"} turns, texts in parts, tools."""

from __future__ import annotations

import json
import re
from typing import Any, NotRequired, TypedDict

from mft_cli.data.files import BadRow

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "model": "assistant", "system": "system", "developer": "developer", "tool": "tool", "function": "tool",
    "observation": "tool", "ipython": "tool",
}  # fmt: skip
HANDED_ON = ("name", "tool_calls", "tool_call_id", "reasoning_content")  # what chat templates read besides the text


class Turn(TypedDict):
    """One turn, as chat templates take it."""

    role: str
    content: str
    weight: NotRequired[float]  # 0: the turn is not trained on
    name: NotRequired[str]
    tool_calls: NotRequired[list[Any]]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str]


def conversation(turns: Any, location: str, *, split: bool = False, ends: bool = True) -> list[Turn]:
    """Checked turns; with `ends` they end in an answer: questions after the last answer are left out.

    `turns` is a list, a list as JSON text, or with `split` a text of "### Human: ..." and "### Assistant: ..." turns.
    Raises BadRow, which names the turn (from 1) and what is in it.
    """
    if isinstance(turns, str):
        turns = split_turns(turns) if split else from_json(turns, location)
    if not isinstance(turns, list):
        raise BadRow(f"{location} is {type(turns).__name__}, expected a list of turns")
    result = [as_turn(turn, f"{location}, turn {number}") for number, turn in enumerate(turns, 1)]
    if not ends:
        return result
    while result and result[-1]["role"] != "assistant":
        result.pop()  # a last question without an answer teaches nothing
    if not result:
        raise BadRow(f"{location}: no turn of the assistant")
    if not result[-1]["content"].strip() and not result[-1].get("tool_calls"):
        raise BadRow(f"{location}, turn {len(result)}: the last answer is empty")
    return result


def from_json(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BadRow(
            f"{location} is text that is not JSON, expected a list of turns (layout=text_turns reads ### Human:)"
        ) from None


def tools_of(value: Any, location: str) -> list[dict[str, Any]]:
    """Tools in OpenAI's form, of a list or its JSON text; functions by themselves get their envelope. Raises BadRow."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRow(f"{location} is text that is not JSON, expected a list of tools") from None
    if not value:
        return []
    if not isinstance(value, list):
        raise BadRow(f"{location} is {type(value).__name__}, expected a list of tools")
    result = [t if isinstance(t, dict) and "function" in t else {"type": "function", "function": t} for t in value]
    for number, tool in enumerate(result, 1):
        function = tool["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f"{location}, tool {number}: expected an object with a name (OpenAI's form)")
    return result


def tools_of_turns(turns: Any) -> Any:
    """The tools that a turn itself names, as some data sets write them into the system turn; None where none does."""
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return next((turn[key] for turn in turns for key in ("tools", "functions") if turn.get(key)), None)


def as_turn(turn: Any, location: str) -> Turn:
    if not isinstance(turn, dict):
        raise BadRow(f"{location}: expected an object, found {type(turn).__name__}")
    role_key, content_key = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    role = ROLES.get(str(turn.get(role_key)).lower())
    if role is None:
        raise BadRow(f"{location}: {role_key}={turn.get(role_key)!r}; expected one of {', '.join(ROLES)}")
    result: Turn = {"role": role, "content": content_text(turn, content_key, location)}
    for key in HANDED_ON:
        if turn.get(key) is not None:
            result[key] = turn[key]  # type: ignore[literal-required]
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list) or not all(
        isinstance(call, dict) and isinstance(call.get("function", call), dict) for call in calls
    ):
        raise BadRow(f"{location}: tool_calls={str(calls)[:60]!r}; expected a list of objects (OpenAI's form)")
    weight = turn.get("weight", 1)
    if weight is not None and weight != 1:
        if isinstance(weight, bool) or weight != 0:
            raise BadRow(f"{location}: weight={weight!r}; expected 0 (not trained on) or 1")
        result["weight"] = 0.0
    return result


def content_text(turn: dict[str, Any], key: str, location: str) -> str:
    """The text of a turn; parts of type text are joined, and a turn that only calls tools has none."""
    content = turn.get(key)
    if content is None and turn.get("tool_calls"):
        return ""
    if isinstance(content, list):
        parts = [part for part in content if not (isinstance(part, dict) and isinstance(part.get("text"), str))]
        if parts:
            kind = parts[0].get("type") if isinstance(parts[0], dict) else type(parts[0]).__name__
            raise BadRow(f"{location}: a part of type {kind!r} in {key!r}; only text is trained on")
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise BadRow(
            f"{location}: {key!r} is {'missing' if content is None else type(content).__name__}, expected text"
        )
    return content


def quoted_arguments(messages: list[Turn]) -> list[str]:
    """What a template writes of tool calls' arguments that are JSON text (OpenAI's form) where it expects objects: quoted text."""
    functions = [call.get("function", call) for turn in messages for call in turn.get("tool_calls", [])]
    given = [function.get("arguments") for function in functions if isinstance(function, dict)]
    return [json.dumps(text, ensure_ascii=False) for text in given if isinstance(text, str)]


def with_objects(messages: list[Turn]) -> list[Turn]:
    """The conversation with tool calls' arguments as objects. Raises ValueError for text that is not JSON."""
    return [
        {**turn, "tool_calls": [call_with_object(call) for call in turn["tool_calls"]]}
        if turn.get("tool_calls")
        else turn
        for turn in messages
    ]


def call_with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function = {**function, "arguments": json.loads(arguments)}
        except ValueError:
            raise ValueError(f"a tool call's arguments are not JSON: {arguments[:60]!r}") from None
    return {**call, "function": function} if "function" in call else function


def split_turns(text: str) -> list[dict[str, str]]:
    """One text of "### Human: ..." and "### Assistant: ..." turns (Guanaco's form) as messages."""
    parts = re.split(r"### (Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[r], "content": c.strip()} for r, c in zip(parts[1::2], parts[2::2], strict=True)]
