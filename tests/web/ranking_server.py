"""Items to rank, and `ventaja rank` in a process of its own."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from ventaja.rankings import Item, Store
from ventaja.records import Answer, Prompt


def item(name, *texts, **more):
    texts = texts or tuple(f"{name}, answer {letter}" for letter in "abcd")
    return Item(
        prompt=Prompt(id=name, content=f"Which is best, {name}?"),
        answers=tuple(Answer(text=text, source=f"secret-model-{i}") for i, text in enumerate(texts)),
        **more,
    )


class Server:
    """`ventaja rank` as people run it. It can be killed, and started again at the same address."""

    def __init__(self, store: Path, *flags: str, raters: tuple[str, ...] = ("ana", "ben")) -> None:
        self.store = store
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.flags = (*flags, "--raters", f"[{', '.join(raters)}]")
        with Store(store) as opened:
            self.secrets = {name: opened.rater(name).secret for name in raters}
            self.organiser = opened.organiser()
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def link(self, name: str) -> str:
        return f"{self.url}/#{self.secrets[name]}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ventaja", "rank", str(self.store), "--port", str(self.port), *self.flags],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
