"""`mft chat`: its help, its options and what it calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import composed, read_options
from mft_cli.config.schema.base import STRICT, AtLeastOne, NonNegative, Share, key
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.data.conversations import Turn
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft chat`."""

    max_new_tokens: AtLeastOne = key(512, "Longest answer in tokens.")
    temperature: NonNegative = key(0.0, "Sampling temperature; 0 is greedy.")
    top_p: Share = key(1.0, "Nucleus sampling.")


def main(arguments: list[str]) -> None:
    from mft_cli.config.load import generate_config

    options, rest = read_options(Options, "chat", arguments, EvalRunConfig)
    folders = [word for word in rest if "=" not in word and not word.startswith("-")]
    if len(folders) > 1:
        raise UserError(f"mft chat takes one model, not {len(folders)}: mft chat outputs/<run>/export")
    words = [word for word in rest if word not in folders] + [f"model.path={folder}" for folder in folders]

    def task(config: EvalRunConfig) -> None:
        from mft_cli.eval.chat import open_chat

        talk(
            open_chat(
                config, max_new_tokens=options.max_new_tokens, temperature=options.temperature, top_p=options.top_p
            )
        )

    composed("eval", words, lambda values: generate_config(values, None), task)


class Conversation(Protocol):
    """mft_cli.eval.chat.Chat, which brings torch."""

    turns: list[Turn]

    @property
    def remembers(self) -> bool: ...

    @property
    def prompt_name(self) -> str: ...

    def reply(self, text: str) -> Iterator[str]: ...


def talk(chat: Conversation) -> None:
    """Asks and prints until the input ends."""
    from rich.console import Console

    console = Console(highlight=False)
    if not chat.remembers:
        console.print(f"prompt {chat.prompt_name}: every question is asked by itself", style="dim")
    for text in questions(console.is_terminal):
        if text == "/new":
            chat.turns.clear()
            continue
        try:
            for piece in chat.reply(text):
                console.out(piece, end="")
        except (UserError, ValueError) as error:  # a control token in the text
            console.print(f"mft: {error}", style="red", markup=False)
        console.out("")


def questions(terminal: bool) -> Iterator[str]:
    """Lines of the terminal, or of a pipe; empty ones are left out."""
    if terminal:
        print("/new begins again, Ctrl-D ends", flush=True)
    while True:
        try:
            line = input("> ") if terminal else sys.stdin.readline()
        except EOFError:
            return
        if not terminal and not line:
            return
        if line.strip():
            yield line.strip()


HELP = """mft chat: talk to a model in the terminal, in several turns

  mft chat outputs/<run>/export                                  with the prompt that the model was trained with
  mft chat outputs/<run>/export/adapter temperature=0.7 top_p=0.95
  mft chat model=smollm2_135m                                    a model preset
  mft chat outputs/<run>/export prompt=alpaca                    another prompt; one without a chat template forgets
  echo "What is 2 + 2?" | mft chat outputs/<run>/export          questions from a pipe, a line each

/new begins again, Ctrl-D ends. The model runs in plain transformers, on a GPU where there is one (launch.device, eval.dtype).
Options: max_new_tokens=512 temperature=0 top_p=1
"""
