"""A document as one self-contained HTML page: no network, no external file, and untrusted text that stays text.

Completions are written by a model that was trained on anything. Three walls: jinja escapes every value, `visible`
replaces characters that act (ANSI, NUL, direction overrides), a content security policy lets only our own script run.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mft_cli.report import wording
from mft_cli.report.compare.flips import PER_PAIR
from mft_cli.report.render.document import Document
from mft_cli.report.render.plots import colour

TEMPLATES = Path(__file__).parent


def render(document: Document) -> str:
    """The page."""
    script = (TEMPLATES / "script.js.jinja").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment().get_template("page.html.jinja").render(
        d=document,
        wording=wording,
        nothing=wording.NONE,
        per_pair=PER_PAIR,
        image=_data_uri,
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        colours=[(colour(i), colour(i, dark=True)) for i in range(len(set(document.colours.values())))],
    )  # fmt: skip


def environment() -> Environment:
    """Jinja as every page of ours has it: values escaped, missing names an error, acting characters made visible."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # not select_autoescape: that goes by the file's ending and would skip .jinja
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )


def _seen(value: object) -> object:
    """Runs on every value that is put into the page: what would act becomes visible."""
    return wording.visible(value) if type(value) is str else value


def _data_uri(image: bytes) -> str:
    """A PNG as the address of an image inside the page."""
    return "data:image/png;base64," + base64.b64encode(image).decode()
