"""The page as text: nothing from outside, nothing that a name could break. How it behaves: tests/browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from foretune.ledger import Point
from foretune.reports.report import build
from foretune.reports.web.page import to_html

_VOID = {"meta", "link", "line", "circle", "input"}


class _Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []
        self.ids = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(report):
    return to_html(report)


def test_elements_are_balanced_and_ids_unique(page):
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))


def test_nothing_is_asked_of_a_network(page):
    assert re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]*\"", page) == []
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_every_part_is_there(page):
    parts = ("leaderboard", "curves", "costs", "memory", "sensitivity", "diagnostics", "published", "runs")
    for part in parts:
        assert f'<section id="{part}">' in page
        assert f'<a href="#{part}">' in page


def test_parts_without_data_are_left_out(make_run, read_back):
    page = to_html(build(read_back([make_run()])))
    assert '<section id="leaderboard">' in page
    for part in ("curves", "diagnostics", "sensitivity", "costs", "memory"):
        assert f'<section id="{part}">' not in page


def test_names_cannot_break_the_page(make_run, read_back):
    name = '</script><b>"&'
    run = make_run(name, name=name, error=name, status="failed", metrics={})
    other = make_run(name, name=name, config={"method": {"name": name, "lr": 1.0}})
    page = to_html(build(read_back([run, other], [[], [Point(1, {"loss": 1.0})]]), title=name))
    assert "<b>" not in page.replace("</b>", "")
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    assert data["curves"][0]["method"] == name


def test_what_cannot_be_read_is_named(make_run, read_back):
    logs = read_back([make_run()])
    logs.skipped.append("Run folder x is left out: torn.")
    assert "<li>Run folder x is left out: torn.</li>" in to_html(build(logs))


def test_published_numbers_are_marked(page):
    assert re.search(r'<td class="number published"[^>]*title="91.4 opt-13b: MeZO, arXiv 2305.17333, T1, read in', page)
    assert "<sup>P</sup>" in page
