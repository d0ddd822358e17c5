import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricer.errors import one_line, printable, quoted
from pricer.escaping import json_line, markdown, spreadsheet

ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates too


@given(ANY_TEXT)
def test_printable_text_can_be_shown_on_any_terminal(text):
    shown = printable(text)
    shown.encode()
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066\u200b" for c in shown)
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Café, 東京 £5", "Café, 東京 £5"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\u202eb", r"a\u202eb"),
        ("cut \ud83d", r"cut \ud83d"),
        ("one\ntwo", r"one\x0atwo"),
    ],
)
def test_what_is_harmless_stays(text, shown):
    assert printable(text) == shown


@given(st.recursive(ANY_TEXT | st.integers() | st.none(), st.lists, max_leaves=5))
def test_a_json_line_is_one_line_that_says_the_same(value):
    line = json_line(value)
    assert json.loads(line) == value and printable(line) == line


def test_no_json_line_holds_a_number_that_json_has_not():
    with pytest.raises(ValueError):
        json_line({"estimate_usd": float("nan")})


@given(ANY_TEXT)
def test_markdown_shows_the_text_and_no_more(text):
    from markdown_it import MarkdownIt

    [begin, inline, end] = MarkdownIt("gfm-like", {"linkify": False}).parse(f"x {markdown(text)} x")
    assert (begin.type, end.type) == ("paragraph_open", "paragraph_close")
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children).split() == (
        f"x {printable(' '.join(text.split()))} x".split()
    )


def test_markdown_has_no_address_that_github_makes_a_link_of():
    assert markdown("www.e.example WWW.e.example 1.5 in.") == (
        r"www\.e.example WWW\.e.example 1.5 in."
    )


def test_error_lines_have_an_end():
    assert len(one_line("x" * 10**6)) < 2_010
    for value in ("x" * 10**6, b"x" * 10**6, 10**5000, ["x"] * 1000):
        assert len(quoted(value)) <= 62
    assert quoted("a\x1bb") == r"'a\x1bb'" and quoted(7) == "7"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1"])
def test_a_spreadsheet_gets_no_formula(text):
    assert spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize("value", ["mug", "a = b", 5.0, -5, None])
def test_a_spreadsheet_gets_all_else_as_it_is(value):
    assert spreadsheet(value) is value
