"""Talk to a model: the conversation as messages, one sampled answer at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from ventaja.cli.chat import ChatConfig
from ventaja.errors import ModelError
from ventaja.models import Policy, render_prompt
from ventaja.records import Completion, Message, Prompt, Request, StopReason
from ventaja.rollouts import Engine, LocalEngine
from ventaja.tracking.words import counted
from ventaja.training.model import load_model


class TooLong(Exception):
    """A message that does not fit the model's context, even with everything before it forgotten."""


class Conversation:
    """Messages and the engine that answers them. A model without a chat template completes plain text."""

    def __init__(self, policy: Policy, engine: Engine, config: ChatConfig) -> None:
        self.policy, self.engine, self.config = policy, engine, config
        self.has_template = bool(policy.tokenizer.chat_template)
        if config.system is not None and not self.has_template:
            raise ModelError(
                f"{policy.name} has no chat template, so it has no place for a system message. Leave out "
                "--system, or give a template with --model.chat_template."
            )
        self.turn = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        system = self.config.system
        self.system: list[Message] = [{"role": "system", "content": system}] if system is not None else []
        self.said: list[Message] = []

    def answer(self, text: str) -> tuple[Completion, int]:
        """The model's answer to `text`, and how many of the oldest messages it had to forget for it.

        If it raises (TooLong, or interrupted), `text` counts as not said.
        """
        asked = [*self.said, Message(role="user", content=text)] if self.has_template else []
        prompt, prompt_ids, forgotten = self._fit(asked, text)
        seed = (self.config.seed, self.turn)
        request = Request(prompt=prompt, prompt_ids=prompt_ids, count=1, seed=seed)
        [[completion]] = self.engine.sample([request], self.config.sampling)
        self.turn += 1
        if self.has_template:
            self.said = [*asked[forgotten:], Message(role="assistant", content=completion.text)]
        return completion, forgotten

    def _fit(self, asked: list[Message], text: str) -> tuple[Prompt, tuple[int, ...], int]:
        """The prompt and its tokens, with the oldest turns left out until an answer fits behind it, and how many were."""
        context = self.policy.context_length
        room = min(self.config.sampling.max_tokens, context // 2) if context else 0
        forgotten = 0
        while True:
            content = (*self.system, *asked[forgotten:]) if self.has_template else text
            prompt = Prompt(id="chat", content=content)
            ids = render_prompt(self.policy.tokenizer, prompt)
            if not context or len(ids) + room <= context:
                return prompt, ids, forgotten
            forgotten += 2  # a question and its answer
            if forgotten >= len(asked):
                raise TooLong(
                    f"That is too long: {counted(len(ids), 'token')}, but besides an answer this model has room for "
                    f"{context - room}."
                )


def talk(config: ChatConfig) -> None:
    """Load the model, and answer line after line from the terminal or from stdin."""
    notes, answers = Console(stderr=True, highlight=False), Console(highlight=False)
    with notes.status(f"Loading {config.model.name}"):
        policy = load_model(config.model)
    if policy.fallback_note:
        _note(notes, policy.fallback_note)
    conversation = Conversation(policy, LocalEngine(policy, max_batch=1), config)
    if not conversation.has_template:
        _note(
            notes, "This model has no chat template: it goes on with your text, and each line stands alone."
        )
    elif sys.stdin.isatty():
        _note(notes, "/reset forgets the conversation; /exit or Ctrl-D ends it.")
    for text in _lines(answers):
        if text == "/exit":
            break
        if text == "/reset":
            conversation.reset()
            _note(notes, "Forgotten.")
        elif text.startswith("/"):
            _note(notes, f"There is no {text.split()[0]}. There are /reset and /exit.")
        elif text:
            _answer(conversation, text, notes, answers)


def _answer(conversation: Conversation, text: str, notes: Console, answers: Console) -> None:
    try:
        with notes.status("…"):
            completion, forgotten = conversation.answer(text)
    except TooLong as error:
        _note(notes, str(error))
        return
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        _note(notes, "Interrupted. What you said last is forgotten.")
        return
    if forgotten:
        _note(
            notes, f"The conversation is too long for the model: it forgot the oldest {forgotten} messages."
        )
    answers.print(Text(completion.text, style="cyan"), soft_wrap=not answers.is_terminal)
    if completion.stop is StopReason.LENGTH:
        _note(notes, _why_cut_off(completion, conversation))


def _why_cut_off(completion: Completion, conversation: Conversation) -> str:
    after = f"Cut off after {counted(len(completion), 'token')}"
    if (
        len(completion) < conversation.config.sampling.max_tokens
    ):  # where the context ends, or LongRoPE's short factors do
        so_much = "what was said; /reset forgets it" if conversation.said else "so long a text"
        return f"{after}, for this model has no more room behind {so_much}."
    return f"{after}. For longer answers: --sampling.max_tokens."


def _lines(console: Console) -> Iterator[str]:
    """What the user says, line by line, until the end of input."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.strip()
        return
    import readline  # noqa: F401  (input() then has a history and edits its line)

    while True:
        try:
            yield console.input("[bold]› [/bold]").strip()
        except EOFError:
            console.print()
            return


def _note(console: Console, text: str) -> None:
    console.print(text, style="dim", markup=False, soft_wrap=not console.is_terminal)
