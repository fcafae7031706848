"""The ranking page in a real browser, as a person uses it."""

import re
import shutil

import pytest
from ranking_server import item  # type: ignore[import-not-found]

from ventaja.rankings import Store

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """`visit(server, name, **options)`: the page of a rater in a browser of their own, entered by their link."""
    contexts, broken = [], []

    def go(server, name="ana", **options):
        context = browser.new_context(**{"viewport": {"width": 1360, "height": 860}, **options})
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(server.link(name))
        ready(page)
        return page

    yield go
    for context in contexts:
        context.close()
    assert broken == []


def ready(page):
    page.wait_for_url("**/rank")
    page.wait_for_selector("#ranking[data-ready]")


def submit(page, press="Enter"):
    """Submits, and waits for what comes next."""
    prompt = page.inner_text(".prompt")
    page.keyboard.press(press)
    page.wait_for_function(
        "old => !document.querySelector('.prompt') || document.querySelector('.prompt').innerText !== old",
        arg=prompt,
    )
    page.wait_for_selector("#ranking[data-ready], h1:has-text('Nothing left')")


def texts(page):
    return page.eval_on_selector_all(".answer .text", "all => all.map(one => one.innerText.trim())")


def board(page):
    """The order as the board shows it: tiers of texts, and the line."""
    return page.eval_on_selector_all(
        "#rows > li",
        "all => all.map(one => one.matches('.line') ? 'line' : [...one.querySelectorAll('.chip')].map(c => Number(c.dataset.answer)))",
    )


def said(server, rater="ana"):
    """The rankings that are kept, as tiers of texts."""
    with Store(server.store, create=False) as store:
        return [
            ([{r.answers[i].text for i in tier} for tier in r.order], r.line)
            for r in store.rankings()
            if r.rater == rater
        ]


def centre(page, selector):
    box = page.locator(selector).first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 8, start[1] + 8, steps=2)
    page.mouse.move(*end, steps=6)
    page.mouse.up()


def test_by_keyboard_with_a_tie_and_the_line(serve, visit):
    server = serve([item("one"), item("two")])
    page = visit(server)
    shown = texts(page)
    for key in "312":
        page.keyboard.press(key)
    page.keyboard.press("t")  # 2 is tied with 1
    assert board(page) == [[2], [0, 1]]
    page.keyboard.press("l")
    page.keyboard.press("4")
    assert board(page) == [[2], [0, 1], "line", [3]]
    assert page.inner_text("#live") == "Answer 4 is at place 3."
    submit(page)
    assert said(server) == [([{shown[2]}, {shown[0], shown[1]}, {shown[3]}], 2)]
    assert "Saved." in page.inner_text("#live")
    assert "1 ranked · 1 left" in page.inner_text(".progress")


def test_arrows_move_tie_untie_and_take_out(serve, visit):
    page = visit(serve([item("one")]))
    for key in "1234":
        page.keyboard.press(key)
    page.keyboard.press("ArrowUp")
    assert board(page) == [[0], [1], [3], [2]]
    page.keyboard.press("1")  # chooses what is placed
    page.keyboard.press("ArrowDown")
    assert board(page) == [[1], [0], [3], [2]]
    page.keyboard.press("l")
    page.keyboard.press("ArrowDown")  # across the line
    assert board(page) == [[1], "line", [0], [3], [2]]
    page.keyboard.press("t")  # with the one above, across the line
    assert board(page) == [[1, 0], "line", [3], [2]]
    page.keyboard.press("t")
    assert board(page) == [[1], [0], "line", [3], [2]]
    page.keyboard.press("Backspace")
    assert board(page) == [[1], "line", [3], [2]]
    page.keyboard.press("b")
    assert board(page) == ["line", [1], [3], [2]]
    page.keyboard.press("g")
    assert board(page) == [[1], [3], [2], [0], "line"]
    for _ in range(2):
        page.keyboard.press("Control+z")
    assert board(page) == [[1], "line", [3], [2]]


def test_by_mouse(serve, visit):
    server = serve([item("one")])
    page = visit(server)
    shown = texts(page)
    # a card into the empty order, and one below it
    drag(page, centre(page, "#answer-2 h2"), centre(page, "#empty"))
    assert board(page) == [[2]]
    x, y = centre(page, "#rows > li:nth-child(1)")
    drag(page, centre(page, "#pool [data-answer='0'] .handle"), (x, y + 24))
    assert board(page) == [[2], [0]]
    # on top of one: a tie; above the first: the best
    drag(page, centre(page, "#pool [data-answer='1'] .choose"), centre(page, "#rows > li:nth-child(2) .tied"))
    assert board(page) == [[2], [0, 1]]
    x, y = centre(page, "#rows > li:nth-child(1)")
    drag(page, centre(page, "#pool [data-answer='3'] .handle"), (x, y - 22))
    assert board(page) == [[3], [2], [0, 1]]
    # the line, first by its button, then dragged to the top
    page.click("[data-do='line']")
    assert "line" in board(page)
    x, y = centre(page, "#rows > li:nth-child(1)")
    drag(page, centre(page, ".line .handle"), (x, y - 22))
    assert board(page) == ["line", [3], [2], [0, 1]]
    # out of the order, and back by undo
    page.click("#answer-3 .place")
    assert board(page) == ["line", [2], [0, 1]]
    page.click("[data-do='undo']")
    assert board(page) == ["line", [3], [2], [0, 1]]
    page.click("[data-do='submit']")
    page.wait_for_selector("h1:has-text('Nothing left')")
    assert said(server) == [([{shown[3]}, {shown[2]}, {shown[0], shown[1]}], 0)]


def test_by_touch_at_phone_width(serve, visit):
    wide = "| a | b | c | d | e | f |\n|---|---|---|---|---|---|\n| aaaaaaaa | bbbbbbbb | cccccccc | dddddddd | eeeeeeee | ffffffff |"
    formula = r"\[\sum_{k=1}^{n+1} k = \frac{n(n+1)}{2} + (n+1) = \frac{(n+1)(n+2)}{2} = a + b + c + d + e + f + g\]"
    server = serve([item("one", "short", wide, formula, "x" * 400)])
    page = visit(server, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    shown = page.eval_on_selector_all(".answer .text", "all => all.map(one => one.textContent.trim())")
    for number in (1, 0, 2):
        page.tap(f"#answer-{number} .place")
    assert board(page) == [[1], [0], [2]]
    page.locator("#rows").scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    touch = page.context.new_cdp_session(page)

    def swipe(start, end):
        points = [
            [start],
            [(start[0], start[1] - 10)],
            [((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)],
            [end],
        ]
        for number, ((x, y),) in enumerate(points):
            kind = "touchStart" if number == 0 else "touchMove"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            page.wait_for_timeout(60)  # no fling, which would swallow the next tap
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    x, y = centre(page, "#rows > li:nth-child(1)")
    swipe(centre(page, "#rows > li:nth-child(3) .handle"), (x, y - 20))
    page.wait_for_timeout(1000)  # a tap at once would be the second of a double tap
    assert board(page) == [[2], [1], [0]]
    page.tap("#rows [data-answer='0'] .choose")
    page.tap("#rows [data-answer='0'] [data-do='tie']")
    assert board(page) == [[2], [1, 0]]
    page.tap("[data-do='bad']")
    page.tap("[data-do='submit']")
    page.wait_for_selector("h1:has-text('Nothing left')")
    [(tiers, line)] = said(server)
    assert line == 0
    assert [len(tier) for tier in tiers] == [1, 2]
    assert len(shown) == 4


def test_what_is_not_placed_is_asked_about_once(serve, visit):
    server = serve([item("one"), item("two")])
    page = visit(server)
    page.keyboard.press("Enter")
    assert "Nothing is placed yet" in page.inner_text("#problem")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    assert "Answers 1, 3, 4 are not placed" in page.inner_text("#problem")
    assert said(server) == []
    shown = texts(page)
    submit(page)
    assert said(server) == [([{shown[1]}], None)]
    # all bad says enough without an order
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Nothing left')")
    assert said(server)[1] == ([], 0)


def test_undo_goes_back_to_the_one_before_and_changes_it(serve, visit):
    server = serve([item("one"), item("two")])
    page = visit(server)
    shown = texts(page)
    for key in "1234":
        page.keyboard.press(key)
    submit(page)
    page.keyboard.press("u")
    page.wait_for_url("**/item/*")
    page.wait_for_selector("#ranking[data-ready]")
    assert board(page) == [[0], [1], [2], [3]]
    assert "This is how you ranked it" in page.inner_text("#live")
    page.keyboard.press("4")
    page.keyboard.press("ArrowUp")
    submit(page)
    assert said(server) == [([{shown[0]}, {shown[1]}, {shown[3]}, {shown[2]}], None)]
    assert "Which is best, two?" in page.inner_text(".prompt")
    page.click("nav >> text=Earlier")
    page.click("text=Which is best, one?")
    page.wait_for_selector("#ranking[data-ready]")
    assert board(page) == [[0], [1], [3], [2]]


def test_skip_and_flag(serve, visit):
    server = serve([item("one"), item("two")])
    page = visit(server)
    page.keyboard.press("f")
    page.fill("#comment", "s, not a key <b>")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('live').textContent === 'The flag is kept.'")
    submit(page, "s")
    with Store(server.store, create=False) as store:
        assert [flag["comment"] for flag in store.flags()] == ["s, not a key <b>"]
        assert store.counts()["skips"] == 1
    assert "Skipped." in page.inner_text("#live")


def test_two_raters_at_once(serve, visit):
    server = serve([item(f"item {i}") for i in range(4)])
    pages = {name: visit(server, name) for name in ("ana", "ben")}
    seen = []
    for _ in range(2):
        for page in pages.values():
            seen.append(page.inner_text(".prompt .text"))
        for page in pages.values():
            for key in "1234":
                page.keyboard.press(key)
        for page in pages.values():
            submit(page)
    assert sorted(seen) == [f"Which is best, item {i}?" for i in range(4)]
    assert len(said(server, "ana")) == len(said(server, "ben")) == 2
    assert "Nothing left" in pages["ana"].inner_text("main")


def test_two_tabs_do_not_overwrite_each_other(serve, visit):
    server = serve([item("one"), item("two")])
    first = visit(server)
    second = first.context.new_page()
    second.goto(f"{server.url}/rank")
    ready(second)
    shown = texts(first)
    assert texts(second) == shown
    for key in "1234":
        first.keyboard.press(key)
    submit(first)
    for key in "4321":
        second.keyboard.press(key)
    second.keyboard.press("Enter")
    second.wait_for_selector("#problem:not([hidden])")
    assert re.search("judged (in another tab|elsewhere)", second.inner_text("#problem"))
    assert said(server) == [([{text} for text in shown], None)]
    second.click("[data-do='reload']")
    second.wait_for_url("**/item/*")
    second.wait_for_selector("#ranking[data-ready]")
    assert board(second) == [[0], [1], [2], [3]]


def test_a_kill_in_the_middle_loses_nothing(serve, visit):
    server = serve([item("one"), item("two")])
    page = visit(server)
    shown = texts(page)
    for key in "31":
        page.keyboard.press(key)
    page.wait_for_function("() => document.getElementById('kept').textContent === 'every step is saved'")
    server.kill()
    server.start()
    page.reload()
    page.wait_for_selector("#ranking[data-ready]")
    assert board(page) == [[2], [0]]
    assert "how far you were" in page.inner_text("#live")
    for key in "24":
        page.keyboard.press(key)
    page.wait_for_function("() => document.getElementById('kept').textContent === 'every step is saved'")
    server.kill()
    page.keyboard.press("Enter")
    page.wait_for_selector("#problem:not([hidden])")
    assert "The server does not answer" in page.inner_text("#problem")
    server.start()
    submit(page)
    assert said(server) == [([{shown[i]} for i in (2, 0, 1, 3)], None)]


def test_an_answer_cannot_do_anything(serve, visit):
    attacks = (
        "<script>document.title = 'owned'; fetch('https://example.org')</script>",
        "<img src=x onerror=\"document.title = 'owned'\"> ![x](https://example.org/pixel.png)",
        "[click me](javascript:document.title='owned') <svg onload=\"document.title='owned'\">",
        "'\"></div><iframe srcdoc=\"<script>parent.document.title='owned'</script>\"></iframe> {{ 7 * 7 }}",
    )
    server = serve([item("<script>document.title = 'owned'</script>", *attacks)])
    page = visit(server)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail("a dialog"))
    page.reload()
    page.wait_for_selector("#ranking[data-ready]")
    page.wait_for_timeout(300)
    assert page.title() == "Rank · Ventaja"
    assert all(url.startswith(server.url) for url in asked)
    assert page.locator(".text script, .text img, .text svg, .text iframe, .text a").count() == 0
    assert {"<script>document.title = 'owned'; fetch('https://example.org')</script>"} <= set(texts(page))
    # and what would slip through could not run
    assert (
        page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); return window.ran ?? null }"
        )
        is None
    )


def test_strange_texts_are_shown(serve, visit):
    server = serve(
        [item("one", "مرحبا، كيف الحال؟", "👩‍👩‍👧 🙂", "word " * 2000, "$\\frac{a}{b}$ and `code`")]
    )
    page = visit(server)
    assert {"👩‍👩‍👧 🙂", "مرحبا، كيف الحال؟"} <= set(texts(page))
    arabic = page.locator(".answer .text", has_text="مرحبا")
    assert arabic.evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert page.locator(".answer math mfrac").count() == 1
    # the board stays in reach beside an answer of pages
    page.mouse.wheel(0, 1500)
    page.wait_for_timeout(200)
    assert page.locator("[data-do='submit']").is_visible()
    for key in "1234":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Nothing left')")


def test_a_stranger_and_a_wrong_link(serve, browser):
    server = serve([item("one")])
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{server.url}/#wrong")
    page.wait_for_function("() => document.getElementById('said').textContent.includes('not valid')")
    assert page.url == f"{server.url}/"
    assert page.goto(f"{server.url}/rank").status == 403
    context.close()


def test_agreement_is_live(serve, visit, browser):
    server = serve([item("one")], "--raters_per_item", "2")
    watching = browser.new_context().new_page()
    watching.goto(f"{server.url}/#{server.organiser}")
    watching.wait_for_url("**/agreement")
    assert "Nobody has ranked anything yet" in watching.inner_text("main")
    for name in ("ana", "ben"):
        page = visit(server, name)
        for key in "1234":
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:has-text('Nothing left')")
    watching.wait_for_selector("text=2 rankings", timeout=60_000)
    assert watching.locator("tbody th", has_text="ben").count() == 1
    watching.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_serious_fault(serve, visit, browser, scheme, options):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def look(page, where):
        found = axe.run(page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, f"{where}: " + "; ".join(
            f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}" for v in serious
        )

    rich = "# Title\n\n> quote\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n\n$$x = \\frac{1}{2}$$ [a](https://example.org)"
    server = serve([item("one", rich, "b", "c", "d"), item("two")])
    page = visit(server, color_scheme=scheme, **options)
    look(page, "an empty order")
    for key in "312":
        page.keyboard.press(key)
    page.keyboard.press("t")
    page.keyboard.press("l")
    page.click("summary")
    look(page, "an order with a tie and the line")
    page.click("[data-do='flag']")
    look(page, "the flag")
    page.click("[data-do='close-flag']")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.prompt').innerText.includes('two')")
    page.goto(f"{server.url}/earlier")
    look(page, "earlier")
    page.goto(f"{server.url}/rank")
    page.wait_for_selector("#ranking[data-ready]")
    page.keyboard.press("s")
    page.wait_for_selector("h1:has-text('Nothing left')")
    look(page, "done")
    watching = browser.new_context(color_scheme=scheme, **options).new_page()
    watching.goto(f"{server.url}/#{server.organiser}")
    watching.wait_for_url("**/agreement")
    look(watching, "agreement")
    watching.goto(f"{server.url}/nowhere")
    look(watching, "an error")
    watching.context.close()
