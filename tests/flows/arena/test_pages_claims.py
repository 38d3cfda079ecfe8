"""The page of claims and docs/claims.md: every row whole, in an order of their own, and no text of a row is markup."""

import json
import random
import re

import pytest

from flows.arena.pages.claims_markdown import HEAD, markdown, plain
from flows.arena.pages.claims_page import page
from tests.flows.arena import pages_examples as examples
from tests.flows.arena.pages_examples import words_of
from tests.report.test_page import Page

ROWS = {
    "none": [], "one": examples.claims(1), "forty": examples.claims(40), "extremes": examples.extreme_claims(),
    "no ratio": [row for row in examples.claims(40) if row["ratio"] is None],
}  # fmt: skip
LINKS = {"study_0": "study 0/index.html", "study_1": "javascript:alert(1)"}


def html_of(name: str) -> str:
    return page(examples.as_lines(ROWS[name]), LINKS)


@pytest.mark.parametrize("name", ROWS)
def test_the_page_is_whole_and_asks_for_nothing(name: str) -> None:
    html = html_of(name)
    read = Page(html)
    assert {a["href"] for _, a in read.tags if "href" in a} <= {"study%200/index.html", "javascript%3Aalert%281%29"}
    assert not [
        a for _, attributes in read.tags for a in attributes if a in ("src", "srcset", "action") or a.startswith("on")
    ]
    assert [tag for tag, _ in read.tags].count("script") == 1  # its own, which sorts
    assert not {tag for tag, _ in read.tags} & {"img", "link", "iframe", "object", "image", "use"}
    assert "@import" not in html and "url(" not in html and "://" not in html and not re.search(r"\b(nan|inf)\b", html)


@pytest.mark.parametrize("make", [page, markdown])
@pytest.mark.parametrize("name", ROWS)
def test_rows_in_any_order_give_the_same(name: str, make) -> None:
    first = make(examples.as_lines(ROWS[name]))
    shuffled = random.Random(7).sample(ROWS[name], len(ROWS[name]))
    assert make(examples.as_lines(shuffled)) == first == make("\n" + examples.as_lines(ROWS[name]) + "\n\n")


def test_counts_of_verdicts_stand_on_top() -> None:
    words = words_of(html_of("forty"))
    assert "10 of 40 claims shown on this data, at this size" in words
    assert "shown 10 not shown at this size 10 contradicted 10 cannot be shown here 10" in words
    assert "0 of 0 claims" in words_of(html_of("none")) and "There is no claim yet." in words_of(html_of("none"))


def test_every_figure_of_a_row_is_in_its_line() -> None:
    row = examples.claim(
        "muon",
        study="study_0",
        quantity="tokens_to_target",
        control="fully_decayed",
        why="because",
        source="Jordan 2024",
    )
    words = words_of(page(json.dumps(row), LINKS))
    assert (
        "muon pretrain.optimizer 2x fewer FLOP than AdamW 002-194 Jordan 2024 0.930 0.918 to 0.943 bootstrap 0.922 to 0.940 "
        "tokens to target, control fully_decayed 512,000 parameters 300,000 tokens 5 4 min 20 s 2.12e13 FLOP shown because "
        "study_0 21855c9, 2026-11-28"
    ) in words
    assert "Measured on Intel Xeon, 2 cores, avx512 (1)." in words


def test_every_claim_has_its_line_and_every_ratio_its_lane() -> None:
    html = html_of("forty")
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    assert re.findall(r'<th scope="row"><div>(\w+)</div>', body) == [
        row["method"] for row in sorted(ROWS["forty"], key=lambda r: (r["room"], r["method"]))
    ]
    lanes = html.count('<span class="lane ') - 2  # the axis stands above and below
    assert lanes == 30 and html.count('class="group"') == 4
    assert re.findall(r"<h3>([^<]*)</h3>", html) == sorted({row["room"] for row in ROWS["forty"]})


def test_links_lead_to_pages_and_nowhere_else() -> None:
    html = html_of("forty")
    assert '<a href="study%200/index.html">study_0</a>' in html and ">study_2</a>" not in html
    assert "[study\\_0](study%200/index.html)" in markdown(examples.as_lines(ROWS["forty"]), LINKS)


def test_markup_in_any_text_of_a_row_stays_text() -> None:
    html = html_of("extremes")
    assert html.count("<script") == 1 and "alert(&#39;x&#39;)" in html and "\x1b" not in html
    rooms = [a["data-room"] for tag, a in Page(html).tags if tag == "tr" and "data-room" in a]
    assert "<script>alert('x')</script>&\"|`*_[a](b)\ufffd[31m" in rooms


def test_the_markdown_is_a_table_whatever_texts_say() -> None:
    text = markdown(examples.as_lines(ROWS["extremes"]), LINKS)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 42 and table[0] == f"| {' | '.join(HEAD)} |"
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table} == {len(HEAD) + 1}
    assert "<" not in text and "\x1b" not in text
    assert "Of 42 claims: 11 shown, 10 not shown at this size, 10 contradicted, 10 cannot be shown here, 1 " in text


def test_a_row_of_the_markdown_by_hand() -> None:
    text = markdown(
        json.dumps(examples.claim("drop_muon", control="c", why="so")), {"optimizers": "../studies/optimizers.yaml"}
    )
    assert (
        "| drop\\_muon | pretrain.optimizer | 2x fewer FLOP than AdamW (002-194) | 0.930 (0.918 to 0.943; bootstrap 0.922 to 0.940), "
        "control c | 512,000 parameters, 300,000 tokens | 5 | 4 min 20 s, 2.12e13 FLOP | shown: so "
        "| [optimizers](../studies/optimizers.yaml) |"
    ) in text
    assert "Of 1 claim: 1 shown, none not shown" in text and "* Intel Xeon, 2 cores, avx512: 1 row" in text
    assert "There is no claim yet." in markdown("")


def test_markdown_shows_what_it_is_given() -> None:
    assert plain("a|b_c*d`e[f](g)<h>&\\") == "a\\|b\\_c\\*d\\`e\\[f\\](g)&lt;h&gt;&amp;\\\\"


def test_a_row_that_is_none_is_named_by_its_line() -> None:
    rows = [*examples.claims(2), {"method": "x"}]
    with pytest.raises(ValueError, match=r"^claims\.jsonl:3: room: Field required[^\n]*$"):
        page(examples.as_lines(rows))
