"""Text becomes HTML that cannot do anything, however it tries."""

import html.parser
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventaja.web.markdown import MOST_FORMULAS, formula, rendered

MATH = {
    "math", "mrow", "mi", "mn", "mo", "ms", "mspace", "mtext", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder",
    "mover", "munderover", "mmultiscripts", "mprescripts", "none", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom",
    "menclose", "merror",
}  # fmt: skip
TEXT = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th",
    "td", "div", "span",
}  # fmt: skip


class Look(html.parser.HTMLParser):
    """What a browser would make of it: elements and attributes."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes = set(), set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}


def harmless(text):
    look = Look(str(rendered(text)))
    assert look.elements <= TEXT | MATH
    assert not any(
        name.startswith("on") or name in {"style", "href", "src", "id", "name"} for name in look.attributes
    )


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a\n\n<div onclick=alert(1)>\n\nb\n\n</div>",
    "[x](javascript:alert(1)) [y](https://example.org) <https://example.org> ![z](https://example.org/p.png)",
    "[x]: https://example.org 'title\" onclick=alert(1)'\n\n[x] ![x]",
    r"$\href{javascript:alert(1)}{x}$ $\text{<script>alert(1)</script>}$ $\class{a}{b}\style{color:red}{x}$",
    r"$$\color{red\" onclick=alert(1)}{x}$$",
    "| a |\n|:-:|\n| <b>x</b> |",
    '``` "><script>\n</code><script>alert(1)</script>\n```',
    "&lt;script&gt; &#60;script&#62; \\<script>",
    "<!-- -->  <![CDATA[ <script> ]]> <?php ?> <!DOCTYPE x>",
    "\x00<\x00script>",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_stay_text(text):
    harmless(text)


@given(
    st.lists(
        st.sampled_from(
            [*ATTACKS, "`", "$", "$$", "\\(", "\\)", "\\[", "\\]", "*", "|", "\n", "> ", "- ", "é"]
        )
    ).map("".join)
)
def test_no_mixture_of_them_does_anything(text):
    harmless(text)


def test_what_people_write_is_shown():
    assert str(rendered("**a** `b` ~~c~~")) == "<p><strong>a</strong> <code>b</code> <s>c</s></p>\n"
    assert rendered("# big") == '<p class="heading h1">big</p>\n'
    assert rendered("```py\nx < 1\n```") == "<pre><code>x &lt; 1\n</code></pre>\n"
    assert rendered("[text](https://example.org/a?b&c)") == (
        '<p><span class="link">text</span> <span class="address">(https://example.org/a?b&amp;c)</span></p>\n'
    )
    assert rendered("![a cat](https://example.org/cat.png)") == (
        '<p><span class="link">[picture: a cat]</span> <span class="address">(https://example.org/cat.png)</span></p>\n'
    )
    assert '<td class="right">1</td>' in rendered("| n |\n|--:|\n| 1 |")
    assert rendered("one\ntwo") == "<p>one<br />\ntwo</p>\n"


@pytest.mark.parametrize("text", ["$x^2$", r"\(x^2\)", "so $x^2$.", "($x^2$)"])
def test_formulas_within_a_line(text):
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in rendered(text)
    assert 'display="inline"' in rendered(text)


@pytest.mark.parametrize(
    "text", ["$$\nx\n=\n1\n$$", "\\[\nx = 1\n\\]", "text\n$$x = 1$$\nmore", "- a\n\n  $$x = 1$$"]
)
def test_formulas_on_lines_of_their_own(text):
    shown = rendered(text)
    assert '<div class="formula"><math display="block">' in shown
    assert "<mo>=</mo><mn>1</mn>" in shown


@pytest.mark.parametrize(
    "text",
    [
        "it costs $5 and $6",
        "$ x $",
        "a\\$b$ c",
        "$",
        "$$",
        "\\(",
        "\\[ never closed",
        "$$\nnever closed",
        "5$",
    ],
)
def test_what_is_no_formula(text):
    assert "<math" not in rendered(text)


def test_a_formula_that_cannot_be_read_stays_as_written():
    assert formula(r"\frac{", display=False) == r'<code class="tex">\frac{</code>'
    assert formula("x" * 2000, display=False).startswith('<code class="tex">xxx')


def test_long_and_nasty_texts_take_no_time():
    for text in ("\\(" * 25_000, "$$" * 25_000, "[" * 50_000, "> " * 20_000, "**a" * 15_000, "$x$ " * 12_000, "`" * 49_999,
                 "| a " * 10_000, "x" * 200_000, "- " * 20_000):  # fmt: skip
        began = time.process_time()
        harmless(text)
        assert time.process_time() - began < 20
    assert str(rendered("$x$ " * (MOST_FORMULAS + 50))).count("<math") == MOST_FORMULAS
