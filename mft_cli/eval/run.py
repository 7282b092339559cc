"""`mft eval`: prompts, completions, scores and gold log-probabilities of one model on several benchmarks.

All completions come first, with the engine loaded once; then it is closed, so that the gold solutions' pass has the
memory of a GPU to itself. What is finished under the same settings is reused, down to single completions.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mft_cli.data.prompts import UnsafeText
from mft_cli.errors import UserError
from mft_cli.eval.engines import Completion, Engine, choose_engine, load_engine
from mft_cli.eval.model_folder import ModelFolder, open_model
from mft_cli.eval.plan import Plan, make_plan
from mft_cli.eval.progress import Progress
from mft_cli.eval.score import score_file, summary
from mft_cli.models import load_tokenizer
from mft_cli.run_dir import file_digest, read_json
from mft_cli.schema import EvalRunConfig


def evaluate(config: EvalRunConfig, out: Path) -> dict[str, dict[str, Any]]:
    """Evaluate a model on `config.eval.benchmarks` into out/<benchmark>/; returns each one's metrics.

    Raises UserError for a folder that is no whole model, missing data, or a prompt that does not fit the tokenizer.
    """
    session = Session(config)
    plans = session.plans(out)
    metrics = {plan.name: found for plan in plans if (found := finished(plan)) is not None}
    todo = [plan for plan in plans if plan.name not in metrics]
    try:
        for plan in todo:
            session.generate(plan, plans)
    finally:
        session.close_engine()
    for plan in todo:
        metrics[plan.name] = session.score(plan)
    for plan in plans:
        print(summary(metrics[plan.name], reused=plan not in todo), flush=True)
    return {plan.name: metrics[plan.name] for plan in plans}


def finished(plan: Plan) -> dict[str, Any] | None:
    """The metrics of an evaluation that was done before with the same settings and whose files are untouched."""
    path = plan.out / "metrics.json"
    if plan.journal.missing() or not path.is_file() or not (plan.out / "scores.jsonl").is_file():
        return None
    try:
        metrics = read_json(path)
    except ValueError:
        return None
    same = metrics.get("settings_digest") == plan.settings_digest
    return metrics if same and metrics.get("generations_digest") == file_digest(plan.journal.path) else None


class Session:
    """One model during one evaluation: its folder, tokenizer, and the engine once it is needed."""

    def __init__(self, config: EvalRunConfig):
        import torch

        self.config = config
        if config.launch.threads is not None:
            torch.set_num_threads(config.launch.threads)
        has_gpu = torch.cuda.is_available()
        if config.launch.device == "cuda" and not has_gpu:
            raise UserError("launch.device=cuda, but torch sees no GPU; use launch.device=cpu")
        self.device = "cuda" if has_gpu and config.launch.device != "cpu" else "cpu"
        self.dtype = "bfloat16" if config.eval.dtype == "auto" else config.eval.dtype
        name, version = choose_engine(config.eval)
        self.engine_facts: dict[str, Any] = {
            "name": name,
            "version": version,
            "dtype": self.dtype,
            "device": self.device,
        }
        self.folder: ModelFolder = open_model(config.model)
        if config.eval.decode == "refine":
            from mft_cli.refine.folder import head_digest

            self.engine_facts |= {"head": head_digest(self.folder.path), "refine_accept": config.eval.refine_accept}
        self.tokenizer = load_tokenizer(str(self.folder.path), config.model)
        self.engine: Engine | None = None
        self.gold_model: Any = None
        self.load_s = 0.0

    def plans(self, out: Path) -> list[Plan]:
        """A plan for every benchmark; says where the problems come from, and contamination aloud."""
        plans = []
        for name, benchmark in self.config.eval.benchmarks.items():
            plan = make_plan(
                name, benchmark, self.config.eval, self.folder, self.tokenizer, self.engine_facts, out / name
            )
            plans.append(plan)
            print(
                f"{name}: {len(plan.problems)} problems; {plan.where}; prompt {plan.renderer.prompt.name}", flush=True
            )
            if plan.contaminated:
                plan.warnings.insert(0, f"CONTAMINATED: {plan.contaminated}")
            for warning in plan.warnings:
                print(f"WARNING: {name}: {warning}", flush=True)
        return plans

    # ---- completions ----

    def generate(self, plan: Plan, plans: list[Plan]) -> None:
        """Everything that the journal lacks; the engine is loaded when the first completion is needed."""
        for index in plan.journal.missing():
            if plan.requests[index].max_new_tokens == 0:
                plan.record(index, "", "length", 0)
        missing = plan.journal.missing()
        if missing:
            self.load(plans)
            if len(missing) < len(plan.requests):
                print(f"{plan.name}: {len(plan.requests) - len(missing)} completions are there already", flush=True)
            start = time.perf_counter()
            self._run_engine(plan, missing)
            plan.seconds["generate"] = round(time.perf_counter() - start, 3)
        plan.seconds["load"] = round(self.load_s, 3)
        plan.journal.finish()

    def _run_engine(self, plan: Plan, missing: list[int]) -> None:
        assert self.engine is not None
        progress = Progress(plan.name, len(missing), plan.benchmark.max_new_tokens)

        def report(index: int, completion: Completion) -> None:
            plan.record(index, completion.text, completion.finish_reason, completion.tokens)
            progress.completion()

        wanted = set(missing)
        done = {i for i in range(len(plan.requests)) if i not in wanted}
        try:
            self.engine.generate(plan.requests, done, plan.sampling, report, progress.tokens)
        finally:
            plan.journal.close()
            progress.close()

    def load(self, plans: list[Plan]) -> None:
        """Load the engine, with room for the longest prompt and completion of all plans; once."""
        if self.engine is not None:
            return
        start = time.perf_counter()
        needed = max(len(r.prompt) + r.max_new_tokens for plan in plans for r in plan.requests if r.max_new_tokens)
        context = self.config.eval.max_model_len or needed
        if self.folder.context is not None and context > self.folder.context:
            raise UserError(
                f"eval.max_model_len={context}, but the model has {self.folder.context} positions; set it lower"
            )
        facts, trust = self.engine_facts, self.config.model.trust_remote_code
        print(f"loading {self.folder.path} into {facts['name']} {facts['version']} ({facts['dtype']})", flush=True)
        self.engine = load_engine(
            facts["name"], self.folder.path, self.tokenizer, self.config.eval,
            dtype=self.dtype, device=self.device, context=context, trust=trust,
        )  # fmt: skip
        self.load_s = time.perf_counter() - start

    def close_engine(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    # ---- scores ----

    def score(self, plan: Plan) -> dict[str, Any]:
        """scores.jsonl, gold.jsonl and metrics.json of a plan whose completions are all there."""
        gold = self._gold(plan) if self.config.eval.gold_logprob else None
        golds = {problem.id: problem.gold for problem in plan.problems}
        path = plan.journal.path
        prompt = plan.renderer.prompt
        extra = {
            "gold_logprob": gold,
            "contaminated": plan.contaminated,
            "prompt": asdict(prompt),
            "prompt_text": plan.renderer.prompt_text("{question}"),
            "engine": self.engine_facts,
            "model": {"weights_digest": self.folder.weights_digest, "tokenizer_digest": self.folder.tokenizer_digest},
            "settings_digest": plan.settings_digest,
            "seconds": plan.seconds,
        }
        return score_file(
            path, plan.name, plan.benchmark, plan.out, golds,
            eval_config=self.config.eval, extra=extra, warnings=plan.warnings,
        )  # fmt: skip

    def _gold(self, plan: Plan) -> dict[str, Any] | None:
        from mft_cli.eval.engine_hf import load_model
        from mft_cli.eval.gold import gold_logprobs, write_gold

        start = time.perf_counter()
        examples, ids = [], []
        for problem, prompt in zip(plan.problems, plan.requests[:: plan.benchmark.samples], strict=True):
            try:
                response = plan.renderer.response_ids(problem.row.response, problem.row.answer or problem.gold)
            except UnsafeText:
                continue
            if self.folder.context is None or len(prompt.prompt) + len(response) <= self.folder.context:
                examples.append((list(prompt.prompt), response))
                ids.append(problem.id)
        if skipped := len(plan.problems) - len(ids):
            plan.warnings.append(f"{skipped} gold solutions do not fit into the context: no log-probability for them")
        if not ids:
            return None
        if self.gold_model is None:
            self.gold_model = load_model(self.folder.path, self.dtype, self.device, self.config.model.trust_remote_code)
        progress = Progress(f"{plan.name} gold solutions", len(ids), 1)
        sums = gold_logprobs(self.gold_model, examples, progress.examples)
        progress.close()
        plan.seconds["gold"] = round(time.perf_counter() - start, 3)
        return write_gold(plan.out / "gold.jsonl", ids, sums, [len(r) for _, r in examples])
