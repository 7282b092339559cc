"""Generation by an OpenAI-compatible endpoint: chat completions, or completions with text or token ids.

Requests run side by side in threads; one that fails, stalls or is answered with nonsense is tried again after a growing
wait. After the last try nothing new is begun, what is under way may still arrive, and one sentence says what was wrong.
"""

from __future__ import annotations

import json
import os
import queue
import random
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mft_cli.config.schema.evaluation import ApiConfig
from mft_cli.errors import UserError
from mft_cli.eval.engines.base import (
    Completion,
    Engine,
    OnCompletion,
    OnTokens,
    Request,
    Sampling,
    Source,
    by_prompt,
    confidence,
    cut_at_stop,
    entropy_of_top,
)
from mft_cli.files import JsonObject

AGAIN = (408, 409, 425, 429)  # and every 5xx: try again
MOST_STOPS = 4  # what OpenAI takes; the others are cut here
MOST_TOP = {"messages": 20, "text": 5, "tokens": 20}  # OpenAI's limits of top log-probabilities; tokens: vllm's
LONGEST_WAIT_S = 60.0
Results = queue.SimpleQueue[tuple[int, Completion | Exception] | None]  # None: a thread has ended
TOO_LONG = ("context length", "context_length", "context window", "maximum context", "too long")


class JsonMessages:
    """Stands where a tokenizer would: the endpoint applies its own chat template, so messages stay JSON."""

    chat_template = "json"
    all_special_tokens: tuple[str, ...] = ()
    all_special_ids: tuple[int, ...] = ()
    added_tokens_decoder: ClassVar[Mapping[int, Any]] = {}
    bos_token_id, eos_token_id = None, 0

    def __call__(self, text: str, **more: Any) -> dict[str, list[int]]:
        return {"input_ids": []}

    def apply_chat_template(self, messages: list[dict[str, str]], **more: Any) -> str:
        return json.dumps(messages, ensure_ascii=False)


def endpoint_facts(api: ApiConfig) -> JsonObject:
    """What decides completions, for keys and metrics: no key, no waits, no numbers of tries."""
    return {
        "name": "api",
        "version": api.version or "unknown",
        "endpoint": api.base_url.rstrip("/"),
        "model": api.model,
        "send": api.send,
        "extra": api.extra,
        "dtype": "unknown",
        "device": "endpoint",
    }


class Again(Exception):
    """An answer that may be better the next time. `wait_s`: what the endpoint asked for."""

    def __init__(self, message: str, wait_s: float | None = None):
        super().__init__(message)
        self.wait_s = wait_s


class ApiEngine(Engine):
    """See the module. Raises UserError for a missing key, a refusal, and a request that fails for the last time."""

    def __init__(self, api: ApiConfig):
        from openai import OpenAI

        self.api = api
        self.key = read_key(api)
        self.client = OpenAI(base_url=api.base_url, api_key=self.key or "none", max_retries=0, timeout=api.timeout_s)

    def units(self, requests: Sequence[Request], done: set[int]) -> list[list[int]]:
        """See Engine."""
        return by_prompt(requests, done)

    def run(self, source: Source, sampling: Sampling, report: OnCompletion, tokens: OnTokens) -> None:
        """See Engine."""
        jobs = deque(job for unit in source.more(0) for job in unit)
        results: Results = queue.SimpleQueue()
        stop = threading.Event()
        threads = min(self.api.concurrency, len(jobs))
        for _ in range(threads):
            # daemons: a signal ends the evaluation without waiting for an endpoint that stalls
            threading.Thread(target=self._work, args=(jobs, results, sampling, stop), daemon=True).start()
        failure: Exception | None = None
        try:
            while threads:
                if (result := results.get()) is None:
                    threads -= 1
                    continue
                index, outcome = result
                if isinstance(outcome, Exception):
                    failure = failure or outcome
                else:
                    tokens(outcome.tokens)
                    report(index, outcome)
        finally:
            stop.set()
        if failure is not None:
            raise failure

    def _work(
        self, jobs: deque[tuple[int, Request]], results: Results, sampling: Sampling, stop: threading.Event
    ) -> None:
        """One thread: jobs until there are none."""
        while not stop.is_set():
            try:
                index, request = jobs.popleft()
            except IndexError:
                break
            try:
                results.put((index, self._patiently(request, sampling, stop)))
            except Exception as error:
                stop.set()
                results.put((index, error))
        results.put(None)

    def _patiently(self, request: Request, sampling: Sampling, stop: threading.Event) -> Completion:
        wait_s = self.api.backoff_s
        for attempt in range(self.api.retries + 1):
            try:
                return self._ask(request, sampling)
            except Again as again:
                if attempt == self.api.retries or stop.is_set():
                    raise UserError(
                        f"{self.api.base_url}: {again} ({attempt + 1} tries); what arrived is kept, start the same "
                        "command again when the endpoint answers"
                    ) from None
                pause = again.wait_s if again.wait_s is not None else wait_s * random.uniform(0.75, 1.25)
                stop.wait(min(LONGEST_WAIT_S, pause))
                wait_s *= 2
        raise AssertionError

    def _ask(self, request: Request, sampling: Sampling) -> Completion:
        """One try. Raises Again, UserError."""
        import openai

        send, body = self.body(request, sampling)
        path = "/chat/completions" if send == "messages" else "/completions"
        try:
            answer = self.client.post(path, body=body, cast_to=object)
        except openai.APITimeoutError:
            raise Again(f"no answer within eval.api.timeout_s={self.api.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise Again(f"no connection ({self._clean(str(error.__cause__ or error))})") from None
        except openai.APIStatusError as error:
            self._raise_status(error.status_code, error.message, error.response.headers.get("retry-after"))
            return Completion("", "length", 0, confidence(sampling, (), ()))  # the prompt is too long
        except (openai.OpenAIError, ValueError) as error:  # no JSON, or cut off
            raise Again(f"an answer that is not JSON ({self._clean(str(error))})") from None
        return self._completion(answer, send, request, sampling)

    def _raise_status(self, status: int, text: str, wait: str | None) -> None:
        """Raises Again, or UserError for what no further try helps; a prompt that is too long is not an error."""
        message = self._clean(text)
        if status in AGAIN or status >= 500:
            raise Again(f"status {status}: {message}", retry_after(wait))
        if status in (400, 413, 422) and any(phrase in text.lower() for phrase in TOO_LONG):
            return
        hint = {401: "check eval.api.key_env", 403: "check eval.api.key_env", 404: "check base_url and model"}
        raise UserError(
            f"{self.api.base_url} refuses the request (status {status}: {message}); {hint.get(status, 'correct eval.api')}"
        ) from None

    def _clean(self, text: str) -> str:
        """The first line, without the key: some endpoints repeat it."""
        text = text.replace(self.key, "<key>") if self.key else text
        return (text.strip() or "no message").splitlines()[0][:200]

    # ---- the two directions ----

    def body(self, request: Request, sampling: Sampling) -> tuple[str, JsonObject]:
        """(messages, text or tokens; the body of the request)."""
        send = self.api.send if self.api.send != "auto" else "messages" if request.chat else "text"
        body: JsonObject = {
            "model": self.api.model,
            "temperature": sampling.temperature,
            self.api.max_tokens_field: request.max_new_tokens,
        }
        if sampling.temperature > 0:
            body |= {"top_p": sampling.top_p, "seed": request.seed}
        rare: JsonObject = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}  # vllm and sglang; OpenAI refuses them
        body |= {name: getattr(sampling, name) for name, off in rare.items() if getattr(sampling, name) != off}
        if sampling.stop:
            body["stop"] = list(sampling.stop[:MOST_STOPS])
        top = min(sampling.top, MOST_TOP[send])
        if send == "messages":
            messages = json.loads(request.text) if request.chat else [{"role": "user", "content": request.text}]
            body["messages"] = messages
            body |= {"logprobs": True, "top_logprobs": top} if sampling.logprobs else {}
        else:
            body["prompt"] = request.text if send == "text" else list(request.prompt)
            body |= {"logprobs": top} if sampling.logprobs else {}
            if send == "tokens":
                body["stop_token_ids"] = list(sampling.end_ids)  # vllm and sglang; others ignore it
                body |= {"skip_special_tokens": False} if sampling.kept_special else {}
        return send, {**body, **self.api.extra}

    def _completion(self, answer: Any, send: str, request: Request, sampling: Sampling) -> Completion:
        """A completion from the answer's JSON. Raises Again for anything else than such an answer."""
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] if send == "messages" else choice["text"]
            reason = choice.get("finish_reason") or "stop"
            used = (answer.get("usage") or {}).get("completion_tokens")
            logprobs, entropies = measures(choice.get("logprobs"), send) if sampling.logprobs else ([], [])
        except (TypeError, KeyError, IndexError, AttributeError, ValueError):
            raise Again(f"an answer without a completion ({self._clean(str(answer))})") from None
        if not isinstance(text, str | None) or not isinstance(used, int | None) or not isinstance(reason, str):
            raise Again(f"an answer without a completion ({self._clean(str(answer))})")
        text, cut = cut_at_stop(text or "", sampling.stop)
        count = used if used is not None else request.max_new_tokens if reason == "length" else len(logprobs)
        return Completion(text, "stop" if cut else reason, count, confidence(sampling, logprobs, entropies))

    def close(self) -> None:
        """See Engine."""
        self.client.close()


def measures(logprobs: JsonObject | None, send: str) -> tuple[list[float], list[float]]:
    """(log-probability, entropy from the likeliest) of every token; empty where the endpoint gives none."""
    if not logprobs:
        return [], []
    if send == "messages":
        steps = logprobs.get("content") or []
        chosen = [float(s["logprob"]) for s in steps]
        tops = [{t["token"]: float(t["logprob"]) for t in s.get("top_logprobs") or ()} for s in steps]
        names = [s["token"] for s in steps]
    else:
        chosen = [float(v) for v in logprobs["token_logprobs"]]
        tops = [dict(t or {}) for t in logprobs.get("top_logprobs") or [{}] * len(chosen)]
        names = logprobs.get("tokens") or [""] * len(chosen)
    for top, name, value in zip(tops, names, chosen, strict=True):
        top.setdefault(name, value)  # a sampled token may be none of the likeliest
    return chosen, [entropy_of_top([float(v) for v in top.values()]) for top in tops]


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header; a date is left aside."""
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None


def read_key(api: ApiConfig) -> str:
    """The key, from the environment variable that eval.api.key_env names. Raises UserError if it is not set."""
    if api.key_env is None:
        return ""
    key = os.environ.get(api.key_env, "")
    if not key:
        raise UserError(f"eval.api.key_env={api.key_env}: this environment variable is not set; export it first")
    return key
