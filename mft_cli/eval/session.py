"""`mft eval`: prompts, completions, scores and gold log-likelihoods of one model on several benchmarks.

All completions come first, with the engine loaded once; then it is closed, so that the gold solutions' pass has the
memory of a GPU to itself. What is finished under the same settings is reused, down to single completions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from mft_cli.answers.critique_format import TAGS
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.console import TokenProgress
from mft_cli.data.prompts import UnsafeText
from mft_cli.errors import UserError
from mft_cli.eval.certainty import confidence_metrics, refused_prompts
from mft_cli.eval.engines.base import Completion, Engine, Likelihood, Loading, Pair, confidence
from mft_cli.eval.engines.load import choose_engine, device_and_dtype, load_engine
from mft_cli.eval.engines.placement import replica_devices, tensor_parallel
from mft_cli.eval.engines.replicas import Replicas
from mft_cli.eval.gold import gold_logprobs, likelihoods, write_gold
from mft_cli.eval.grading.graders import gold_parts
from mft_cli.eval.journal import read_lines
from mft_cli.eval.metrics_file import GoldLogprob, Metrics, write_metrics
from mft_cli.eval.plan import Plan, Subject, make_plan
from mft_cli.eval.problems import EVAL_OPTIONS, OptionNames
from mft_cli.eval.reading import Reading
from mft_cli.eval.score import score_file
from mft_cli.eval.second_pass import context_needed, first_pass_metrics, second_plan, second_prompt
from mft_cli.files import JsonObject
from mft_cli.models.folder import FileStamps, check_context, file_stamps, open_endpoint, open_model
from mft_cli.models.loading import load_tokenizer


def refuse_chat(name: str, prompts: list[PromptConfig]) -> None:
    """Raises UserError: a chat has no text of its own without the tokenizer's template."""
    for prompt in prompts:
        if prompt.kind == "chat":
            raise UserError(
                f"eval.api.send=text, but prompt {prompt.name} of {name} is a chat: use send=messages or "
                "prompt=raw, or send=tokens with model.path"
            )


@dataclass
class LoadedModel:
    """A model that is in memory already, such as one in training."""

    subject: Subject
    engine: Engine
    model: PreTrainedModel


class Session:
    """One model during one evaluation: its folder, tokenizer, and the engine once it is needed."""

    def __init__(
        self,
        config: EvalRunConfig,
        out: Path,
        option_names: OptionNames = EVAL_OPTIONS,
        loaded: LoadedModel | None = None,
    ):
        self.config, self.logs, self.option_names = config, out / "logs", option_names
        self.engine: Engine | None = None
        self.gold_model: PreTrainedModel | None = None
        self.load_s = 0.0
        self.devices: list[str | None] = [None]
        self.device = self.dtype = ""
        self.files: FileStamps | None = None  # None: no folder is loaded
        if loaded is not None:
            self.subject, self.engine, self.engine_facts = loaded.subject, loaded.engine, loaded.subject.engine
            self.gold_model = loaded.model
        else:
            self._open(*choose_engine(config.eval))
        self.folder = self.subject.folder
        # else plain transformers measure log-likelihoods, whatever generates
        self.in_engine = loaded is not None or config.eval.engine == "vllm"

    def _open(self, name: str, version: str) -> None:
        if name == "api":
            self._open_endpoint()
        else:
            self._open_folder(name, version)

    def _open_folder(self, name: str, version: str) -> None:
        self.device, self.dtype = device_and_dtype(self.config)
        folder = open_model(self.config.model)
        self.files = file_stamps(folder.path)
        wide = tensor_parallel(self.config.eval, name, folder.path, self.dtype, self.device)
        config = self.config = replace(self.config, eval=replace(self.config.eval, tensor_parallel=wide))
        self.devices = replica_devices(config.eval, config.launch, self.device, wide)
        facts: JsonObject = {"name": name, "version": version, "dtype": self.dtype, "device": self.device}
        if name == config.eval.decode:
            from mft_cli.eval.engines.decoders import decoder_class, decoder_settings

            facts |= decoder_class(name).facts(folder.path, decoder_settings(config.eval))
        tokenizer = load_tokenizer(str(folder.tokenizer), config.model)
        self.subject = Subject(folder, tokenizer, facts if wide == 1 else {**facts, "tensor_parallel": wide})
        # recorded, but no part of the completions' keys: replicas do not change completions
        self.engine_facts = {**facts, "replicas": len(self.devices), "tensor_parallel": wide}
        if folder.adapter is not None:
            self.engine_facts["adapter"] = "served on top of its base model, not merged"

    def _open_endpoint(self) -> None:
        from mft_cli.eval.engines.api import JsonMessages, endpoint_facts

        folder = open_endpoint(self.config.model, self.config.eval.api)
        self.engine_facts = endpoint_facts(self.config.eval.api)
        by_text = self.config.eval.api.send != "tokens"
        tokenizer = JsonMessages() if by_text else load_tokenizer(str(folder.tokenizer), self.config.model)
        self.subject = Subject(folder, tokenizer, self.engine_facts, by_text)
        if self.config.eval.gold_logprob:
            print("gold log-likelihoods need the weights: there are none for an endpoint", flush=True)

    def plans(self, out: Path) -> list[Plan]:
        """A plan for every benchmark; prints where the problems come from, and every warning."""
        plans = []
        for name, benchmark in self.config.eval.benchmarks.items():
            plan = make_plan(name, benchmark, self.config.eval, self.subject, out / name, self.option_names)
            plans.append(plan)
            prompts = [plan.renderer.prompt, *([second_prompt(plan)] if plan.two_passes else [])]
            if self.config.eval.engine == "api" and self.config.eval.api.send == "text":
                refuse_chat(name, prompts)
            print(
                f"{name}: {len(plan.problems)} problems; {plan.data_summary}; prompt {plan.renderer.prompt.name}",
                flush=True,
            )
            if plan.contaminated:
                plan.warnings.insert(0, f"CONTAMINATED: {plan.contaminated}")
            for warning in plan.warnings:
                print(f"WARNING: {name}: {warning}", flush=True)
        return plans

    # ---- completions ----

    def last_pass(self, plan: Plan) -> Plan | None:
        """The plan whose completions are scored: the second pass of two, None while the first is unfinished."""
        if not plan.two_passes:
            return plan
        if plan.journal.missing():
            return None
        plan.journal.finish()
        return second_plan(plan, self.config.eval, self.subject)

    def complete(self, plan: Plan, plans: list[Plan]) -> Plan:
        """Generate what is missing, in both passes of two; returns the last pass."""
        if not plan.benchmark.generates:
            if self.in_engine and plan.journal.missing():
                self.load(plans)
                self._read(plan)
            return plan  # else read after the engine has given its memory back
        self.generate(plan, plans)
        last = self.last_pass(plan)
        assert last is not None
        if last is not plan:
            for warning in last.warnings:
                print(f"WARNING: {last.title}: {warning}", flush=True)
            self.generate(last, plans)
        return last

    def generate(self, plan: Plan, plans: list[Plan]) -> None:
        """Everything that the journal lacks; the engine is loaded when the first completion is needed."""
        for index in plan.journal.missing():
            if plan.requests[index].max_new_tokens == 0:
                plan.record(index, Completion("", "length", 0, confidence(plan.sampling, (), ())))
        missing = plan.journal.missing()
        if missing:
            self.load(plans)
            if len(missing) < len(plan.requests):
                print(f"{plan.title}: {len(plan.requests) - len(missing)} completions are there already", flush=True)
            start = time.perf_counter()
            self._run_engine(plan, missing)
            plan.seconds["generate"] = round(time.perf_counter() - start, 3)
        plan.seconds["load"] = round(self.load_s, 3)
        plan.journal.finish()

    def _run_engine(self, plan: Plan, missing: list[int]) -> None:
        assert self.engine is not None
        progress = TokenProgress(plan.title, len(missing), plan.benchmark.max_new_tokens)
        pending = set(missing)

        def report(index: int, completion: Completion) -> None:
            if index in pending:  # an engine may repeat what is there, as a part of a batch
                pending.remove(index)
                plan.record(index, completion)
                progress.completion()

        done = set(range(len(plan.requests))) - pending
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
        if self.engine_facts["name"] == "api":
            from mft_cli.eval.engines.api import ApiEngine

            self.engine = ApiEngine(self.config.eval.api)
            return
        loading = self._loading(self._context(plans))
        copies = f", {len(self.devices)} replicas" if len(self.devices) > 1 else ""
        adapter = f" with the adapter {loading.adapter}" if loading.adapter else ""
        version = self.engine_facts["version"]
        print(f"loading {loading.folder}{adapter} into {loading.name} {version} ({loading.dtype}{copies})", flush=True)
        if copies:
            self.engine = Replicas(
                loading, self.config.eval, self.config.model, self.devices, self.config.launch.threads, self.logs
            )
        else:
            self.engine = load_engine(loading, self.subject.tokenizer, self.config.eval)
        self.check_unchanged()
        self.load_s = time.perf_counter() - start

    def check_unchanged(self) -> None:
        """Raises UserError where the folder was replaced since its weights were digested: scores would be kept for others."""
        if self.files is not None and file_stamps(self.folder.path) != self.files:
            raise UserError(
                f"model.path={self.config.model.path} was replaced or changed while it was evaluated (by a training that exports into "
                f"it?); start the same command again when nothing writes there"
            )

    def _context(self, plans: list[Plan]) -> int:
        generating = [plan for plan in plans if plan.benchmark.generates or not self.in_engine]
        lengths = [len(r.prompt) + r.max_new_tokens for plan in generating for r in plan.requests if r.max_new_tokens]
        lengths += [context_needed(plan, self.config.eval, self.subject) or 0 for plan in plans if plan.two_passes]
        if self.in_engine:
            lengths += [self._reading(plan).longest() + 1 for plan in plans if not plan.benchmark.generates]
        context = self.config.eval.max_model_len or max(lengths)
        check_context(context, self.folder.context)
        return context

    def _loading(self, context: int) -> Loading:
        trust = self.config.model.trust_remote_code
        return Loading.of(self.folder, self.engine_facts["name"], self.device, self.dtype, context, trust)

    def close_engine(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    # ---- scores ----

    def score(self, plan: Plan) -> Metrics:
        """scores.jsonl, gold.jsonl and metrics.json of a plan whose completions are all there."""
        if not plan.benchmark.generates:
            self._read(plan)
        gold = self._gold_logprob(plan)
        self.check_unchanged()
        prompt = plan.renderer.prompt
        extra = {
            "gold_logprob": gold,
            "contaminated": plan.contaminated,
            "overlap": plan.overlap,
            "prompt": asdict(prompt),
            "prompt_text": plan.renderer.prompt_text("{question}"),
            "engine": self.engine_facts,
            "model": {"weights_digest": self.folder.weights_digest, "tokenizer_digest": self.folder.tokenizer_digest},
            "settings_digest": plan.settings_digest,
            "seconds": plan.seconds,
        }
        if plan.sampling.logprobs:
            extra["logprobs"] = confidence_metrics(plan, self.engine_facts["name"])
        if refused := refused_prompts(plan):
            plan.warnings.append(f"{refused} prompts were refused by the endpoint as too long: counted as wrong")
        metrics = score_file(
            plan.journal.path, plan.name, plan.benchmark, plan.out, plan.golds,
            eval_config=self.config.eval, extra=extra, warnings=plan.warnings,
            expects_format=len(plan.sampling.kept_special) == len(TAGS),
        )  # fmt: skip
        if plan.first is not None:
            metrics["first_pass"] = first_pass_metrics(plan.first, plan.out / "scores.jsonl", self.config.eval)
            write_metrics(plan.out, metrics)
        if plan.benchmark.answer_type == "judged":
            self._write_annotations(plan)
        return metrics

    def _write_annotations(self, plan: Plan) -> None:
        """A judged benchmark's files for the alpaca_eval package."""
        from mft_cli.eval.grading.preferences import write_annotations

        name = self.engine_facts.get("model") or f"{self.folder.path.name}-{self.folder.weights_digest[:8]}"
        write_annotations(read_lines(plan.out / "scores.jsonl")[0], plan.records(), plan.out, str(name))

    def _gold_logprob(self, plan: Plan) -> GoldLogprob | None:
        """Of texts that were read it is known already."""
        if plan.benchmark.answer_type == "perplexity":
            done = plan.records()
            sums, tokens = [r["logprob_sum"] for r in done], [r["tokens"] for r in done]
            return write_gold(plan.out / "gold.jsonl", [r["id"] for r in done], sums, tokens)
        has_weights = self.engine_facts["name"] != "api"
        return self._gold(plan.first or plan) if self.config.eval.gold_logprob and has_weights else None

    def _gold(self, plan: Plan) -> GoldLogprob | None:
        start = time.perf_counter()
        examples, ids = [], []
        for problem, prompt in zip(plan.problems, plan.requests[:: plan.benchmark.samples], strict=True):
            if not problem.row.response:
                continue  # a benchmark without worked solutions
            try:
                answer = problem.row.answer or gold_parts(problem.gold)["answer"]
                response = plan.renderer.response_ids(problem.row.response, answer)
            except UnsafeText:
                continue
            if self.folder.context is None or len(prompt.prompt) + len(response) <= self.folder.context:
                examples.append((list(prompt.prompt), response))
                ids.append(problem.id)
        if skipped := sum(bool(p.row.response) for p in plan.problems) - len(ids):
            plan.warnings.append(f"{skipped} gold solutions do not fit into the context: no log-likelihood for them")
        if not ids:
            return None
        progress = TokenProgress(f"{plan.name} gold solutions", len(ids), 1)
        sums = gold_logprobs(self._weights(), examples, progress.examples)
        progress.close()
        plan.seconds["gold"] = round(time.perf_counter() - start, 3)
        return write_gold(plan.out / "gold.jsonl", ids, sums, [len(r) for _, r in examples])

    def _weights(self) -> PreTrainedModel:
        """The model in plain transformers, loaded once."""
        if self.gold_model is None:
            from mft_cli.eval.engines.hf import load_model

            self.gold_model = load_model(
                self.folder.path, self.dtype, self.device, self.config.model.trust_remote_code, self.folder.adapter,
                spread=(self.config.eval.tensor_parallel or 1) > 1,
            )  # fmt: skip
        return self.gold_model

    def _read(self, plan: Plan) -> None:
        """The log-likelihoods that a plan lacks."""
        self._reading(plan).measure_missing(self._measured)

    def _reading(self, plan: Plan) -> Reading:
        return Reading(plan, self.subject, self.config.eval.max_model_len, self.config.eval.engine)

    def _measured(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        by_engine = self.engine.likelihoods(pairs) if self.in_engine and self.engine is not None else None
        return likelihoods(self._weights(), pairs) if by_engine is None else by_engine
