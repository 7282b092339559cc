"""`mft generate` and eval.decode: plain and refine, from a run's export; decoding sees what training saw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mft_cli.cli.generate import Options, read_questions
from mft_cli.config.load import generate_config
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.data.pack import make_batch
from mft_cli.errors import UserError
from mft_cli.eval.engines.base import Engine, Loading, Request, Sampling
from mft_cli.eval.engines.decoders import DecoderEngine, decoder_settings
from mft_cli.eval.engines.hf import HfEngine, Row, load_model
from mft_cli.eval.engines.load import choose_engine
from mft_cli.eval.generate import Asked, generate
from mft_cli.methods.decoding import DecoderSettings
from mft_cli.methods.refine.decode import RefineDecoder
from mft_cli.methods.refine.folder import read_head
from mft_cli.methods.refine.text import Text
from mft_cli.train.run import train
from tests.methods.test_chunk_refine import make_examples
from tests.methods.test_contract import settings
from tests.support.tiny import mft

HEAD = {"width": 32, "heads": 4, "layers": 1, "chunk_size": 8, "max_steps": 4}
PROMPTS = [(1, 50, 60, 70, 44, 45, 46, 47, 48, 49), (1, 80), (1, *range(90, 110))]


@pytest.fixture(scope="module")
def runs(tiny_model, problem_file, tmp_path_factory) -> dict[str, Path]:
    """Exports of two short runs: states of the backbone, and embeddings alone."""
    found = {}
    for hidden in ("backbone", "embedding"):
        folder = tmp_path_factory.mktemp(hidden)
        variant = {**HEAD, "hidden": hidden, "partial_fill": 0.5}
        train(settings(tiny_model, problem_file, "chunk_refine", variant, folder))
        found[hidden] = folder / "export"
    return found


def engine(
    export: Path, tokenizer, batch_size: int = 4, accept: int = 3, decode: str = "refine", steps: int | None = None
) -> DecoderEngine:
    loading = Loading(decode, str(export), None, str(export), "float32", "cpu", 512, False)
    return DecoderEngine(loading, tokenizer, batch_size, DecoderSettings(accept, "confidence", steps))


def run(made: Engine, requests: list[Request], sampling: Sampling) -> dict:
    found: dict = {}
    made.generate(requests, set(), sampling, found.__setitem__, lambda n: None)
    return found


@pytest.mark.parametrize("hidden", ["backbone", "embedding"])
def test_decoding_sees_what_training_saw(runs, hidden):
    """The head's states of a masked third chunk: cached, left-padded decoding against the training path on a packed row."""
    from mft_cli.config.schema.methods import ChunkRefineConfig
    from mft_cli.methods.chunk_refine import ChunkRefine, layout_of
    from mft_cli.methods.refine.layout import choose_tokens, find_chunks, lay_out
    from mft_cli.models.kernels.backends import resolve
    from mft_cli.rng import Draw

    export = runs[hidden]
    model, head = load_model(export, "float32", "cpu", False), read_head(export).eval()
    prompt, finished = PROMPTS[0], list(range(60, 76))  # two finished chunks of 8
    decoder = RefineDecoder(model, export, DecoderSettings(3))
    with torch.no_grad():
        decoder.start([PROMPTS[2], prompt], (2,))  # the longer one pads the other
        for i in (0, 8):
            ids = torch.tensor([finished[i : i + 8]] * 2)
            decoder.finish(ids, torch.ones_like(ids, dtype=torch.bool))
        ids = torch.full((2, 8), head.settings.mask_id)
        open_ = torch.ones_like(ids, dtype=torch.bool)
        decoded, _ = decoder.refine(ids, open_, open_.any(1))
    batch = make_batch(make_examples([[len(prompt), 24]]), [[0]], 0, 2)
    batch.input_ids[0] = torch.tensor([*prompt, *finished, *[77] * 8])
    method = ChunkRefine(ChunkRefineConfig(**HEAD, hidden=hidden))
    chunks = find_chunks(batch, 8)
    masked = torch.arange(len(chunks.row)) == len(chunks.row) - 1
    tokens = choose_tokens(batch, chunks, masked, 0.0, Draw(1))
    batch.input_ids = batch.input_ids.masked_fill(tokens, head.settings.mask_id)
    batch.extra = vars(lay_out(batch, chunks, masked, tokens, 8))
    model.set_attn_implementation(resolve("sdpa", "cpu"))
    model.refine_head = head
    with torch.no_grad():
        trained, _ = method.refine(model, method.states(model, batch), layout_of(batch))
    assert int(trained.steps[0, 0]) == int(decoded.steps[1, 0])
    torch.testing.assert_close(decoded.hidden[1, 0], trained.hidden[0, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hidden", ["backbone", "embedding"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_refine_does_not_depend_on_the_neighbours(runs, tokenizer, hidden, temperature):
    requests = [Request(p, 20, seed=i) for i, p in enumerate(PROMPTS)]
    sampling = Sampling(temperature, 0.9, (), (2,))
    together = run(engine(runs[hidden], tokenizer, 4), requests, sampling)
    assert together == run(engine(runs[hidden], tokenizer, 1), requests, sampling)
    assert all(c.tokens <= 20 for c in together.values())
    assert all("<mask>" not in c.text for c in together.values())


def test_an_end_token_ends_it(runs, tokenizer):
    """With every token an end token, a completion is one token long; nothing behind it is waited for."""
    made = engine(runs["backbone"], tokenizer)
    found = run(made, [Request(p, 20) for p in PROMPTS], Sampling(0.0, 1.0, (), tuple(range(385))))
    assert {(c.finish_reason, c.tokens, c.text) for c in found.values()} == {("stop", 1, "")}
    tally = made.decoder.tally
    assert tally.chunks == 3
    assert tally.rounds >= 3
    assert tally.steps >= 2 * tally.refinements


def test_fewer_accepted_tokens_make_more_rounds(runs, tokenizer):
    rounds = {}
    for accept in (1, 4, 8):
        made = engine(runs["backbone"], tokenizer, accept=accept)
        run(made, [Request(PROMPTS[0], 8)], Sampling(0.0, 1.0, (), ()))
        rounds[accept] = made.decoder.tally.rounds
    assert rounds == {1: 8, 4: 2, 8: 1}


@pytest.mark.parametrize(("order", "slots"), [("left", [0, 1]), ("confidence", [1, 2])])
def test_tokens_are_accepted_from_the_left_or_the_surest_first(runs, order, slots):
    export = runs["backbone"]
    chosen = decoder_settings(EvalConfig(refine_accept=2, refine_order=order, refine_steps=3))
    decoder = RefineDecoder(load_model(export, "float32", "cpu", False), export, chosen)
    assert decoder.accepted(torch.tensor([0.1, 0.9, 0.8])).tolist() == slots
    assert decoder.accepted(torch.tensor([0.3])).tolist() == [0]
    assert RefineDecoder.facts(export, chosen)["refine_steps"] == 3


def test_whole_chunks_stay_inside_the_context(runs, tokenizer):
    """512 positions: a prompt of 500 leaves one chunk of 8; one of 506 leaves none."""
    requests = [Request((1, *[50] * 499), 12), Request((1, *[50] * 505), 6)]
    found = run(engine(runs["backbone"], tokenizer), requests, Sampling(0.0, 1.0, (), ()))
    assert [found[i].tokens for i in (0, 1)] == [8, 0]


# ---- decode=verify --------------------------------------------------------------------------------------------------


def plain_engine(export: Path, tokenizer) -> HfEngine:
    return HfEngine(load_model(export, "float32", "cpu", False), tokenizer, 4)


def requests_of(tokens: int) -> list[Request]:
    return [Request(p, tokens - 3 * i, seed=i) for i, p in enumerate(PROMPTS)]


@pytest.mark.parametrize("hidden", ["backbone", "embedding"])
@pytest.mark.parametrize("sampling", [Sampling(0.0, 1.0, (), (2,)), Sampling(0.9, 0.95, ("7",), (2,))])
def test_verified_text_is_the_plain_one_token_for_token(runs, tokenizer, hidden, sampling):
    """Greedy, and sampled with the same random numbers; the rows of a batch are of different lengths."""
    plain = run(plain_engine(runs[hidden], tokenizer), requests_of(40), sampling)
    made = engine(runs[hidden], tokenizer, decode="verify")
    assert run(made, requests_of(40), sampling) == plain
    tally = made.decoder.tally
    assert tally.tokens >= tally.passes  # never more passes than plain decoding
    assert run(engine(runs[hidden], tokenizer, 1, decode="verify"), requests_of(40), sampling) == plain


@pytest.mark.parametrize("hidden", ["backbone", "embedding"])
def test_right_drafts_save_passes_and_wrong_ones_change_nothing(runs, tokenizer, hidden, monkeypatch):
    """The draft is the backbone's own text with every tenth token wrong."""
    greedy = Sampling(0.0, 1.0, (), ())
    model = plain_engine(runs[hidden], tokenizer)
    text: list[int] = []
    monkeypatch.setattr(Row, "finished", lambda row, _: len(row.ids) >= 40 and not text.extend(row.ids))
    plain = run(model, [Request(PROMPTS[0], 40)], greedy)
    monkeypatch.undo()
    made = engine(runs[hidden], tokenizer, decode="verify")
    draft_of = made.decoder.refine

    def mostly_right(read: torch.Tensor) -> list[list[int]]:
        at = made.decoder.tally.tokens
        return [[3 if (at + i) % 10 == 0 else t for i, t in enumerate(text[at : at + len(d)])] for d in draft_of(read)]

    monkeypatch.setattr(made.decoder, "refine", mostly_right)
    assert run(made, [Request(PROMPTS[0], 40)], greedy) == plain
    assert made.decoder.tally.accepted > 20
    assert made.decoder.tally.tokens / made.decoder.tally.passes > 2


def test_the_heads_worth_can_be_asked(runs, tokenizer):
    """refine_steps=0 drafts with the backbone's own states of the mask tokens."""
    made = engine(runs["backbone"], tokenizer, decode="verify", steps=0)
    made.decoder.start(PROMPTS, (2,))
    hidden = torch.randn(3, 8, made.decoder.readings.shape[-1])
    torch.testing.assert_close(made.decoder.refined(hidden).hidden[:, 0], hidden)


def test_the_first_open_slot_of_refine_is_the_backbones(runs, tokenizer):
    """Accepting one token from the left in each round is the backbone's own greedy text."""
    greedy = Sampling(0.0, 1.0, (), (2,))
    loading = Loading("refine", str(runs["backbone"]), None, str(runs["backbone"]), "float32", "cpu", 512, False)
    left = DecoderEngine(loading, tokenizer, 4, DecoderSettings(1, "left"))
    assert run(left, requests_of(24), greedy) == run(plain_engine(runs["backbone"], tokenizer), requests_of(24), greedy)


def test_refine_says_so_where_the_head_never_saw_a_partly_filled_chunk(runs, tokenizer):
    made = engine(runs["backbone"], tokenizer)
    assert "not trained on partly filled chunks" not in made.decoder.describe()
    made.decoder.settings = replace(made.decoder.settings, partial_fill=0.0)
    assert "not trained on partly filled chunks" in made.decoder.describe()


def test_sliding_windows_cannot_take_a_token_back():
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=4,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"sliding-window attention.*eval\.decode=plain"):
        Text(MistralForCausalLM(config), [(1, 2)])


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_generate_both_ways(runs, tmp_path, capsys):
    rows = {}
    for decode in ("plain", "refine"):
        values = {"model": {"path": str(runs["backbone"])}, "launch": {"threads": 1, "device": "cpu"}}
        values["eval"] = {"engine": "hf", "dtype": "float32"}
        asked = Asked(["What is 2 + 3?", "And 4?"], tmp_path / f"{decode}.jsonl", max_new_tokens=12, samples=2)
        rows[decode] = generate(generate_config(values, decode), asked)
        assert [json.loads(line) for line in asked.out.open()] == rows[decode]
        assert [r["question"] for r in rows[decode]] == ["What is 2 + 3?"] * 2 + ["And 4?"] * 2
        assert {r["decode"] for r in rows[decode]} == {decode}
        assert all(0 < r["tokens"] <= 12 for r in rows[decode])
    assert "refinement steps a round" in capsys.readouterr().out


def test_the_command_line(runs, problem_file, tmp_path):
    """One training command evaluates by refinement; generate takes words, files and pipes."""
    export = runs["backbone"]
    common = [f"model.path={export}", "eval.dtype=float32", "launch.device=cpu", "launch.threads=1", "max_new_tokens=9"]
    one = mft("generate", *common, "decode=refine", "What is x if 2x = 4?", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    assert "by refine" in one.stderr
    assert "refinement steps a round" in one.stdout
    benchmark = [
        f"eval.benchmarks.sums.source.path={problem_file}", "eval.benchmarks.sums.source.response=answer",
        "eval.benchmarks.sums.gold_marker='####'", "eval.benchmarks.sums.limit=4",
        "eval.benchmarks.sums.max_new_tokens=10",
    ]  # fmt: skip
    args = [*common[:-1], *benchmark, "eval.decode=refine", "run_dir=eval_refine"]
    done = mft("eval", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "eval_refine" / "eval" / "sums" / "metrics.json").read_text())
    assert metrics["n"] == 4
    assert metrics["engine"]["name"] == "refine"
    assert len(metrics["engine"]["head"]) > 10


def test_where_questions_come_from(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "a?", "id": 3}\n\nb?\n')
    with open(file) as piped:
        assert read_questions(Options(), [], piped) == ["a?", "b?"]
    with open(file) as piped:
        assert read_questions(Options(question="x=1"), ["c?"], piped) == ["c?", "x=1"]
        assert read_questions(Options(file=file), [], piped) == ["a?", "b?"]
    file.write_text('{"prompt": "a?"}\n')
    with pytest.raises(UserError, match=r"questions\.jsonl:1"):
        read_questions(Options(file=file), [], open(file))  # noqa: SIM115
    with pytest.raises(UserError, match="no such file"):
        read_questions(Options(file=Path("missing")), [], open(file))  # noqa: SIM115


def test_mistakes_are_told(tiny_model, tmp_path):
    values = {"model": {"path": str(tiny_model)}, "launch": {"device": "cpu"}}
    with pytest.raises(UserError, match="method=chunk_refine exports"):
        generate(generate_config(values, "refine"), Asked(["2 + 3?"]))
    with pytest.raises(UserError, match=r"eval\.decode=refine runs in plain transformers"):
        generate_config({**values, "eval": {"engine": "vllm"}}, "refine")
    with pytest.raises(UserError, match="plain, refine"):
        generate_config(values, "refined")
    with pytest.raises(UserError, match="control token"):
        generate(generate_config({**values, "eval": {"engine": "hf"}}, "plain"), Asked(["<|im_end|>"]))
    assert choose_engine(EvalConfig(decode="refine"))[0] == "refine"
