"""The second half: a teacher criticises every solution, within a budget, and again where the format is missing.

The journal critiques.jsonl has a key for every (solution, try). A key holds the digest of the solution's text, so that a
changed solution never keeps its old critique. Tries go in rounds: all first tries, then the second try of what the first
round left malformed, and so on; what a round asks for is decided by the rounds before it alone, so that a killed run
asks the same things again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mft_cli.config.schema.critique import BudgetConfig, CritiqueRunConfig
from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.console import TokenProgress
from mft_cli.critique.response import Response, read_response
from mft_cli.critique.solutions import Solution
from mft_cli.errors import UserError
from mft_cli.eval.engines.base import AllAtOnce, Completion, Engine, Request
from mft_cli.eval.journal import Journal, Record, completion_key
from mft_cli.eval.plan import Plan, make_sampling, render
from mft_cli.eval.second_pass import renderers, with_solution
from mft_cli.eval.session import Session, refuse_chat
from mft_cli.files import digest_of
from mft_cli.rng import sampling_seed

FIELDS = {"completion": str, "finish_reason": str, "completion_tokens": int, "asked": bool, "seed": int}  # of a record


@dataclass
class Budget:
    """What the teacher may still be asked. A completion without a token count is charged its longest."""

    limits: BudgetConfig
    longest: int
    requests: int = 0
    tokens: int = 0

    def charge(self, completion_tokens: int) -> None:
        self.requests += 1
        self.tokens += completion_tokens or self.longest

    def allowed(self) -> int | None:
        """Requests that surely fit; None: no limit."""
        left = []
        if self.limits.requests is not None:
            left.append(self.limits.requests - self.requests)
        if self.limits.tokens is not None:
            left.append((self.limits.tokens - self.tokens) // self.longest)
        return max(0, min(left)) if left else None

    def line(self) -> str:
        """Such as "12 of 50 requests, 3,400 tokens used"."""

        def part(used: int, limit: int | None, what: str) -> str:
            return f"{used:,} {what}" if limit is None else f"{used:,} of {limit:,} {what}"

        parts = part(self.requests, self.limits.requests, "requests"), part(self.tokens, self.limits.tokens, "tokens")
        return f"{', '.join(parts)} used"


class Teacher:
    """The teacher of one run: what it was asked, what it answered, what is left to ask."""

    def __init__(self, config: CritiqueRunConfig, solutions: list[Solution], out: Path, control: Any, opened: Session):
        teacher = config.teacher
        benchmark = BenchmarkConfig(
            temperature=teacher.temperature, top_p=teacher.top_p, max_new_tokens=teacher.max_new_tokens
        )
        self.config, self.solutions, self.control = config, solutions, control
        self.benchmark = benchmark
        self.session, engine = opened, opened.config.eval
        subject = self.session.subject
        renderer, self.filled = renderers(teacher.prompt, subject)
        self.sampling = make_sampling(benchmark, engine, renderer, subject)
        self.prompt_text = renderer.prompt_text("{question}")
        self.prompts = [self.rendered(s, renderer.control) for s in solutions]
        self.rooms = [subject.room(p, teacher.max_new_tokens, config=engine) for p in self.prompts]
        self.rounds = [[self.request(i, n) for i in range(len(solutions))] for n in range(teacher.retries + 1)]
        made_by = [self.sampling.settings(), teacher.max_new_tokens, subject.engine, self.session.folder.weights_digest]
        self.digest = digest_of([*made_by, self.session.folder.tokenizer_digest])
        self.keys = [[self.key(i, n) for i in range(len(solutions))] for n in range(teacher.retries + 1)]
        self.journal = Journal(out / "critiques.jsonl", [k for keys in self.keys for k in keys], FIELDS)
        self.parsed: dict[str, Response | str] = {}
        self.budget = Budget(config.budget, teacher.max_new_tokens)
        for record in self.journal.done.values():
            if record["asked"]:
                self.budget.charge(record["completion_tokens"])
        self.plan = Plan(
            "critiques",
            benchmark,
            out,
            [],
            renderer,
            self.sampling,
            self.rounds[0],
            self.journal,
            self.digest,
            None,
            "",
        )

    # ---- requests ----

    def rendered(self, solution: Solution, control: Any) -> tuple[tuple[int, ...], str]:
        text = control.sub("", solution.text) if control else solution.text
        problem = with_solution(self.config.teacher.prompt, solution.problem, text)
        problem = replace(problem, row=replace(problem.row, system=None))  # the teacher's own prompt may have one
        return render(self.filled, problem, self.benchmark, self.session.subject)

    def request(self, index: int, attempt: int) -> Request:
        (ids, text), sampled = self.prompts[index], self.sampling.temperature > 0
        seed = sampling_seed(self.config.eval.seed, self.solutions[index].id, "critique", attempt)
        chat = self.config.teacher.prompt.kind == "chat"
        return Request(ids, self.rooms[index], seed if sampled else 0, text, chat)

    def key(self, index: int, attempt: int) -> str:
        r, solution = self.rounds[attempt][index], self.solutions[index]
        decides: list[int | str] = [*r.prompt, r.text, r.max_new_tokens, r.seed, solution.digest]
        return completion_key(self.digest, solution.id, attempt, decides)

    # ---- answers ----

    def record(self, index: int, attempt: int) -> Record | None:
        return self.journal.done.get(self.keys[attempt][index])

    def read(self, record: Record) -> Response | str:
        """What a record of the journal says, or why it is malformed."""
        if not record["asked"]:
            return "no room in the context"
        if (key := record["key"]) not in self.parsed:
            self.parsed[key] = read_response(
                record["completion"], record["finish_reason"], self.config.strict_format, self.control
            )
        return self.parsed[key]

    def undecided(self, attempt: int) -> list[int]:
        """Solutions that the rounds before left without a critique, and that another try may help."""
        everything = range(len(self.solutions))
        if attempt == 0:
            return list(everything)
        return [i for i in everything if self.rooms[i] and all(self.failed(i, n) for n in range(attempt))]

    def failed(self, index: int, attempt: int) -> bool:
        record = self.record(index, attempt)
        return record is not None and isinstance(self.read(record), str)

    def outcome(self, index: int) -> tuple[int, Record, Response] | None:
        """(try, record, response) of the first well-formed answer."""
        for attempt in range(len(self.rounds)):
            record = self.record(index, attempt)
            if record is not None and isinstance(found := self.read(record), Response):
                return attempt, record, found
        return None

    def waiting(self) -> list[int]:
        """Solutions that have no critique and were not given up: what a budget left over."""
        last = len(self.rounds) - 1
        return [
            i for i in range(len(self.solutions))
            if self.outcome(i) is None and not self.failed(i, last) and not (self.rooms[i] == 0 and self.failed(i, 0))
        ]  # fmt: skip

    # ---- asking ----

    def ask(self) -> bool:
        """Ask for everything that the journal lacks; False: the budget ended it. Raises UserError, Stopped."""
        try:
            return all(self.ask_round(attempt) for attempt in range(len(self.rounds)))
        finally:
            self.journal.close()
            self.session.close_engine()

    def ask_round(self, attempt: int) -> bool:
        indices = self.undecided(attempt)
        for i in indices:
            if self.rooms[i] == 0:
                self.add(i, attempt, Completion("", "length", 0), asked=False)
        indices = [i for i in indices if self.rooms[i]]
        missing = {n for n, i in enumerate(indices) if self.record(i, attempt) is None}
        if not missing:
            return True
        if self.budget.allowed() == 0:
            return False
        self.session.load([self.plan])
        engine = self.session.engine
        assert engine is not None
        title = "critiques" if attempt == 0 else f"critiques, try {attempt + 1}"
        print(f"{title}: {len(missing)} to ask for; budget: {self.budget.line()}", flush=True)
        progress = TokenProgress(title, len(missing), self.config.teacher.max_new_tokens)
        try:
            return self.ask_engine(engine, attempt, indices, missing, progress)
        finally:
            progress.close()

    def ask_engine(
        self, engine: Engine, attempt: int, indices: list[int], missing: set[int], progress: TokenProgress
    ) -> bool:
        """One round by the engine, in slices that surely fit the budget."""
        requests = [self.rounds[attempt][i] for i in indices]

        def report(n: int, completion: Completion) -> None:
            if n in missing:  # an engine may repeat what is there, as a part of a batch
                missing.remove(n)
                self.add(indices[n], attempt, completion)
                progress.completion()

        while missing:
            units = engine.units(requests, set(range(len(requests))) - missing)
            allowed = self.budget.allowed()
            units = units if allowed is None else cut(units, missing, allowed)
            if not units:
                return False
            work = [[(n, requests[n]) for n in unit] for unit in units]
            engine.run(AllAtOnce(work), self.sampling, report, progress.tokens)
        return True

    def add(self, index: int, attempt: int, completion: Completion, asked: bool = True) -> None:
        solution, request = self.solutions[index], self.rounds[attempt][index]
        record = {
            "id": solution.id,
            "try": attempt,
            "seed": request.seed,
            "solution_digest": solution.digest,
            "completion": completion.text,
            "finish_reason": completion.finish_reason,
            "completion_tokens": completion.tokens,
            "asked": asked,
        }
        self.journal.add(self.keys[attempt][index], record)
        if asked:
            self.budget.charge(completion.tokens)

    def facts(self) -> dict[str, Any]:
        """What made the critiques, for provenance.json."""
        return {
            "model": self.config.teacher.model.path or self.session.engine_facts.get("model"),
            "weights_digest": self.session.folder.weights_digest,
            "tokenizer_digest": self.session.folder.tokenizer_digest,
            "engine": self.session.engine_facts,
            "prompt": self.config.teacher.prompt.name,
            "prompt_text": self.prompt_text,
            "sampling": self.sampling.settings(),
        }


def open_teacher(config: CritiqueRunConfig, out: Path) -> Session:
    """The teacher's files, tokenizer and prompt, without its weights. Raises UserError for what it cannot be asked with."""
    teacher = config.teacher
    engine = replace(teacher.eval, gold_logprob=False)
    try:
        session = Session(EvalRunConfig(model=teacher.model, eval=engine, launch=config.launch), out / "teacher")
        renderers(teacher.prompt, session.subject)
    except UserError as error:
        text = str(error)
        raise UserError(
            f"teacher.{text}" if text.startswith(("model.", "prompt.")) else f"the teacher: {text}"
        ) from None
    if engine.engine == "api" and engine.api.send == "text":
        refuse_chat("the teacher", [teacher.prompt])
    return session


def cut(units: list[list[int]], missing: set[int], allowed: int) -> list[list[int]]:
    """The first units that hold at most `allowed` missing requests; the last is shortened to fit."""
    result = []
    for unit in units:
        if allowed <= 0:
            break
        wanted = [n for n in unit if n in missing]
        result.append(unit if len(wanted) <= allowed else wanted[:allowed])
        allowed -= len(wanted)
    return result
