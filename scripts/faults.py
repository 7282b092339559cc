"""What becomes of a run that is killed, signalled, refused by its disk, damaged, or given extreme values.

    python scripts/faults.py                          # a few of each, in a minute
    python scripts/faults.py --n 400 --seed 7         # 400 kills and as many of the others, all files: docs/reliability.md
    python scripts/faults.py --only kills --scenarios "two ranks,zero3"
    python scripts/faults.py --n 400 --journal faults.jsonl      # started again, it goes on and tries again what was not borne

Prints a table and, above it, a line for every fault that was not borne. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[threads] = "1"  # a process with threads cannot be forked
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from mft_cli.provenance import cpu_name  # noqa: E402
from scripts.fault_injection import combinations, damage, forks, interruptions, values  # noqa: E402
from scripts.fault_injection.scenarios import BY_NAME, Workshop  # noqa: E402
from scripts.fault_injection.table import MEANING, Table  # noqa: E402

Group = Callable[[Workshop, Table, int, str, list[str]], None]
GROUPS: dict[str, Group] = {
    "kills": interruptions.kills, "signals": interruptions.signals, "disks": interruptions.disks,
    "files": damage.damage,
    "values": values.values,
    "combinations": combinations.combinations,
}  # fmt: skip
BEGIN, END = "<!-- the table: begin -->", "<!-- the table: end -->"
WARM = ("mft_cli.train.run", "mft_cli.eval.evaluate", "mft_cli.eval.engines.hf", "mft_cli.config.load", "mft_cli.cli.train",
        "mft_cli.methods.masked_thought", "transformers.models.llama.modeling_llama", "peft", "hydra.core.utils",
        "torch.utils.tensorboard", "mft_cli.cli.rank", "mft_cli.cli.report", "mft_cli.cli.eval",
        "mft_cli.report", "matplotlib.figure", "matplotlib.backends.backend_agg")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=6, help="faults of each group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups: {','.join(GROUPS)}")
    parser.add_argument("--scenarios", default="", help=f"of {', '.join(BY_NAME)}; all by default")
    parser.add_argument("--page", type=Path, help="a Markdown page whose table, between two comments, is replaced")
    parser.add_argument("--journal", type=Path, help="a file that keeps what was tried, to go on with")
    parser.add_argument("--part", default="1/1", help="2/3: the second third; all parts may share a journal")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    asked = parser.parse_args()
    part, _, parts = asked.part.partition("/")
    table = Table(asked.journal, (int(part), int(parts)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(dir=asked.folder, ignore_cleanup_errors=True) as folder:
        try:
            inject(Path(folder).resolve(), asked, table)
        except KeyboardInterrupt:
            forks.kill_children()
            print("stopped: not all faults were tried")
    print("\n".join([*table.told, table.render()]))
    for kind, meaning in MEANING.items():
        print(f"{kind}: {meaning}")
    print(f"{table.seconds:.0f} s")
    if asked.page:
        write_table(asked.page, table, f"--n {asked.n} --seed {asked.seed}")
    return 0 if table.clean else 1


def write_table(page: Path, table: Table, words: str) -> None:
    """In place of what stands in `page` between the comments BEGIN and END."""
    before, _, rest = page.read_text().partition(BEGIN)
    said = (
        f"`python scripts/faults.py {words}`, {table.seconds / 60:.0f} minutes on {cpu_name()}, {os.cpu_count()} cores:"
    )
    page.write_text(f"{before}{BEGIN}\n{said}\n\n{table.render()}\n{END}{rest.partition(END)[2]}")


def inject(folder: Path, asked: argparse.Namespace, table: Table) -> None:
    forks.become_nursery()
    forks.import_all(WARM)
    shop = Workshop(folder)
    names = [name.strip() for name in asked.scenarios.split(",") if name]
    for name in asked.only.split(","):
        GROUPS[name](shop, table, asked.n, f"{asked.seed} {name}", names)


if __name__ == "__main__":
    sys.exit(main())
