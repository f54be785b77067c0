"""The page itself: whatever models wrote stays text."""

import re

import pytest
from run_folders import page

from qwen_align.metric.interval import Interval
from qwen_align.report.render import Answer, Link, Section, formatted, write_pages


def written(folder, *sections: Section) -> tuple[str, str]:
    write_pages(folder / "report", "a title", "a summary", list(sections))
    return page(folder, "report.html"), page(folder)


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (Interval(0.2431, 0.228, 0.259), "", "0.243 [0.228, 0.259]"),
        (Interval(0.1, -0.02, 0.22), "+", "+0.100 [-0.020, +0.220]"),
        (1234, "", "1,234"),
        (12.34, "", "12.3"),
    ],
)
def test_numbers_are_written_with_their_intervals(value, sign, text):
    assert formatted(value, sign) == text


def test_what_models_and_prompts_say_is_escaped_in_html(tmp_path):
    hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    html, _ = written(tmp_path, Section("S", samples=[(hostile, [Answer("<b>sft</b>", hostile, "<i>correct</i>", "")])]))
    assert not re.search(r"<script|onerror=alert\(1\)>|<img src=x|<b>sft|<i>correct", html)
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2


def test_a_completion_cannot_end_its_code_block_in_markdown(tmp_path):
    hostile = "```\n````\n# a heading\n<script>"
    _, markdown = written(tmp_path, Section("S", samples=[("p", [Answer("sft", hostile, "correct", "")])]))
    assert f"`````text\n{hostile}\n`````" in markdown


def test_a_cell_cannot_end_its_column_in_markdown(tmp_path):
    _, markdown = written(tmp_path, Section("S", table=[["head"], ["1 | <b>"]]))
    assert r"| 1 \| &lt;b&gt; |" in markdown


def test_both_pages_have_the_same_sections_without_the_empty_ones(tmp_path):
    full, empty = Section("Full", table=[["head"], ["cell"]]), Section("Empty", "a note", table=[["head"]])
    html, markdown = written(tmp_path, full, empty)
    assert re.findall(r"<h2>(.*)</h2>", html) == re.findall("^## (.*)$", markdown, re.MULTILINE) == ["Full"]


def test_a_link_leads_somewhere_in_both(tmp_path):
    html, markdown = written(tmp_path, Section("S", table=[["run"], [Link("sft", "../sft/")]]))
    assert '<a href="../sft/">sft</a>' in html
    assert "[sft](../sft/)" in markdown


def test_the_page_loads_nothing(quickstart):
    text = page(quickstart, "report.html")
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    assert re.findall(r"<img src=\"([^,]*),", text) == ["data:image/png;base64"] * 3
