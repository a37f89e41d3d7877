"""The report's page in a real browser: a script is added that uses it as a person would and notes what it sees."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from foretune.reports.report import build
from foretune.reports.sources import read_logs
from foretune.reports.web.page import to_html
from reported import make_ledger

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-extensions"),
    *("--no-first-run", "--hide-scrollbars", "--window-size=1400,1200", "--virtual-time-budget=3000"),
    *("--enable-logging=stderr", "--v=0"),
)

_COLLECT = "<script>window.problems = []; addEventListener('error', (e) => problems.push(e.message));</script>"
_HELPERS = """
const all = (selector) => [...document.querySelectorAll(selector)];
const shown = (selector) => all(selector).filter((element) => element.getClientRects().length > 0);
const texts = (elements) => elements.map((element) => element.textContent.trim());
const lines = () => shown('table[data-table="leaderboard"] tbody tr');
const heads = () => all('table[data-table="leaderboard"] thead button');
const column = (name) => texts(heads()).findIndex((text) => text.startsWith(name));
const sortBy = (name) => heads()[column(name)].click();
const values = (name) => texts(lines().map((line) => line.cells[column(name)]));
const choose = (name, value) => {
  const select = document.querySelector(`[data-filter=${name}]`);
  select.value = value;
  select.dispatchEvent(new Event("change"));
};
const press = (section, choice) => document.querySelector(`#${section} [data-choice="${choice}"]`).click();
"""


@pytest.fixture(scope="module")
def browser():
    """Path of a browser."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_BROWSERS)} is installed")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a made-up ledger."""
    return to_html(build(read_logs([str(make_ledger(tmp_path_factory.mktemp("ledger") / "runs.sqlite"))])))


@pytest.fixture
def see(browser, page, tmp_path):
    """Function that opens the page, runs statements that fill the object `seen`, and returns it and the console."""

    def look(statements):
        script = f"<script>{{ {_HELPERS} const seen = {{}}; {statements}; seen.problems = problems;"
        script += " document.body.dataset.seen = JSON.stringify(seen); }</script>"
        changed = page.replace("<head>", f"<head>{_COLLECT}", 1).replace("</body>", f"{script}</body>")
        path = tmp_path / "page.html"
        path.write_text(changed, encoding="utf-8")
        command = [browser, *_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found = re.search(r'data-seen="([^"]*)"', done.stdout)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert found is not None, console
        return json.loads(unescape(found[1])), console

    return look


def test_it_loads_without_an_error_and_everything_is_drawn(see):
    seen, console = see("""
      seen.charts = all("#curves svg[role=img]").length;
      seen.lines = shown("#curves path.line").length;
      const broken = (element) => [...element.attributes].some(({ value }) => /NaN|undefined|Infinity/.test(value));
      seen.broken = all("svg *").filter(broken).length;
      seen.bands = all("#curves path.band").length;
      seen.diagnostics = texts(all("#diagnostics svg > text:last-of-type"));
      seen.bars = shown("#memory .fill").map((bar) => bar.getBoundingClientRect().width > 5);
      seen.squares = shown("#sensitivity td.square").length;
      seen.chosen = shown("#sensitivity td.chosen").length;
      seen.failed = shown("#sensitivity td.failed").length;
      seen.dots = shown("#leaderboard .dots circle").length;
      seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    """)
    assert console == []
    assert seen["problems"] == []
    assert seen["broken"] == 0
    assert (seen["charts"], seen["lines"], seen["bands"]) == (4, 10, 10)
    assert len(seen["diagnostics"]) == 12
    assert seen["bars"] == [True] * 10
    assert seen["chosen"] == 10
    assert (seen["squares"], seen["failed"]) == (50, 4)
    assert seen["dots"] == 3 * 10 + 4
    assert seen["overflow"] <= 0


def test_sorting(see):
    seen, _ = see("""
      seen.first = values("test");
      sortBy("test"); seen.falling = values("test");
      sortBy("test"); seen.rising = values("test");
      sortBy("method"); seen.names = values("method");
      sortBy("passes"); seen.passes = values("passes");
      sortBy("passes"); seen.fewest = values("passes");
      seen.marked = all("th[aria-sort]").map((head) => head.getAttribute("aria-sort"));
    """)
    numbers = [float(text.split("±")[0]) for text in seen["falling"]]
    assert numbers == sorted(numbers, reverse=True)
    assert [float(text.split("±")[0]) for text in seen["rising"]] == sorted(numbers)
    assert seen["names"] == sorted(seen["names"])
    assert seen["passes"][-4:] == seen["fewest"][-4:] == [""] * 4  # without a figure: last, either way
    assert [seen["passes"][0], seen["fewest"][0]] == ["1\u202f200", "800"]
    assert seen["marked"] == ["ascending"]


def test_filtering(see):
    seen, _ = see("""
      choose("task", "rte");
      seen.tasks = [...new Set(values("task"))];
      seen.charts = texts(all("#curves figcaption"));
      seen.count = document.getElementById("shown").textContent;
      choose("tuning", "lora");
      seen.methods = values("method");
      choose("task", ""); choose("tuning", "");
      document.querySelector('[data-chip="mezo"]').click();
      seen.without = values("method").includes("mezo");
      seen.series = all('[data-series="mezo"]').length;
      seen.bars = shown('#memory [data-method="mezo"]').length;
      document.getElementById("none").click();
      seen.none = [texts(shown("#curves .charts")), lines().length];
      document.getElementById("all").click();
      seen.all = lines().length;
      document.querySelector("#published details").open = true;
      const search = document.getElementById("search-published");
      search.value = "OPT-13B mezo prefix"; search.dispatchEvent(new Event("input"));
      seen.published = shown("[data-published-task]").map((row) => texts([...row.cells]));
    """)
    assert seen["problems"] == []
    assert seen["tasks"] == ["rte"]
    assert seen["charts"] == ["rte, full tuning, test-model", "rte, lora tuning, test-model"]
    assert seen["count"] == "7 of 14 lines shown"
    assert seen["methods"] == ["zobcd", "zero-shot", "majority class"]
    assert (seen["without"], seen["series"], seen["bars"]) == (False, 0, 0)
    assert seen["none"] == [["Nothing is chosen."], 4]
    assert seen["all"] == 14
    assert ["sst2", "opt-13b", "prefix", "MeZO", "90.7"] in [row[:5] for row in seen["published"]]
    assert all(word in " ".join(row).lower() for row in seen["published"] for word in ("opt-13b", "mezo", "prefix"))


def test_switching_axes_and_figures(see):
    seen, _ = see("""
      const axis = () => all("#curves svg text").map((text) => text.textContent);
      seen.passes = axis().includes("forward passes (a backward counts as two)");
      const before = document.querySelector("#curves path.line").getAttribute("d");
      press("curves", "seconds");
      seen.seconds = axis().includes("seconds");
      seen.moved = document.querySelector("#curves path.line").getAttribute("d") !== before;
      press("curves", "loss");
      seen.loss = axis().includes("training loss");
      press("sensitivity", "accuracy");
      seen.maps = shown("#sensitivity figure").map((figure) => figure.dataset.metric);
      press("diagnostics", "lora_b");
      seen.group = all("#diagnostics svg text").some((text) => text.textContent === "norm of LoRA B");
      const svg = document.querySelector("#curves svg");
      const box = svg.getBoundingClientRect();
      const middle = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
      svg.dispatchEvent(new PointerEvent("pointermove", middle));
      seen.tip = document.getElementById("tip").textContent;
      svg.dispatchEvent(new PointerEvent("pointerleave"));
      seen.gone = document.getElementById("tip").hidden;
      const ground = () => getComputedStyle(document.body).backgroundColor;
      const light = ground();
      document.getElementById("theme").click();
      seen.dark = ground() !== light;
    """)
    assert seen["problems"] == []
    assert all(seen[name] for name in ("passes", "seconds", "moved", "loss", "group", "gone", "dark"))
    assert seen["maps"] == ["accuracy"] * 10
    assert re.search(r"^(adam|hizoo|lozo|mezo) [\d.]+ \([\d.]+ to [\d.]+, 3 runs\) at [\d.]+ seconds$", seen["tip"])
