"""The pictures of docs/ranking.md, taken in a browser: `make screenshots` (apt-get install chromium)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from ventaja.rankings import Item, Order, Store
from ventaja.records import Answer, Message, Prompt

IMAGES = Path(__file__).parent / "images"
PORT = 8799

CAT = (
    "Give her a warm place **beside** the keyboard:\n\n1. a box with a blanket\n2. in the sun, if there is any\n"
    "3. at the height of the desk\n\nShe wants to be near you, not on the keys.",
    "Cats lie on keyboards because they are warm and because you look there. Play with her for a few minutes before you "
    "begin, and buy an old keyboard for her alone.",
    "Lock her out of the room.",
    "I am sorry, but I cannot help with that.",
)
SUM = (
    "Write the sum twice, once forwards and once backwards. Each of the $n$ columns gives $n + 1$, so\n\n"
    "$$2S = n(n+1), \\qquad S = \\frac{n(n+1)}{2}.$$",
    "By induction: it holds for $n = 1$, and\n\n$$\\frac{n(n+1)}{2} + (n+1) = \\frac{(n+1)(n+2)}{2}.$$",
    "```python\nassert all(2 * sum(range(n + 1)) == n * (n + 1)\n           for n in range(1000))\n```\n\nIt holds a thousand "
    "times, so it holds.",
    "It is well known.",
)


def items() -> list[Item]:
    """Two items to look at, and some whose rankings the page of agreement shows."""

    def made(name: str, question: str, answers: tuple[str, ...], **more: Any) -> Item:
        asked = (Message(role="user", content=question),)
        return Item(
            prompt=Prompt(id=name, content=asked),
            answers=tuple(Answer(text=text) for text in answers),
            **more,
        )

    return [
        made("cat", "My cat sleeps on my keyboard while I work. What can I do?", CAT),
        made("sum", "Why is $1 + 2 + \\dots + n = \\frac{n(n+1)}{2}$?", SUM),
        *(
            made(
                f"chat:{n}",
                f"Say something kind to somebody at table {n}.",
                ("Hello.", "You look well.", "No.", "Who?"),
            )
            for n in range(8)
        ),
        made(
            "gold",
            "What is 2 + 2?",
            ("4", "About 4", "5", "Fish"),
            gold=Order(tiers=((0,), (1,), (2,), (3,))),
        ),
    ]


def rank(page: Page, *keys: str) -> None:
    """Types, and waits for the next item."""
    before = page.inner_text(".prompt")
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function("old => document.querySelector('.prompt')?.innerText !== old", arg=before)
    page.wait_for_load_state()


def by_quality(page: Page, *, swap: bool = False) -> list[str]:
    """The keys that order the answers as `items` has them, the two in the middle the other way round with `swap`."""
    quality = [answer.text.removeprefix("```python\n")[:5] for item in items() for answer in item.answers]
    shown = page.eval_on_selector_all(
        ".answer .text", "all => all.map(one => one.textContent.trim().slice(0, 5))"
    )
    order = sorted(range(4), key=lambda number: quality.index(shown[number]))
    if swap:
        order[1], order[2] = order[2], order[1]
    return [str(number + 1) for number in order]


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "rankings.db"
        with Store(path) as store:
            store.add(items())
            link = {name: f"http://127.0.0.1:{PORT}/#{store.rater(name).secret}" for name in ("ana", "ben")}
            organiser = f"http://127.0.0.1:{PORT}/#{store.organiser()}"
        server = subprocess.Popen(
            [sys.executable, "-m", "ventaja", "rank", str(path), "--port", str(PORT), "--order", "given",
             "--raters_per_item", "2", "--gold_every", "5", "--raters", "[ana, ben]"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}", timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.1)

            def visit(where: str, **options: Any) -> Page:
                options = {"viewport": {"width": 1360, "height": 820}, **options}
                page = browser.new_context(device_scale_factor=1, **options).new_page()
                page.set_default_timeout(60_000)
                page.goto(where)
                page.wait_for_selector("#ranking[data-ready], #live-part")
                return page

            page = visit(link["ana"])
            best = page.locator(".answer", has_text="warm place").get_attribute("data-answer")
            rest = [str(n) for n in range(4) if str(n) != best]
            for number in (best, *rest[:2]):
                page.keyboard.press(str(int(str(number)) + 1))
            page.keyboard.press("t")
            page.keyboard.press("l")
            page.wait_for_function(
                "() => document.getElementById('kept').textContent === 'every step is saved'"
            )
            page.screenshot(path=IMAGES / "rank.png")
            rank(page, str(int(rest[2]) + 1), "Enter")
            for key in "12":
                page.keyboard.press(key)
            page.wait_for_function(
                "() => document.getElementById('kept').textContent === 'every step is saved'"
            )
            dark = visit(link["ana"], color_scheme="dark")
            dark.screenshot(path=IMAGES / "rank-dark.png")
            phone = visit(link["ana"], viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
            phone.locator(".board").scroll_into_view_if_needed()
            phone.evaluate("document.querySelector('.board').scrollIntoView()")
            phone.screenshot(path=IMAGES / "rank-phone.png")
            rank(page, "3", "4", "Enter")
            for _ in range(6):
                rank(page, *by_quality(page), "Enter")
            ben = visit(link["ben"])
            for number in range(7):
                rank(ben, *by_quality(ben, swap=number % 3 == 1), "l", "Enter")
            visit(organiser).screenshot(path=IMAGES / "agreement.png", full_page=True)
        finally:
            browser.close()
            server.kill()
            server.wait()
    for image in sorted(IMAGES.glob("*.png")):
        print(image.relative_to(IMAGES.parent.parent), image.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
