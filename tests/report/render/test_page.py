"""The page: escaping, self-containment, and what a real browser makes of it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mft_cli import report
from mft_cli.errors import UserError
from mft_cli.report import ReportPaths, wording
from mft_cli.report.read.runs import read_runs
from mft_cli.report.render import plots
from tests.support.fake_runs import NASTY, fake_evaluation, fake_run, showcase

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    """The report on everything at once."""
    root = tmp_path_factory.mktemp("report")
    return report.build([showcase(root / "outputs")], root / "out")


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    """A report in which every text that a model or a user wrote is hostile."""
    root = tmp_path_factory.mktemp("nasty")
    name = "<img src=x onerror=document.title=1>"
    a, b = fake_run(root / name), fake_run(root / "b|`c`", method="masked_thought", message=NASTY, state="failed")
    fake_evaluation(a, correct=range(5), texts={7: NASTY})
    metrics = {"contaminated": NASTY, "warnings": [NASTY], "prompt": {"name": NASTY}}
    fake_evaluation(b, correct=range(20), texts={7: NASTY[::-1]}, gold_of=None, metrics=metrics)
    return report.build([a, b], root / "out")


class Links(HTMLParser):
    """Collects what the page would load, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), "an inline event handler"
            if name in ("src", "href", "srcset", "action", "poster", "data"):
                self.links.append(value or "")


def parsed(page: str) -> Links:
    links = Links()
    links.feed(page)
    return links


def test_page_loads_nothing(made: ReportPaths, nasty: ReportPaths) -> None:
    for path in (made.html, nasty.html):
        links = parsed(path.read_text(encoding="utf-8"))
        assert links.links
        assert all(link.startswith(("data:", "#")) for link in links.links)
        assert links.tags.count("script") == 1
        assert "default-src &#39;none&#39;" in path.read_text(encoding="utf-8")


def test_hostile_text_is_shown_not_obeyed(nasty: ReportPaths) -> None:
    text = nasty.html.read_text(encoding="utf-8")
    assert "&lt;/script&gt;&lt;script&gt;document.title=&#34;hacked&#34;" in text
    assert "<b>bold</b>" not in text
    assert not re.search("[\x00\x1b\u202e\ud800]", text)
    assert "⟦U+001B⟧[31mred" in text
    assert "nul:⟦U+0000⟧" in text
    assert "⟦U+202E⟧abc" in text


def test_hostile_text_in_markdown_and_json(nasty: ReportPaths) -> None:
    markdown = nasty.markdown.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(script|img|b)", markdown)
    assert not re.search("[\x00\x1b\u202e]", markdown)
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")]
    assert len(set(columns)) <= 5  # an unescaped bar would add columns to a row
    json.loads(nasty.json.read_text(encoding="utf-8"))


def test_contents(made: ReportPaths) -> None:
    page, markdown = made.html.read_text(encoding="utf-8"), made.markdown.read_text(encoding="utf-8")
    content = json.loads(made.json.read_text(encoding="utf-8"))
    for words in (
        "not decided",
        "CONTAMINATED",
        "produced the same text for all 200",
        "evaluation not finished",
        "seeds",
    ):
        assert words in page
        assert words in markdown
    assert "STOPPED" in page
    assert content["exact_tests"] == sum(pair["p"] is not None for pair in content["pairs"])
    assert len(content["runs"]) == 10
    notices = page.index('id="notices"')
    assert notices < page.index("CONTAMINATED") < page.index('id="scores"')
    assert markdown.index("CONTAMINATED") < markdown.index("## Scores")
    for path in made.plots:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"({path.name})" in markdown


def cells(page: str) -> list[str]:
    """The texts of a page's table cells, but for drawn axes, blanks of any kind as one."""
    rows = re.findall(r'<td class="(?!axis-cell)[^>]*>(.*?)</td>', page, re.DOTALL)
    return [plain(html.unescape(re.sub(r"<[^>]+>", " ", row))) for row in rows]


def plain(text: str) -> str:
    return " ".join(text.replace("\\", "").replace("**", "").split())


def test_the_page_and_markdown_have_the_same_cells(made: ReportPaths) -> None:
    lines = made.markdown.read_text(encoding="utf-8").splitlines()
    written = [plain(cell) for row in lines if row.startswith("|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    shown = cells(made.html.read_text(encoding="utf-8"))
    without_hints = [re.sub("CONTAMINATED: .*", "CONTAMINATED", text) for text in written]  # the page's stand in titles
    assert not Counter(shown) - Counter(without_hints)


def test_flips_are_limited_and_counted(made: ReportPaths) -> None:
    page = made.html.read_text(encoding="utf-8")
    pairs = json.loads(made.json.read_text(encoding="utf-8"))["pairs"]
    flips = sum(len(pair["gained"]) + len(pair["lost"]) for pair in pairs)
    shown = page.count('class="flip"')
    left_out = sum(int(number) for number in re.findall(r"; (\d+) not shown here", page))
    assert 0 < shown <= 2000
    assert shown + left_out == flips


def test_evaluations_only_have_no_curves(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "base", method=None)
    fake_evaluation(run, correct=range(9))
    paths = report.build([run], tmp_path / "out")
    assert paths.plots == []
    assert 'id="curves"' not in paths.html.read_text(encoding="utf-8")
    assert 'id="pairs"' not in paths.html.read_text(encoding="utf-8")


def test_masked_share_is_drawn_only_where_something_is_masked(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "sft", steps=4)
    names = [plot.curve.name for plot in plots.draw(read_runs([run]))]
    assert names == ["training-loss", "learning-rate", "gradient-norm", "tokens-per-second"]


def test_report_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        report.build([fake_run(tmp_path / "run", steps=1)], tmp_path / "file")


def test_small_numbers_keep_significant_digits() -> None:
    assert wording.significant(0.123456) == "0.123"
    assert wording.significant(0.000123456) == "0.00012"
    assert wording.significant(0.0) == "0.000"
    assert wording.significant(1.5e-12) == "1.5e−12"
    assert wording.digits_for((0.00028, 0.00034)) == 6
    assert wording.digits_for((0.1, 0.3)) == 3
    assert wording.digits_for((0.0, 0.0)) == wording.digits_for(None) == 3


def test_wording() -> None:
    assert wording.points(-0.0004) == "0.0"
    assert wording.points(-0.04) == "\N{MINUS SIGN}4.0"
    assert wording.probability(0.0) == "< 0.001"
    assert wording.percent(None) == wording.NONE
    assert wording.percent_interval([0.1, float("nan")]) == wording.NONE
    assert wording.duration(3725) == "1 h 02 min"
    assert wording.visible("a\r\nb\rc") == "a\nb⟦U+000D⟧c"


def browse(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Headless Chromium with a new profile."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("which", ["made", "nasty"])
def test_browser(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    page = request.getfixturevalue(which).html
    seen = browse(page, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" not in seen.stderr, "errors, warnings or violations of the page's security policy"
    assert re.search(r"<title>\d+ runs compared</title>", seen.stdout), "the page's own title, not a hostile one's"
    assert re.search(r'id="flip-shown"[^>]*>\d+ of \d+ shown<', seen.stdout), "the page's own script did not run"
    assert "hidden" not in re.findall(r'<div class="tools" id="flip-tools"[^>]*>', seen.stdout)[0]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_browser_notices_violations(tmp_path: Path) -> None:
    """The check above can fail: a page with a foreign script and image is reported on the console."""
    page = tmp_path / "page.html"
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    page.write_text(f"{policy}<script>document.title = 1</script><img src='http://127.0.0.1:9/x.png'>")
    assert "CONSOLE" in browse(page, tmp_path / "profile", "--dump-dom").stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_screenshot(made: ReportPaths, tmp_path: Path) -> None:
    image = tmp_path / "narrow.png"
    browse(made.html, tmp_path / "profile", f"--screenshot={image}", "--window-size=500,1200")
    assert image.stat().st_size > 20_000
