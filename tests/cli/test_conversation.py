import io

import pytest
from tiny import save_tiny_model

from ventaja.cli import conversation, main
from ventaja.records import Completion, StopReason
from ventaja.rollouts import ScriptedEngine


@pytest.fixture
def say(monkeypatch):
    """Sets what comes in through the pipe."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.fixture
def scripted(monkeypatch):
    """The engine answers `last question!` and keeps the prompts it saw."""
    prompts = []

    def make(policy, *, max_batch):
        def script(prompt, k):
            prompts.append(prompt)
            return prompt.removesuffix("<assistant>").rsplit(">", 1)[-1] + "!"

        return ScriptedEngine(policy.tokenizer, script)

    monkeypatch.setattr(conversation, "LocalEngine", make)
    return prompts


def test_the_conversation_is_kept(plain_model, template, say, scripted, capsys):
    say("hi\n\nho\n/reset\nhey\n/exit\nnever\n")
    flags = ["--model.chat_template", template, "--system", "be kind", "--sampling.max_tokens", "20"]
    assert main(["chat", str(plain_model), *flags]) == 0
    assert capsys.readouterr() == ("hi!\nho!\nhey!\n", "Forgotten.\n")
    assert scripted == [
        "<system>be kind<user>hi<assistant>",
        "<system>be kind<user>hi<assistant>hi!<user>ho<assistant>",
        "<system>be kind<user>hey<assistant>",
    ]


def test_the_oldest_turns_are_dropped_when_the_context_is_full(plain_model, template, say, scripted, capsys):
    # 200 tokens of context, 20 of them for the answer. A turn of 40 letters is 40 + 6 + 11 tokens, its answer
    # 41 more: the first fits alone (57), and with the second (57 + 41 + 57 = 155), but not with the third.
    say("".join(f"{letter * 40}\n" for letter in "abc"))
    flags = ["--model.chat_template", template, "--sampling.max_tokens", "20"]
    main(["chat", str(plain_model), *flags])
    assert scripted[1].startswith("<user>aaa")
    assert scripted[2].startswith("<user>bbb")
    assert "it forgot the oldest 2 messages" in capsys.readouterr().err


def test_a_message_that_can_never_fit(plain_model, template, say, scripted, capsys):
    say(f"{'a' * 300}\nhi\n")
    main(["chat", str(plain_model), "--model.chat_template", template, "--sampling.max_tokens", "20"])
    printed = capsys.readouterr()
    assert printed.out == "hi!\n"
    assert printed.err == "That is too long: 317 tokens, but besides an answer this model has room for 180.\n"
    assert scripted == ["<user>hi<assistant>"]


def test_without_a_template_each_line_is_completed(plain_model, say, capsys):
    say("once\nonce\n")
    flags = ["--sampling.max_tokens", "5", "--seed", "3", "--model.precision", "float32"]
    assert main(["chat", str(plain_model), *flags]) == 0
    first = capsys.readouterr()
    assert first.err.count("no chat template") == 1
    say("once\nonce\n")
    main(["chat", str(plain_model), *flags])
    assert capsys.readouterr() == first  # the same seed and the same words


def test_a_system_message_needs_a_template(plain_model, say, capsys):
    say("")
    assert main(["chat", str(plain_model), "--system", "be kind"]) == 1
    assert "has no chat template, so it has no place for a system message" in capsys.readouterr().err


def test_unknown_slash(plain_model, template, say, capsys):
    say("/rest now\n")
    main(["chat", str(plain_model), "--model.chat_template", template])
    assert capsys.readouterr().err == "There is no /rest. There are /reset and /exit.\n"


def test_what_a_chat_needs(capsys):
    assert main(["chat"]) == 2
    assert capsys.readouterr().err == "ConfigError: model.name: must be set.\n"
    assert main(["chat", "no-such-model"]) == 1
    assert "ModelError: model 'no-such-model' does not exist" in capsys.readouterr().err
    assert main(["chat", "m", "--model.lora.rank", "2"]) == 2
    assert "model.lora would have no effect" in capsys.readouterr().err


def test_interrupting_an_answer_goes_on(plain_model, template, monkeypatch, capsys):
    lines = iter(["hi", "ho"])

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def sample(self, requests, sampling, **_):
        raise KeyboardInterrupt

    def ask(self, prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(conversation.LocalEngine, "sample", sample)
    monkeypatch.setattr(conversation.Console, "input", ask)
    assert main(["chat", str(plain_model), "--model.chat_template", template]) == 0
    assert capsys.readouterr().err.count("Interrupted.") == 2


def test_an_answer_that_ends_early_says_why(tmp_path, say, capsys):
    # up to 32 tokens this model takes LongRoPE's short factors: behind a prompt of 30 there is room for 2
    model = save_tiny_model(tmp_path / "phi3", "phi3", chat_template=None)
    say("a" * 30 + "\n")
    flags = ["--model.precision", "float32", "--model.device", "cpu", "--seed", "1"]
    assert main(["chat", str(model), *flags]) == 0
    notes = " ".join(capsys.readouterr().err.split())
    assert "other rotary angles from its first token on (LongRoPE)" in notes
    assert "Cut off after 2 tokens, for this model has no more room behind so long a text." in notes
    say("a" * 8 + "\n")
    assert main(["chat", str(model), *flags, "--sampling.max_tokens", "1"]) == 0
    assert "Cut off after 1 token. For longer answers: --sampling.max_tokens." in capsys.readouterr().err


def test_a_long_conversation_leaves_less_room(plain_model, template, say, capsys, monkeypatch):
    # 200 tokens of context, and 60 letters with the template's words are 77: an answer has at most 123
    def endless(self, requests, sampling, **_):
        answer = Completion(
            token_ids=(65,) * 123, logprobs=(0.0,) * 123, text="b", stop=StopReason.LENGTH, weight_version=0
        )
        return [[answer]]

    monkeypatch.setattr(conversation.LocalEngine, "sample", endless)
    say("a" * 60 + "\n")
    assert main(["chat", str(plain_model), "--model.chat_template", template]) == 0
    notes = capsys.readouterr().err
    assert "Cut off after 123 tokens, for this model has no more room behind what was said; /reset" in notes
