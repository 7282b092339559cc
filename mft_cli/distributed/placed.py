"""A process that torchrun, Kubeflow or SageMaker has started as one of many: its place becomes launch settings.

These launchers start a process a rank; mft starts the ranks itself, once a node. So the first process of a node is its
`mft train`, with the ranks' number and the rendezvous that the launcher has chosen, and the node's others have nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.errors import UserError

GIVEN = ("gpus", "processes", "nodes", "node_rank", "host", "port")  # what the launcher says


def is_placed(environment: Mapping[str, str]) -> bool:
    """Whether another launcher has started this process as one of several."""
    ranks = environment.get("WORLD_SIZE", "1")
    return "RANK" in environment and ranks.isdigit() and int(ranks) > 1


def drives_node(environment: Mapping[str, str]) -> bool:
    """Whether this process is its node's first. Kubeflow starts one a node, without LOCAL_RANK."""
    return environment.get("LOCAL_RANK", "0") == "0"


def with_place(launch: LaunchConfig, environment: Mapping[str, str], gpus: int) -> LaunchConfig:
    """The settings with torch's names for the place filled in; `gpus` are visible on this node. Raises UserError."""
    if typed := [f"launch.{name}={value}" for name in GIVEN if (value := getattr(launch, name)) is not None]:
        raise UserError(
            f"{typed[0]}, but RANK and WORLD_SIZE are set (torchrun?) and say the same: leave out launch.{', launch.'.join(GIVEN)}, "
            f"or start mft train without the other launcher"
        )
    if launch.name != "local":
        raise UserError(f"launch={launch.name}: RANK and WORLD_SIZE are set (torchrun?); start mft train without them")
    world, per_node = number(environment, "WORLD_SIZE", 1), number(environment, "LOCAL_WORLD_SIZE", 1)
    rank = number(environment, "RANK", 0)
    if world % per_node:
        raise UserError(
            f"WORLD_SIZE={world} is no multiple of LOCAL_WORLD_SIZE={per_node}: start as many ranks on every node"
        )
    if not environment.get("MASTER_ADDR"):
        raise UserError(
            "RANK and WORLD_SIZE are set, MASTER_ADDR is not: expected all of torch's names, as torchrun sets them"
        )
    on_gpus = gpus > 0 and launch.device != "cpu"
    return replace(
        launch, gpus=per_node if on_gpus else None, processes=None if on_gpus else per_node, nodes=world // per_node,
        node_rank=rank // per_node, host=environment["MASTER_ADDR"], port=number(environment, "MASTER_PORT", 29500),
    )  # fmt: skip


def number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdigit():
        raise UserError(f"{name}={text}: expected a whole number, 0 or more, as torchrun sets it")
    return int(text)
