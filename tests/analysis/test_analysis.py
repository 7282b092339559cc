"""`mft analyze`: dependence on regions of the context, and loss landscapes, against references worked out by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mft_cli.analysis import directions
from mft_cli.analysis.dependency import log_probabilities, scores
from mft_cli.analysis.landscape import Loss
from mft_cli.analysis.regions import Corruption, pick_targets, region_of, variants_of
from mft_cli.analysis.scenes import around, spread
from mft_cli.analysis.settings import DependencySettings, LandscapeSettings
from mft_cli.analysis.subjects import Subject, find_subjects, prepare
from mft_cli.cli.analyze import main as command
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.validate import build
from mft_cli.data.examples import Examples
from mft_cli.errors import Stopped, UserError
from mft_cli.eval.journal import sealed, unsealed
from mft_cli.rng import Draw
from tests.support.tiny import mft


@pytest.fixture(autouse=True)
def own_signals():
    """An analysis minds signals; pytest gets its handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def examples_of(*rows: tuple[list[int], list[int]]) -> Examples:
    """Examples of (prompt ids, response ids)."""
    lengths = [len(p) + len(r) for p, r in rows]
    return Examples.of(
        np.arange(len(rows)) + 7,
        lengths,
        np.array([t for p, r in rows for t in p + r], dtype=np.int32),
        np.array([k for p, r in rows for k in [False] * len(p) + [True] * len(r)]),
        keys=np.array([f"row:{i}" for i in range(len(rows))], dtype=bytes),
    )


def subject(folder: Path) -> Subject:
    return find_subjects(ModelConfig(path=str(folder)), [], True)[0]


CPU = torch.device("cpu")
WORDS = 300  # of the tiny model, which has a few more
ROWS = [([1, 20, 21, 22, 23, 24], list(range(40, 64))), ([1, 30, 31, 32], list(range(70, 100)))]
RANDOM = Corruption(near=4, positions=5, draws=2, share=0.5, ids=np.arange(10, 300))
HIDE = Corruption(near=4, positions=5, draws=2, share=0.5, ids=np.zeros(0, dtype=np.int64))
NOTHING_SPECIAL = np.array([1])


@pytest.fixture(scope="module")
def bigram(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with attention that adds nothing: each prediction hangs on the token before it alone."""
    folder = tmp_path_factory.mktemp("bigram") / "bigram"
    shutil.copytree(tiny_model, folder)
    model = subject(folder).load(CPU)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
        model.model.embed_tokens.weight.mul_(30)  # far from uniform
    model.save_pretrained(str(folder))
    return folder


# ---- regions --------------------------------------------------------------------------------------------------------


def test_regions_are_what_they_are_said_to_be():
    loss_mask = np.array([False] * 4 + [True] * 8)
    question = np.array([1, 3])  # position 0 is the first token, 2 a special one
    assert region_of("question", 10, loss_mask, question, 3).tolist() == [1, 3]
    assert region_of("near", 10, loss_mask, question, 3).tolist() == [7, 8, 9]
    assert region_of("far", 10, loss_mask, question, 3).tolist() == [4, 5, 6]


def test_a_second_turns_prompt_belongs_to_the_question_and_not_to_the_near_context():
    loss_mask = np.array([False, False, True, True, False, False, True, True, True])
    question = np.array([1, 4, 5])
    assert region_of("near", 8, loss_mask, question, 3).tolist() == [3, 6, 7]
    assert region_of("question", 3, loss_mask, question, 3).tolist() == [1]


def test_targets_have_a_near_and_a_far_context_and_are_a_function_of_the_seed():
    loss_mask, question = np.array([False] * 6 + [True] * 24), np.array([2, 3, 4, 5])
    every = Corruption(4, 100, 1, 0.5, np.arange(9))
    assert pick_targets(loss_mask, question, 7, every, Draw(1)) == list(range(6 + 5, 30))
    five = pick_targets(loss_mask, question, 7, RANDOM, Draw(1))
    assert len(five) == 5
    assert (
        five
        == pick_targets(loss_mask, question, 7, RANDOM, Draw(1))
        != pick_targets(loss_mask, question, 7, RANDOM, Draw(2))
    )
    assert pick_targets(loss_mask[:11], question, 7, RANDOM, Draw(1)) == []  # five response tokens: nothing is far


def test_a_variant_changes_the_said_share_of_one_region_and_nothing_else():
    examples = examples_of(*ROWS)
    for i, (prompt, response) in enumerate(ROWS):
        tokens = np.array(prompt + response)
        clean, *others = variants_of(examples, i, NOTHING_SPECIAL, RANDOM, Draw(1))
        assert clean.tokens.tolist() == tokens[: clean.targets[-1]].tolist()
        assert {v.region for v in others} == {"question", "near", "far"}
        for v in others:
            loss_mask, question = np.array([False] * len(prompt) + [True] * len(response)), np.arange(1, len(prompt))
            region = region_of(str(v.region), v.targets[-1], loss_mask, question, 4).tolist()
            changed = np.flatnonzero(v.tokens != tokens[: len(v.tokens)]).tolist()
            assert changed == list(v.corrupted)
            assert set(changed) <= set(region)
            assert len(changed) == max(1, int(0.5 * len(region) + 0.5))


def test_corrupted_sets_nest_while_the_share_grows():
    def chosen(share: float) -> list[tuple[int, ...]]:
        how = Corruption(4, 5, 1, share, np.arange(10, 300))
        return [v.corrupted for v in variants_of(examples_of(*ROWS), 0, NOTHING_SPECIAL, how, Draw(1))]

    for fewer, more in zip(chosen(0.25), chosen(0.75), strict=True):
        assert set(fewer) <= set(more)


# ---- measured -------------------------------------------------------------------------------------------------------


def score(folder: Path, how: Corruption, i: int = 0) -> dict:
    examples = examples_of(*ROWS)
    model = subject(folder).load(CPU)
    variants = variants_of(examples, i, NOTHING_SPECIAL, how, Draw(1))
    return scores(model, examples.tokens[examples.place(i)], variants, DependencySettings(batch_tokens=90), WORDS)


def test_a_bigram_model_depends_on_the_token_before_alone(bigram: Path):
    """near=1, all of it corrupted: fall and divergence are those between two rows of the bigram table."""
    how = Corruption(1, 100, 1, 1.0, np.array([200]))
    found = score(bigram, how)
    model = subject(bigram).load(CPU)
    table = log_probabilities(model, bigram_rows(list(range(WORDS))), 4096, WORDS)  # of the token behind each word
    prompt, response = ROWS[0]
    tokens = prompt + response
    falls, divergences = [], []
    for j in range(len(prompt) + 2, len(tokens)):
        before, after = table[tokens[j - 1]][0], table[200][0]
        falls.append(float(before[tokens[j]] - after[tokens[j]]))
        divergences.append(float((before.exp() * (before - after)).sum()))
    assert found["targets"] == len(falls)
    assert found["regions"]["near"]["drop"] == pytest.approx(np.mean(falls), rel=1e-4)
    assert found["regions"]["near"]["kl"] == pytest.approx(np.mean(divergences), rel=1e-4)
    assert abs(found["regions"]["near"]["kl"]) > 0.1
    for region in ("question", "far"):
        assert abs(found["regions"][region]["drop"]) < 1e-5
        assert found["regions"][region]["kl"] < 1e-5
    assert found["regions"]["near"]["corrupted"] == 1
    assert found["regions"]["near"]["distance"] == 1


def bigram_rows(words: list[int]) -> list:
    from mft_cli.analysis.regions import Variant

    return [Variant(np.array([w], dtype=np.int32), np.zeros(1, dtype=bool), [1]) for w in words]


def test_packed_variants_give_what_each_gives_alone(tiny_model: Path):
    """Against the model's own forward pass on one plain sequence, with transformers' attention."""
    from transformers import AutoModelForCausalLM

    model = subject(tiny_model).load(CPU)
    plain = AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32)
    variants = variants_of(examples_of(*ROWS), 1, NOTHING_SPECIAL, RANDOM, Draw(1))
    for v, found in zip(variants, log_probabilities(model, variants, 100, WORDS), strict=True):
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor(v.tokens[None].astype(np.int64))).logits[0]
        expected = logits[[j - 1 for j in v.targets], :WORDS].double().log_softmax(-1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_hidden_token_is_read_by_nobody(tiny_model: Path):
    model = subject(tiny_model).load(CPU)
    variants = [v for v in variants_of(examples_of(*ROWS), 1, NOTHING_SPECIAL, HIDE, Draw(1)) if v.region == "far"]
    before = log_probabilities(model, variants, 4096, WORDS)
    for v in variants:
        v.tokens[list(v.corrupted)] = 3
    after = log_probabilities(model, variants, 4096, WORDS)
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    for v in variants:
        v.hidden[:] = False
    assert not torch.allclose(torch.cat(log_probabilities(model, variants, 4096, WORDS)), torch.cat(after))


# ---- directions -----------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """loss = |w - 3|^2 + |b|^2."""

    def __init__(self, w: float, b: float):
        super().__init__()
        self.w = nn.Parameter(torch.full((2, 3), w))
        self.b = nn.Parameter(torch.full((4,), b))

    def loss(self) -> float:
        return float(((self.w.detach() - 3) ** 2).sum() + (self.b.detach() ** 2).sum())


def test_every_filter_of_a_direction_has_the_norm_of_the_weights(tiny_model: Path):
    weights = directions.weights_of(subject(tiny_model).load(CPU))
    direction = directions.random_direction(weights, seed=1, number=0)
    for name, weight in weights.items():
        if weight.dim() == 1:
            assert not direction[name].any(), name
        else:
            torch.testing.assert_close(direction[name].norm(dim=1), weight.norm(dim=1), rtol=1e-5, atol=1e-7)


def test_a_direction_is_a_function_of_seed_number_and_name():
    weights = {"a": torch.ones(50, 40), "b": torch.ones(50, 40)}
    one = directions.random_direction(weights, 1, 0)
    again = directions.random_direction({"b": weights["b"]}, 1, 0)  # whatever else the model has
    assert torch.equal(one["b"], again["b"])
    others = [
        one["a"],
        directions.random_direction(weights, 2, 0)["b"],
        directions.random_direction(weights, 1, 1)["b"],
    ]
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([one["b"].flatten(), other.flatten()]))[0, 1])) < 0.1
    raw = directions.normal(Draw(1), "landscape.0", "b", torch.empty(200, 500))
    assert abs(float(raw.mean())) < 0.02
    assert float(raw.std()) == pytest.approx(1, abs=0.02)


def test_masked_weights_stay_zero_on_request():
    weight = torch.ones(4, 6)
    weight[:, ::2] = 0
    weight[2] = 0
    free, kept = (directions.random_direction({"w": weight}, 1, 0, keep_zeros=k)["w"] for k in (False, True))
    assert bool((kept[weight == 0] == 0).all())
    assert bool((free[0] != 0).all())
    torch.testing.assert_close(kept.norm(dim=1), weight.norm(dim=1))


def test_a_quadratic_is_a_parabola_along_a_line():
    model = Toy(0.0, 0.0)
    first = {"w": torch.zeros(2, 3), "b": torch.zeros(4)}
    second = {"w": torch.full((2, 3), 5.0), "b": torch.ones(4)}
    for t in (0.0, 0.25, 0.5, 1.0):
        directions.put_between(model, first, second, t)
        assert model.loss() == pytest.approx(6 * (5 * t - 3) ** 2 + 4 * t * t, rel=1e-6)
    directions.put_between(model, first, {n: v + 0.1 for n, v in second.items()}, 1.0)
    assert torch.equal(model.b, second["b"] + 0.1)  # the end's own bits


def test_a_plane_goes_through_its_points():
    points = [{"w": torch.tensor([[1.0, 1.0]])}, {"w": torch.tensor([[4.0, 5.0]])}, {"w": torch.tensor([[5.0, 8.0]])}]
    u, v, at = directions.plane(points)
    assert at[1] == pytest.approx((5.0, 0.0))
    assert at[2] == pytest.approx((8.0, 1.0))  # (4, 7) along (3, 4) / 5, and across it
    for (x, y), point in zip(at, points, strict=True):
        torch.testing.assert_close(points[0]["w"] + x * u["w"] + y * v["w"], point["w"])
    with pytest.raises(ValueError, match="one line"):
        directions.plane([{"w": torch.tensor([[k, 2 * k]])} for k in (1.0, 2.0, 5.0)])


def test_the_centre_is_the_plain_loss_bit_for_bit(tiny_model: Path):
    examples = examples_of(*ROWS)
    loss, one = Loss(examples, 4096, 2, CPU), subject(tiny_model)
    model = one.load(CPU)
    plain = loss(model)
    tokens = [torch.tensor(p + r) for p, r in ROWS]
    sums = [
        nn.functional.cross_entropy(
            model.get_output_embeddings()(hidden_alone(model, t))[len(p) - 1 : -1], t[len(p) :], reduction="sum"
        )
        for t, (p, _) in zip(tokens, ROWS, strict=True)
    ]
    assert loss.labels == sum(len(r) for _, r in ROWS)
    assert plain == pytest.approx(float(sum(sums)) / loss.labels, rel=1e-5)
    scene = around(one, CPU, LandscapeSettings(dimensions=2, points=3), seed=1)
    moved, put = scene.open()
    put((0.2, 0.0))
    assert loss(moved) != plain
    put((0.0, 0.0))
    assert loss(moved) == plain


def hidden_alone(model, ids: torch.Tensor) -> torch.Tensor:
    from mft_cli.models.kernels.attention import packed_kwargs
    from mft_cli.models.kernels.cross_entropy import hidden_states

    positions = torch.arange(len(ids))[None]
    with torch.no_grad():
        return hidden_states(
            model, input_ids=ids[None], position_ids=positions, use_cache=False, **packed_kwargs([[len(ids)]])
        )[0]


def test_axes_hold_the_centre_exactly():
    assert spread(-0.3, 0.3, 7)[3] == 0.0
    assert spread(-0.3, 0.3, 3) == [-0.3, 0.0, 0.3]


# ---- the commands ---------------------------------------------------------------------------------------------------


def data(problem_file: Path) -> list[str]:
    return [
        "data=local", f"data.sources.local.path={problem_file}", "data.sources.local.response=answer",
        "data.max_length=256", "launch.threads=1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def moved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models near the tiny one, the first as a run folder with an export."""
    folders = []
    for seed, place in ((1, "run/export"), (2, "other")):
        folder = tmp_path_factory.mktemp("moved") / place
        shutil.copytree(tiny_model, folder)
        model = subject(folder).load(CPU)
        with torch.no_grad():
            torch.manual_seed(seed)
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        model.save_pretrained(str(folder))
        folders.append(folder.parent if folder.name == "export" else folder)
    return folders


def test_dependency_goes_on_where_it_was_and_compares(
    tiny_model: Path, moved: list[Path], problem_file: Path, tmp_path: Path
):
    arguments = ["dependency", f"model.path={tiny_model}", str(moved[0]), *data(problem_file), "near=4", "examples=6"]
    command([*arguments, f"out={tmp_path / 'a'}"])
    whole = json.loads((tmp_path / "a" / "dependency.json").read_text())
    assert [m["label"] for m in whole["models"]] == [tiny_model.name, "run"]
    journal = (tmp_path / "a" / "examples.jsonl").read_bytes().splitlines(keepends=True)
    assert len(journal) == 12
    records = [json.loads(line) for line in journal]
    drops = [[r["regions"]["near"]["drop"] for r in records[k : k + 6]] for k in (0, 6)]
    assert whole["models"][0]["drop"]["near"]["mean"] == pytest.approx(np.mean(drops[0]))
    assert whole["differences"][0]["drop"]["near"]["mean"] == pytest.approx(np.mean(drops[1]) - np.mean(drops[0]))
    assert sum(whole["models"][0]["share"][r]["mean"] for r in ("question", "near", "far")) == pytest.approx(1)
    # cut off in the middle of a line, as a kill leaves it
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "examples.jsonl").write_bytes(b"".join(journal[:4]) + journal[4][:30])
    command([*arguments, f"out={tmp_path / 'b'}"])
    assert (tmp_path / "b" / "examples.jsonl").read_bytes() == b"".join(journal)
    assert json.loads((tmp_path / "b" / "dependency.json").read_text()) == whole
    # what is there is used, not measured again
    whole_record = unsealed(records[0])
    assert whole_record is not None
    records[0] = sealed({**whole_record, "logprob": -123.0})
    (tmp_path / "b" / "examples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    command([*arguments, f"out={tmp_path / 'b'}"])
    assert json.loads((tmp_path / "b" / "dependency.json").read_text())["models"][0]["logprob"]["mean"] < -20
    for name in ("dependency-drop.png", "dependency-share.png"):
        assert (tmp_path / "a" / name).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "a" / "dependency.html").read_text()
    assert page.count("<table") == 5
    assert "data:image/png" in page


def test_a_signal_stops_with_what_is_measured_and_the_same_command_goes_on(
    tiny_model: Path, problem_file: Path, tmp_path: Path
):
    journal = tmp_path / "cut" / "examples.jsonl"
    arguments = ["dependency", f"model.path={tiny_model}", *data(problem_file), "near=4", "examples=15", "draws=10",
                 f"out={journal.parent}"]  # fmt: skip

    def signal_after_the_first_record() -> None:
        end = time.monotonic() + 60
        while not (journal.is_file() and journal.stat().st_size) and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    watching = threading.Thread(target=signal_after_the_first_record)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until the command minds it
    watching.start()
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        command(arguments)
    watching.join()
    done = journal.read_text().splitlines()
    assert 0 < len(done) < 15
    command(arguments)
    again = journal.read_text().splitlines()
    assert len(again) == 15
    assert set(done) < set(again)


@pytest.mark.parametrize("kind", ["random", "line", "plane"])
def test_landscape_holds_the_models_losses_and_goes_on(
    kind: str, tiny_model: Path, moved: list[Path], problem_file: Path, tmp_path: Path
):
    arguments = ["landscape", f"kind={kind}", "points=3", "examples=4", f"model.path={tiny_model}", *data(problem_file)]
    arguments += [str(f) for f in moved]
    command([*arguments, f"out={tmp_path / 'a'}"])
    whole = json.loads((tmp_path / "a" / "landscape.json").read_text())
    config = build(TrainConfig, {"model": {"path": str(tiny_model)}, "seed": 1, "data": source(problem_file)})
    ready = prepare(config, [str(f) for f in moved], True, 4, "auto")
    loss = Loss(ready.examples, 2048, int(ready.tokenizer.pad_token_id), CPU)
    plain = [loss(s.load(CPU)) for s in ready.subjects]
    assert [m["loss"] for m in whole["models"]] == plain  # bit for bit
    assert whole["label_tokens"] == loss.labels
    first = whole["scenes"][0]
    if kind == "random":
        assert [s["loss"][1] for s in whole["scenes"]] == plain
        assert len({tuple(s["loss"]) for s in whole["scenes"]}) == 3
    elif kind == "line":
        assert [s["loss"][0] for s in whole["scenes"]] == plain[:2]
        assert [s["loss"][2] for s in whole["scenes"]] == plain[1:]
        assert first["barrier"] == pytest.approx(max(0.0, first["loss"][1] - (plain[0] + plain[1]) / 2))
    else:
        assert (len(first["loss"]), len(first["loss"][0])) == (3, 3)
        assert first["marks"][0]["at"] == [0.0, 0.0]
    journal = (tmp_path / "a" / "points.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "points.jsonl").write_bytes(b"".join(journal[1:4]))
    command([*arguments, f"out={tmp_path / 'b'}"])
    assert (tmp_path / "b" / "points.jsonl").read_bytes() == b"".join(journal)
    assert json.loads((tmp_path / "b" / "landscape.json").read_text()) == whole
    assert (tmp_path / "a" / "landscape.png").read_bytes().startswith(b"\x89PNG")


def source(problem_file: Path) -> dict:
    return {"name": "local", "max_length": 256, "sources": {"local": {"path": str(problem_file), "response": "answer"}}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the commands dependency, graph, resilience, landscape"),
        (["surface"], "the commands dependency, graph, resilience, landscape"),
        (["dependency", "near=0"], "near=0: expected a whole number, 1 or more"),
        (["dependency", "near=some"], "near=some: expected a whole number"),
        (["dependency", "share=1.5"], "share=1.5: expected a number, above 0 and at most 1"),
        (["dependency", "corruption=masked"], "corruption=masked: expected one of random, mask, hide; did you mean mask"),
        (["dependency", "MODEL", "nowhere"], "nowhere: no such folder"),
        (["dependency", "MODEL", "."], "neither a model"),
        (["dependency", "MODEL", "SAME"], "named twice"),
        (["dependency", "MODEL", "split=validation"], "no validation rows"),
        (["dependency", "MODEL", "near=5000"], "near=5000: no response is long enough"),
        (["dependency", "MODEL", "nera=3"], "did you mean near=3"),
        (["landscape", "MODEL", "kind=line"], "kind=line takes two or more models and got 1"),
        (["landscape", "MODEL", "kind=plane"], "kind=plane takes three models and got 1"),
        (["landscape", "MODEL", "kind=line", "reach=3"], "reach=3.0 is a key of kind=random"),
        (["landscape", "MODEL", "dimensions=3"], "dimensions=3: expected a whole number from 1 to 2"),
        (["landscape", "MODEL", "points=1"], "points=1: expected a whole number, 2 or more"),
        (["landscape", "MODEL", "WIDE", "kind=line"], "differ in shape"),
        (["dependency", "MODEL", "FOREIGN"], "another vocabulary"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_sentence(
    words: list[str], said: str, tiny_model: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    if "WIDE" in words:
        wider(tiny_model, tmp_path / "wide")
    if "FOREIGN" in words:
        foreign(tiny_model, tmp_path / "foreign")
    names = {
        "FOREIGN": str(tmp_path / "foreign"),
        "MODEL": f"model.path={tiny_model}",
        "SAME": str(tiny_model),
        "WIDE": str(tmp_path / "wide"),
    }
    words = [names.get(w, w) for w in words]
    with pytest.raises(UserError) as caught:
        command([*words, *(data(problem_file) if len(words) > 1 else [])])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def wider(tiny_model: Path, folder: Path) -> None:
    """The tiny model with a larger MLP."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny_model, folder)
    config = AutoConfig.from_pretrained(str(tiny_model))
    config.intermediate_size = 96
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))


def foreign(tiny_model: Path, folder: Path) -> None:
    """The tiny model with two words of its tokenizer exchanged."""
    shutil.copytree(tiny_model, folder)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    words = told["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(told))


def test_a_mistake_exits_with_2_and_help_shows_examples(tmp_path: Path):
    done = mft("analyze", "dependency", "near=0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mft: near=0: expected a whole number, 1 or more\n"
    shown = mft("analyze", "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "mft analyze landscape kind=plane" in shown.stdout


def test_the_mask_token_is_added_to_a_model_that_has_none(tiny_model: Path, problem_file: Path, tmp_path: Path):
    command(["dependency", f"model.path={tiny_model}", *data(problem_file), "near=4", "examples=2", "corruption=mask",
             f"out={tmp_path / 'a'}"])  # fmt: skip
    found = json.loads((tmp_path / "a" / "dependency.json").read_text())
    assert found["models"][0]["kl"]["near"]["mean"] > 0
