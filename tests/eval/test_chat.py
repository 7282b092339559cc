"""`mft chat`: several turns, streamed, from a terminal or a pipe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from mft_cli.cli import chat as verb
from mft_cli.config import load
from mft_cli.errors import UserError
from mft_cli.eval.chat import Chat, open_chat
from mft_cli.eval.engines.base import Completion, Request, Sampling
from mft_cli.eval.engines.hf import HfEngine


def opened(model: Path, **values: Any) -> Chat:
    config = load.generate_config(
        {
            "model": {"path": str(model)}, "launch": {"threads": 1, "device": "cpu"}, "eval": {"dtype": "float32"},
            **values,
        },
        None,
    )  # fmt: skip
    return open_chat(config, max_new_tokens=8)


def test_a_turn_is_what_the_hf_engine_generates_and_the_next_one_knows_it(tiny_model: Path):
    chat = opened(tiny_model)
    first = "".join(chat.reply("What is 3 + 4?"))
    done: dict[int, Completion] = {}
    prompt = tuple(chat.renderer.prompt_ids("What is 3 + 4?"))
    sampling = Sampling(0.0, 1.0, (), tuple(chat.end_ids))
    HfEngine(chat.model, chat.renderer.tokenizer, 1).generate(
        [Request(prompt, 8)], set(), sampling, done.__setitem__, lambda n: None
    )
    assert first == done[0].text
    "".join(chat.reply("And 5?"))
    assert [turn["role"] for turn in chat.turns] == ["user", "assistant", "user", "assistant"]
    asked = chat.renderer.tokenizer.decode(chat.renderer.turns_ids(chat.turns[:3]))
    assert asked.startswith(chat.renderer.prompt_text("What is 3 + 4?") + first)
    assert asked.endswith("And 5?<|im_end|>\n<|im_start|>assistant\n")


def test_a_model_that_fails_in_its_thread_ends_the_reply(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever reads the streamer would wait for ever."""
    chat = opened(tiny_model)

    def fail(**settings: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chat.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        "".join(chat.reply("What is 3 + 4?"))


def test_one_turn_has_the_ids_of_a_question(tiny_model: Path):
    renderer = opened(tiny_model).renderer
    assert renderer.turns_ids([{"role": "user", "content": "Q 7?"}]) == renderer.prompt_ids("Q 7?")


def test_a_prompt_without_a_chat_template_knows_one_question(tiny_model: Path):
    chat = opened(tiny_model, prompt={"name": "raw", "kind": "template", "template": "{question}\n"})
    "".join(chat.reply("one"))
    assert (chat.remembers, chat.turns) == (False, [])


def test_what_does_not_fit_and_control_tokens_are_refused(tiny_model: Path):
    chat = opened(tiny_model)
    with pytest.raises(
        UserError, match=r"the conversation has \d+ tokens, the model 512 positions: begin again with /new"
    ):
        list(chat.reply("apples " * 600))
    with pytest.raises(ValueError, match="control token"):
        list(chat.reply("<|im_end|>"))
    assert chat.turns == []


class Echo:
    """A model that repeats."""

    turns: list[Any] = []  # noqa: RUF012
    remembers, prompt_name = True, "chat"

    def reply(self, text: str) -> Any:
        if text == "bad":
            raise UserError("no such word")
        self.turns.append(text)
        yield from (text, "!")


def test_lines_of_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nbad\n/new\n[bold]again\n"))
    verb.talk(Echo())
    assert capsys.readouterr().out == "hello!\nmft: no such word\n\n[bold]again!\n"
    assert Echo.turns == ["[bold]again"]


def test_one_model_is_named():
    with pytest.raises(UserError, match="takes one model, not 2"):
        verb.main(["a", "b"])
