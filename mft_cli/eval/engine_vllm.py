"""Generation by vLLM, on a GPU or with its CPU build. The only module that imports vllm."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mft_cli.errors import UserError
from mft_cli.eval.engines import OnCompletion, OnTokens, Request, Sampling, finish, longest_first
from mft_cli.schema import EvalConfig

MAX_SEQUENCES = 256  # vLLM's own default on CPU; completions that are generated side by side


class VllmEngine:
    """One vLLM engine in this process. All prompts are handed over at once; vLLM does its own batching.

    Every sample is a request of its own, so that a resumed run can ask for single samples with their seeds; the prefix
    cache shares the prefill of equal prompts (and of the common part of few-shot prompts).
    """

    def __init__(
        self, folder: Path, tokenizer: Any, config: EvalConfig, *, dtype: str, device: str, context: int, trust: bool
    ):
        on_cpu = device == "cpu"
        # read when vllm is imported; in-process, so that a kill leaves no engine behind and __main__ needs no guard
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if on_cpu:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(config.kv_cache_gb)))
        logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # says that a CPU has no Triton
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
        from vllm import LLM

        eager = on_cpu if config.enforce_eager is None else config.enforce_eager
        precision: Any = dtype
        try:
            self.llm = LLM(
                model=str(folder),
                dtype=precision,
                max_model_len=context,
                max_num_seqs=MAX_SEQUENCES,
                enforce_eager=eager,
                gpu_memory_utilization=config.gpu_memory,
                seed=config.seed,
                enable_prefix_caching=True,
                generation_config="vllm",  # sampling comes from the configuration alone, not from the folder
                trust_remote_code=trust,
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            text = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise UserError(f"vllm cannot load {folder} ({text}); try eval.engine=hf") from error
        self.tokenizer = tokenizer

    def generate(
        self, requests: Sequence[Request], done: set[int], sampling: Sampling, report: OnCompletion, tokens: OnTokens
    ) -> None:
        """See Engine."""
        order = [i for i in longest_first(requests) if i not in done]
        prompts: list[Any] = [{"prompt_token_ids": list(requests[i].prompt)} for i in order]
        parameters = [_parameters(requests[i], sampling) for i in order]
        names = self.llm.enqueue(prompts, parameters, use_tqdm=False)
        index = {name.split("-")[0]: i for name, i in zip(names, order, strict=True)}
        engine = self.llm.llm_engine
        while engine.has_unfinished_requests():
            tokens(min(MAX_SEQUENCES, engine.get_num_unfinished_requests()))  # a step makes one token a sequence
            for output in self._step():
                if output.finished:
                    ids = list(output.outputs[0].token_ids)
                    report(index.pop(output.request_id.split("-")[0]), finish(self.tokenizer, ids, sampling))
        if index:
            raise RuntimeError(f"vllm returned no completion for {len(index)} of {len(order)} requests")

    def _step(self) -> list[Any]:
        try:
            outputs: list[Any] = self.llm.llm_engine.step()
        except RuntimeError as error:
            if "nsupported" not in str(error):
                raise
            text = str(error).strip().splitlines()[0][:300]
            raise UserError(f"vllm cannot run this model here ({text}); use eval.engine=hf") from error
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


def _parameters(request: Request, sampling: Sampling) -> Any:
    """vLLM's sampling parameters. End tokens are given by id and the tokenizer's own is ignored: one definition."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p if sampling.temperature > 0 else 1.0,
        seed=request.seed if sampling.temperature > 0 else None,
        max_tokens=request.max_new_tokens,
        stop=list(sampling.stop) or None,
        stop_token_ids=list(sampling.end_ids),
        ignore_eos=True,
        detokenize=bool(sampling.stop),  # text is decoded from the ids by `finish`, the same for every engine
    )
