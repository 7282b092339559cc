"""`mft data show`: training examples as the model sees them, in colour, before anything is paid for."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from mft_cli.api.examples import load_examples
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.examples import Examples
from mft_cli.data.pack import IGNORE, make_batch
from mft_cli.methods.base import Method
from mft_cli.rng import Draw

BRACKETS = {"masked": ("⟦", "⟧"), "dropped": ("⟨", "⟩")}  # where there is no colour
STYLES = {"prompt": "dim", "trained on": "green", "masked": "bold white on red", "dropped": "yellow"}


def show(config: TrainConfig, *, rows: int, progress: float, epoch: int) -> None:
    """Print `rows` training examples of epoch `epoch`, corrupted as at `progress` of training."""
    console = Console(highlight=False, soft_wrap=True)
    tokenizer, method, loaded = load_examples(config, console.print)
    for line in [*loaded.lines, *method.facts()]:
        console.print(line, style="dim", markup=False)
    if legend := legend_of(method, console.is_terminal):
        console.print(legend)
    for i in range(min(rows, len(loaded.train))):
        console.rule(f"[dim]{loaded.train.key(i)}")
        text, counts = render(
            loaded.train, i, epoch, method, progress, Draw(config.seed), tokenizer, console.is_terminal
        )
        console.print(text)
        console.print(counts, style="dim", markup=False)


def legend_of(method: Method, colour: bool) -> Text:
    """What colours, or brackets, stand for: those that this method's examples can have. Without colour it may be empty."""
    words = {"prompt": "prompt", "trained on": "trained on"} if colour else {}
    words |= {"masked": method.marked_as} if method.marked_as else {}
    words |= {"dropped": "label dropped"} if method.drops_labels else {}
    return Text(" ").join(marked(kind, word, colour) for kind, word in words.items())


def marked(kind: str, text: str, colour: bool) -> Text:
    """Text in the colour, or between the brackets, of its kind."""
    opening, closing = ("", "") if colour else BRACKETS.get(kind, ("", ""))
    return Text(opening + text + closing, STYLES[kind])


def render(
    examples: Examples,
    i: int,
    epoch: int,
    method: Method,
    progress: float,
    draw: Draw,
    tokenizer: Any,
    colour: bool,
) -> tuple[Text, str]:
    """One example as coloured text, and a line of counts."""
    clean = make_batch(examples, [[i]], epoch, int(tokenizer.pad_token_id))
    done = method.corrupt(clean, progress, draw)
    touched = done.batch.input_ids != clean.input_ids
    changed = (touched if done.noisy is None else touched | done.noisy)[0].tolist()
    dropped = [False, *((clean.labels != IGNORE) & (done.batch.labels == IGNORE))[0].tolist()[:-1]]
    loss_mask, text = clean.loss_mask[0].tolist(), Text()
    for kind, ids in runs(clean.input_ids[0].tolist(), loss_mask, changed, dropped):
        text += marked(kind, tokenizer.decode(ids), colour)
    share = done.shares.get("masked_share")
    word = "with noise" if done.noisy is not None else "not trained on" if method.drops_labels else "masked"
    masked = f", {share[0]} of {share[1]} candidates {word}" if share else ""
    spans = ", ".join(
        f"span {n}: {int(((clean.spans[0] >> b) & 1).sum())} tokens" for b, n in enumerate(examples.span_names)
    )
    counts = f"{len(loss_mask)} tokens, {done.counts['ce']} labels{masked}" + (f", {spans}" if spans else "")
    told = method.describe(done)
    counts += f"\n{told}" if told else ""
    return text, counts


def runs(ids: list[int], loss_mask: list[bool], masked: list[bool], dropped: list[bool]) -> list[tuple[str, list[int]]]:
    """Consecutive tokens of one kind together, so that characters of several tokens are decoded whole."""
    result: list[tuple[str, list[int]]] = []
    for token, in_loss, is_masked, is_dropped in zip(ids, loss_mask, masked, dropped, strict=True):
        kind = "masked" if is_masked else "dropped" if is_dropped else "trained on" if in_loss else "prompt"
        if not result or result[-1][0] != kind:
            result.append((kind, []))
        result[-1][1].append(token)
    return result
