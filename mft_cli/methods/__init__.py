"""The methods. A method is one file here, its configuration class in `schema`, and one YAML in `conf/method/`."""

from __future__ import annotations

from importlib import import_module

from mft_cli.config.schema.methods import MethodConfig
from mft_cli.methods.base import Method


def make(config: MethodConfig, logits_chunk: int) -> Method:
    """The method that a configuration names."""
    module, name = config.method_class().split(":")
    method: Method = getattr(import_module(module), name)(config, logits_chunk)
    return method
