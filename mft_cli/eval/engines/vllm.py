"""Generation by vLLM, on a GPU or with its CPU build. The only module that imports vllm."""

from __future__ import annotations

import gc
import logging
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mft_cli.config.model_path import ADAPTER
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.errors import UserError, first_line
from mft_cli.eval.engines.base import (
    Completion,
    Engine,
    Likelihood,
    Loading,
    OnCompletion,
    OnTokens,
    Pair,
    Request,
    Sampling,
    Source,
    Tokenizer,
    by_prompt,
    entropy_of_top,
    finish,
)
from mft_cli.files import JsonObject, read_json

MAX_SEQUENCES = 256  # vLLM's own default on CPU; completions that are generated side by side


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as max_lora_rank


class VllmEngine(Engine):
    """One vLLM engine in this process. Prompts are handed over as they come; vLLM does its own batching.

    Every sample is a request of its own, so that a resumed run can ask for single samples with their seeds; the prefix
    cache shares the prefill of equal prompts (and of the common part of few-shot prompts).
    """

    def __init__(self, loading: Loading, tokenizer: Tokenizer, config: EvalConfig):
        on_cpu = loading.device == "cpu"
        # read when vllm is imported; in-process, so that a kill leaves no engine running and __main__ needs no guard
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if on_cpu:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(config.kv_cache_gb)))
        logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # says that a CPU has no Triton
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
        from vllm import LLM

        eager = on_cpu if config.enforce_eager is None else config.enforce_eager
        precision: Any = loading.dtype
        try:
            self.llm = LLM(
                model=loading.folder,
                dtype=precision,
                max_model_len=loading.context,
                max_num_seqs=MAX_SEQUENCES,
                enforce_eager=eager,
                gpu_memory_utilization=config.gpu_memory,
                seed=config.seed,
                enable_prefix_caching=True,
                # vLLM 0.32 turns the seeded generator of a prompt that is cut in two back, which a CPU's cannot do
                enable_chunked_prefill=False if on_cpu else None,
                generation_config="vllm",  # sampling comes from the configuration alone, not from the folder
                trust_remote_code=loading.trust,
                tensor_parallel_size=config.tensor_parallel or 1,
                max_logprobs=max(20, config.logprobs_top),
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **lora_settings(loading.adapter),
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"vllm cannot load {loading.folder} ({first_line(error)}); try eval.engine=hf") from error
        self.tokenizer = tokenizer
        self.adapter: Any = None
        if loading.adapter is not None:
            from vllm.lora.request import LoRARequest

            self.adapter = LoRARequest("adapter", 1, loading.adapter)

    def units(self, requests: Sequence[Request], done: set[int]) -> list[list[int]]:
        """See Engine."""
        return by_prompt(requests, done)

    def run(self, source: Source, sampling: Sampling, report: OnCompletion, tokens: OnTokens) -> None:
        """See Engine."""
        index: dict[str, int] = {}
        engine = self.llm.llm_engine
        while True:
            jobs = [job for unit in source.more(len(index)) for job in unit]
            if jobs:
                prompts: list[Any] = [{"prompt_token_ids": list(request.prompt)} for _, request in jobs]
                parameters = [_parameters(request, sampling) for _, request in jobs]
                names = self.llm.enqueue(prompts, parameters, lora_request=self.adapter, use_tqdm=False)
                index.update({name.split("-")[0]: i for name, (i, _) in zip(names, jobs, strict=True)})
            if not index:
                return
            if not engine.has_unfinished_requests():
                raise RuntimeError(f"vllm returned no completion for {len(index)} requests")
            tokens(min(MAX_SEQUENCES, engine.get_num_unfinished_requests()))  # a step makes one token a sequence
            for output in self._step():
                if output.finished:
                    report(index.pop(output.request_id.split("-")[0]), self._completion(output.outputs[0], sampling))

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        ids = list(output.token_ids)
        steps = [{i: p.logprob for i, p in step.items()} for step in output.logprobs or ()]
        logprobs = [step[i] for step, i in zip(steps, ids, strict=False)]
        return finish(self.tokenizer, ids, sampling, logprobs, [entropy_of_top(list(s.values())) for s in steps])

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """See Engine. From the log-probabilities of prompts; vLLM makes one token besides, which nothing reads."""
        from vllm import SamplingParams

        asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        prompts: list[Any] = [{"prompt_token_ids": before + after} for before, after in pairs]
        outputs = self.llm.generate(prompts, asked, lora_request=self.adapter, use_tqdm=False)
        return [_likelihood(output.prompt_logprobs, *pair) for output, pair in zip(outputs, pairs, strict=True)]

    def _step(self) -> list[Any]:
        try:
            outputs: list[Any] = self.llm.llm_engine.step()
        except RuntimeError as error:
            if "nsupported" not in str(error):
                raise
            raise UserError(f"vllm cannot run this model here ({first_line(error)}); use eval.engine=hf") from error
        return outputs

    def close(self) -> None:
        """Free the model's memory, so that the gold solutions' model has room on a GPU."""
        import torch

        core = getattr(self.llm.llm_engine, "engine_core", None)
        if core is not None:
            core.shutdown()
        del self.llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _likelihood(logprobs: Any, before: list[int], after: list[int]) -> Likelihood:
    measured = [step[id] for step, id in zip(logprobs[len(before) :], after, strict=True)]
    return Likelihood(math.fsum(m.logprob for m in measured), sum(m.rank == 1 for m in measured))


def lora_settings(adapter: str | None) -> JsonObject:
    """What LLM(...) needs to serve an adapter on top of the base model."""
    if adapter is None:
        return {}
    settings = read_json(Path(adapter) / ADAPTER)
    if settings.get("trainable_token_indices") or settings.get("modules_to_save"):
        raise UserError(
            f"{adapter}: vllm serves no adapter with rows of new tokens or whole modules; give the merged model, or "
            "eval.engine=hf"
        )
    rank = int(settings.get("r", 8))
    if rank > LORA_RANKS[-1]:
        raise UserError(
            f"{adapter}: rank {rank} is above vllm's {LORA_RANKS[-1]}; merge the adapter, or eval.engine=hf"
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in LORA_RANKS if r >= rank)}


def _parameters(request: Request, sampling: Sampling) -> Any:
    """vLLM's sampling parameters. End tokens are given by id and the tokenizer's own is ignored: one definition."""
    from vllm import SamplingParams

    sampled = sampling.temperature > 0
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p if sampled else 1.0,
        top_k=sampling.top_k if sampled else 0,
        min_p=sampling.min_p if sampled else 0.0,
        repetition_penalty=sampling.repetition_penalty,
        seed=request.seed if sampled else None,
        max_tokens=request.max_new_tokens,
        stop=list(sampling.stop) or None,
        stop_token_ids=list(sampling.end_ids),
        ignore_eos=True,
        logprobs=sampling.top if sampling.logprobs else None,
        skip_special_tokens=not sampling.kept_special,  # a stop text may be a tag that is a special token
        detokenize=bool(sampling.stop),  # text is decoded from the ids by `finish`, the same for every engine
    )
