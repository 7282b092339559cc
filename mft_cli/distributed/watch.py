"""Who keeps the others waiting: said in one line, once a wait takes far longer than a step.

Every collective of a step has the same number on all ranks. A rank that waits in one for too long writes that into the
store; after a moment the lowest of those that wait says who is not among them. Nothing is sent while all goes well.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

import torch.distributed as dist

TIMES = 10  # a wait of so many steps is worth a line
LEAST_S = 30.0
FIRST_S = 300.0  # while no step has been made: kernels are compiled, communicators are set up
LOOK_S = 0.5
SETTLE_S = 2.0  # the others note that they wait, too
STEPS = 50  # the median is of the last ones


@dataclass
class Watch:
    """One rank's part. `most_s`: the line comes before half of that, the time after which a wait is given up."""

    store: dist.Store
    rank: int
    world: int
    most_s: float
    behind: str = ""  # the ranks that the last line named
    number: int = 0  # of the collective
    since: float | None = None  # time.monotonic() at which this rank began to wait in it
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS))

    def start(self) -> None:
        threading.Thread(target=self.look_again_and_again, daemon=True).start()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait for the other ranks; all of them have to come here as often."""
        self.number += 1
        self.since = time.monotonic()
        try:
            yield
        finally:
            self.since = None

    def limit_s(self) -> float:
        usual = max(LEAST_S, TIMES * statistics.median(self.seconds)) if self.seconds else FIRST_S
        return min(usual, self.most_s / 2)

    def look_again_and_again(self) -> None:
        told = 0
        while True:
            time.sleep(min(LOOK_S, self.most_s / 20))
            number, since = self.number, self.since
            if since is not None and number != told and time.monotonic() - since > self.limit_s():
                told = number
                with contextlib.suppress(RuntimeError):  # the store has gone with the first rank
                    self.tell(number, since)

    def tell(self, number: int, since: float) -> None:
        """Notes that this rank waits; the first one that does says for whom."""
        self.store.set(f"mft/waits/{number}/{self.rank}", "")
        time.sleep(min(SETTLE_S, self.most_s / 8))
        if self.number != number or self.since is None:
            return
        waiting = [r for r in range(self.world) if self.store.check([f"mft/waits/{number}/{r}"])]
        self.behind = listed(sorted(set(range(self.world)) - set(waiting)))
        if self.behind and waiting[0] == self.rank:
            usual = f"; a step takes {statistics.median(self.seconds):.1f} s" if self.seconds else ""
            print(
                f"{self.behind} behind: the others have waited {time.monotonic() - since:.0f} s{usual}; look at logs/rank<N>.log "
                f"and at the node",
                flush=True,
            )


def listed(ranks: list[int]) -> str:
    """[0, 4, 5, 6] -> "ranks 0, 4-6 are"; nothing for none."""
    runs = [[r for _, r in run] for _, run in groupby(enumerate(ranks), lambda pair: pair[1] - pair[0])]
    names = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"rank{'s' * (len(ranks) > 1)} {names} {'are' if len(ranks) > 1 else 'is'}" if ranks else ""
