"""From a validated configuration to an exported model: run -> setup -> loop -> engine.

The public function mft_cli.train has this room's name, and importing any module of it binds that name to the room: so the
room itself can be called.
"""

import sys
from importlib import import_module
from types import ModuleType


class _Callable(ModuleType):
    def __call__(self, config: object) -> object:
        return import_module("mft_cli.api.verbs").train(config)


sys.modules[__name__].__class__ = _Callable
