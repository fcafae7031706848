"""Text of a model as HTML that cannot do anything: Markdown without HTML, links or pictures, and formulas as MathML.

Whatever stands in an answer stays text: markdown-it escapes HTML, no address is made a link or loaded, and of MathML
only elements and attributes that are listed here are written.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup

LONGEST = 50_000
"""Characters. A longer text is shown as it is, without Markdown, which no reader of such a thing needs at once."""
LONGEST_FORMULA = 1_000
MOST_FORMULAS = 200
"""In one text; further ones are shown as they were written."""

_ELEMENTS = frozenset(
    [
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "ms",
        "mspace",
        "mtext",
        "mfrac",
        "msqrt",
        "mroot",
        "msub",
        "msup",
        "msubsup",
        "munder",
        "mover",
        "munderover",
        "mmultiscripts",
        "mprescripts",
        "none",
        "mtable",
        "mtr",
        "mtd",
        "mstyle",
        "mpadded",
        "mphantom",
        "menclose",
        "merror",
    ]
)
_ATTRIBUTES = frozenset(
    [
        "display",
        "displaystyle",
        "scriptlevel",
        "stretchy",
        "fence",
        "separator",
        "form",
        "accent",
        "accentunder",
        "columnalign",
        "rowspacing",
        "columnspacing",
        "columnlines",
        "rowlines",
        "mathvariant",
        "linethickness",
        "lspace",
        "rspace",
        "minsize",
        "maxsize",
        "width",
        "height",
        "depth",
        "movablelimits",
        "largeop",
        "symmetric",
        "notation",
    ]
)
_OPEN = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}


@lru_cache(maxsize=512)
def rendered(text: str) -> Markup:
    """The text as HTML."""
    if len(text) > LONGEST:
        return Markup(f'<div class="plain">{html.escape(text)}</div>')
    try:
        return Markup(_MARKDOWN.render(text, {"formulas": 0}))
    except (
        RecursionError,
        ValueError,
        IndexError,
    ):  # whatever a strange text may do to a parser, it is shown
        return Markup(f'<div class="plain">{html.escape(text)}</div>')


def formula(tex: str, *, display: bool) -> str:
    """LaTeX as MathML; what cannot be converted stays as it was written, as code."""
    try:
        if len(tex) > LONGEST_FORMULA:
            raise ValueError("too long")
        tree = ElementTree.fromstring(convert(tex, display="block" if display else "inline"))
        return _written(tree)
    except Exception:  # the converter's own errors have many types, and a formula is never worth a page
        return f'<code class="tex">{html.escape(tex)}</code>'


def _written(element: ElementTree.Element) -> str:
    name = element.tag.rpartition("}")[2]
    inside = html.escape(element.text or "") + "".join(
        _written(child) + html.escape(child.tail or "") for child in element
    )
    if name not in _ELEMENTS:
        return inside
    attributes = "".join(
        f' {key}="{html.escape(value)}"' for key, value in element.attrib.items() if key in _ATTRIBUTES
    )
    return f"<{name}{attributes}>{inside}</{name}>"


# ------------------------------------------------------------------------------------------------ rules


def _formula_inline(state: StateInline, silent: bool) -> bool:
    """`\\(…\\)`, `$…$`, and within a line `\\[…\\]` and `$$…$$`."""
    here = state.pos
    opening = next((mark for mark in _OPEN if state.src.startswith(mark, here)), None)
    if opening is None:
        return False
    start = here + len(opening)
    end = state.src.find(_OPEN[opening], start, min(state.posMax, start + LONGEST_FORMULA))
    if opening == "$":  # as in pandoc, so that sums of money stay what they are
        while end > 0 and state.src[end - 1] == "\\":
            end = state.src.find("$", end + 1, min(state.posMax, start + LONGEST_FORMULA))
        after = state.src[end + 1 : end + 2]
        if end > 0 and (state.src[start].isspace() or state.src[end - 1].isspace() or after.isdigit()):
            return False
    if end <= start or not state.src[start:end].strip():
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content = state.src[start:end].strip()
        token.meta = {"display": opening in ("\\[", "$$")}
    state.pos = end + len(_OPEN[opening])
    return True


def _formula_block(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """`$$` or `\\[` at a line's beginning, up to the line that ends with `$$` or `\\]`."""
    here = state.bMarks[start_line] + state.tShift[start_line]
    opening = next((mark for mark in ("$$", "\\[") if state.src.startswith(mark, here)), None)
    if opening is None or state.is_code_block(start_line):
        return False
    closing = _OPEN[opening]
    begin = here + len(opening)
    for line in range(start_line, end_line):
        if line > start_line and state.sCount[line] < state.blkIndent:
            return False
        if state.eMarks[line] - begin > LONGEST_FORMULA:
            return False
        stretch = state.src[begin : state.eMarks[line]].rstrip()
        if stretch.endswith(closing) and stretch != "":
            tex = stretch.removesuffix(closing).strip()
            if closing in tex or not tex:
                return False
            if not silent:
                token = state.push("formula", "", 0)
                token.block = True
                token.content = tex
                token.meta = {"display": True}
                state.line = line + 1
            return True
    return False


def _render_formula(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    env["formulas"] = env.get("formulas", 0) + 1
    if env["formulas"] > MOST_FORMULAS:
        return f'<code class="tex">{html.escape(token.content)}</code>'
    shown = formula(token.content, display=token.meta["display"])
    return f'<div class="formula">{shown}</div>\n' if token.block else shown


def _heading(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A heading of an answer is no heading of the page."""
    return f'<p class="heading {tokens[index].tag}">' if tokens[index].nesting == 1 else "</p>\n"


def _link(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A link's text, and where it would lead; it leads nowhere, for this page loads nothing and leaves for nothing."""
    if tokens[index].nesting == 1:
        env.setdefault("links", []).append(str(tokens[index].attrs.get("href", "")))
        return '<span class="link">'
    address = env["links"].pop()
    return f'</span> <span class="address">({html.escape(address)})</span>'


def _image(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    address = html.escape(str(token.attrs.get("src", "")))
    return f'<span class="link">[picture: {html.escape(token.content)}]</span> <span class="address">({address})</span>'


def _cell(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A table's cell; the alignment as a class, for the page allows no styles in its text."""
    token = tokens[index]
    found = re.search(r"left|right|center", str(token.attrs.get("style", "")))
    return f"<{token.tag}{f' class={chr(34)}{found[0]}{chr(34)}' if found else ''}>"


def _fence(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return f"<pre><code>{html.escape(tokens[index].content)}</code></pre>\n"


def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True})
    parser.enable(["table", "strikethrough"])
    parser.disable(["html_block", "html_inline"])
    parser.inline.ruler.before("escape", "formula", _formula_inline)
    parser.block.ruler.before(
        "fence", "formula_block", _formula_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    for name, rule in {
        "formula": _render_formula,
        "heading_open": _heading,
        "heading_close": _heading,
        "link_open": _link,
        "link_close": _link,
        "image": _image,
        "th_open": _cell,
        "td_open": _cell,
        "fence": _fence,
        "code_block": _fence,
    }.items():
        parser.add_render_rule(name, rule)
    return parser


_MARKDOWN = _markdown()
