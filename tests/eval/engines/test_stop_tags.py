"""A tag that is a special token stays in the text that an engine looks for stop texts in."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from mft_cli.eval.engines import vllm
from mft_cli.eval.engines.base import Request, Sampling
from tests.eval.engines.test_api import engine


@pytest.mark.parametrize(("kept", "skipped"), [((7,), False), ((), True)])
def test_vllm(monkeypatch: pytest.MonkeyPatch, kept: tuple[int, ...], skipped: bool):
    library = ModuleType("vllm")
    library.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", library)
    sampling = Sampling(0.0, 1.0, ("</ans>",), (2,), kept_special=kept)
    parameters = vllm._parameters(Request((1, 2), 9), sampling)
    assert parameters.stop == ["</ans>"]
    assert parameters.skip_special_tokens is skipped


def test_an_endpoint_that_takes_tokens():
    sampling = Sampling(0.0, 1.0, ("</ans>",), (2,), kept_special=(7,))
    _, body = engine("http://127.0.0.1:9/v1", send="tokens").body(Request((1, 2), 9), sampling)
    assert body["skip_special_tokens"] is False
