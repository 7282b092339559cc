"""The Dockerfiles: what they copy is there, and what they install are the locks."""

from __future__ import annotations

import re

import pytest

from tests.support.tiny import ROOT

FILES = {"cpu": "requirements/cpu.txt", "cuda": "requirements/gpu.txt"}


@pytest.mark.parametrize(("name", "lock"), FILES.items())
def test_it_installs_the_lock_and_this_checkout(name: str, lock: str):
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+) ", text, re.MULTILINE)
    assert copied == [lock, "."]
    assert (ROOT / lock).is_file()
    assert "--no-deps" in text
    version = re.search(r"FROM python:3\.(\d+)", text)
    assert version
    assert 11 <= int(version[1]) <= 13
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {"outputs", ".venv", ".git"} <= set(ignored)


def test_the_cpu_image_leaves_out_what_the_lock_names_for_cuda():
    text = (ROOT / "docker/cpu.Dockerfile").read_text()
    pattern = re.search(r"grep -v '(.*)' requirements", text)
    assert pattern
    rule = re.compile(pattern[1].replace(r"\|", "|"))
    left_out = [line for line in (ROOT / "requirements/cpu.txt").read_text().splitlines() if rule.match(line)]
    assert all(line.startswith(("nvidia-", "cuda-", "triton==")) for line in left_out)
