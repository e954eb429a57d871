"""The generation loop over a runner whose logits are written down, with a tokenizer of single letters."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from tpid.engine.constraint import Grammar
from tpid.engine.generation import Finished, GenerationRequest, Text, generate
from tpid.engine.prompt import ChatPrompt, IdsPrompt, Prompt, TextPrompt
from tpid.engine.sequence import TokenSequence
from tpid.engine.text import TextModel
from tpid.engine.text_messages import LENGTH, TokenTable, pack_prompt, prompt_of
from tpid.engine.tool_use import grammar_with_tools, prompt_with_tools, shown_tokens
from tpid.errors import ChatTemplateError, ContextOverflowError, RequestError
from tpid.model.chat_template import ChatTemplate
from tpid.model.sampling import SamplingParams
from tpid.model.tokenizer import Tokenizer
from tpid.model.tool_format import ToolFormat, ToolUse

LETTERS = "abcdefghijklmnopqrstuvwxyz "
EOS = len(LETTERS)
GREEDY = SamplingParams(temperature=0.0)


@dataclass
class ScriptedRunner:
    """Answers with the next letter of the script, whatever it is asked."""

    script: str
    context_tokens: int = 100
    letters: str = LETTERS
    n_cached: int = 0  # tokens of the prompt that are computed already
    computed: list[int] = field(default_factory=list)  # how many tokens each time

    async def attach(self, sequence: TokenSequence) -> None:
        sequence.n_computed = self.n_cached

    async def advance(self, sequence: TokenSequence) -> np.ndarray:
        self.computed.append(len(sequence.next_chunk(self.context_tokens)))
        assert self.computed[-1]
        sequence.n_computed = len(sequence.ids)
        assert sequence.n_computed <= self.context_tokens
        logits = np.zeros(len(self.letters) + 1, np.float32)
        at = len(self.computed) - 1
        logits[self.letters.index(self.script[at]) if at < len(self.script) else len(self.letters)] = 1
        return logits


@pytest.fixture
def text_model() -> TextModel:
    raw = RawTokenizer(models.BPE(vocab={letter: id for id, letter in enumerate(LETTERS)} | {"<end>": EOS}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(["<end>"])
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", None, "<end>")
    return TextModel(Tokenizer.from_json(raw.to_str().encode()), template, frozenset({EOS}))


class LocalText:
    """A text model without a process of its own."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self.tokenizer = model.tokenizer
        self.eos_ids = model.eos_ids
        self.tool_format = ToolFormat.TAGGED

    async def encode(self, prompt: Prompt) -> list[int]:
        return self._model.encode(prompt)


def events(runner: ScriptedRunner, text_model: TextModel, prompt: str, **options: Any) -> list[Any]:
    async def collect() -> list[Text | Finished]:
        request = GenerationRequest(ChatPrompt([{"role": "user", "content": prompt}]), GREEDY, **options)
        text: Any = LocalText(text_model)
        return [event async for event in generate(runner, text, request, runner.context_tokens)]

    return asyncio.run(collect())


def run(runner: ScriptedRunner, text_model: TextModel, prompt: str, **options: Any) -> tuple[list[str], Finished]:
    *texts, end = events(runner, text_model, prompt, **options)
    assert isinstance(end, Finished)
    assert all(isinstance(text, Text) for text in texts)
    return [text.text for text in texts], end


def test_an_answer_ends_with_the_models_own_end(text_model: TextModel) -> None:
    texts, end = run(ScriptedRunner("hello"), text_model, "say")
    assert "".join(texts) == "hello"
    assert end.reason == "stop"
    assert end.stats.completion_tokens == 6
    assert end.stats.prompt_tokens == 3


def test_a_measurement_gets_the_length_it_asks_for(text_model: TextModel) -> None:
    texts, end = run(ScriptedRunner("hello"), text_model, "say", max_tokens=9, ignore_eos=True)
    assert "".join(texts) == "hello"
    assert end.reason == "length"
    assert end.stats.completion_tokens == 9


def test_max_tokens_ends_it_and_the_last_token_is_not_computed_further(text_model: TextModel) -> None:
    runner = ScriptedRunner("hello")
    texts, end = run(runner, text_model, "say", max_tokens=3)
    assert "".join(texts) == "hel"
    assert end.reason == "length"
    assert runner.computed == [3, 1, 1]


def test_a_stop_string_is_not_part_of_the_answer(text_model: TextModel) -> None:
    texts, end = run(ScriptedRunner("one two three"), text_model, "count", stop=("two",))
    assert "".join(texts) == "one "
    assert end.reason == "stop"


def test_what_could_have_been_a_stop_string_is_given_out_at_the_end(text_model: TextModel) -> None:
    texts, end = run(ScriptedRunner("one tw"), text_model, "count", stop=("two",))
    assert "".join(texts) == "one tw"
    assert end.reason == "stop"


def test_the_next_turn_prefills_only_what_is_new(text_model: TextModel) -> None:
    runner = ScriptedRunner("", n_cached=3)
    _, end = run(runner, text_model, "abcdef")
    assert end.stats.cached_tokens == 3
    assert runner.computed[0] == 3


def test_the_context_ends_an_answer_and_is_never_exceeded(text_model: TextModel) -> None:
    texts, end = run(ScriptedRunner("a" * 50, context_tokens=10), text_model, "abcdefg")
    assert "".join(texts) == "aaa"
    assert end.reason == "length"


@pytest.mark.parametrize("length", [10, 11, 50])
def test_a_prompt_that_fills_the_context_is_refused_with_the_numbers(text_model: TextModel, length: int) -> None:
    runner = ScriptedRunner("a", context_tokens=10)
    with pytest.raises(ContextOverflowError, match=rf"{length} tokens.*10"):
        run(runner, text_model, "a" * length)
    assert not runner.computed


def test_a_prompt_without_tokens_is_refused(text_model: TextModel) -> None:
    runner = ScriptedRunner("a")
    with pytest.raises(RequestError, match="prompt is empty") as caught:
        run(runner, text_model, "")
    assert caught.value.hint is not None
    assert not runner.computed


def test_a_special_token_can_be_a_stop_string(text_model: TextModel) -> None:
    without_ends = TextModel(text_model.tokenizer, text_model.template, frozenset())
    texts, end = run(ScriptedRunner("hello"), without_ends, "say", stop=("o<end>",))
    assert "".join(texts) == "hell"
    assert (end.reason, end.stats.completion_tokens) == ("stop", 6)


def test_a_model_without_a_template_cannot_chat(text_model: TextModel) -> None:
    bare = TextModel(text_model.tokenizer, None, text_model.eos_ids)
    with pytest.raises(ChatTemplateError):
        run(ScriptedRunner("a"), bare, "abc")


def test_logprobs_are_of_each_token_and_come_with_its_text(text_model: TextModel) -> None:
    texts = events(ScriptedRunner("abc"), text_model, "x", top_logprobs=2)[:-1]
    told = [token for text in texts for token in text.logprobs]
    assert [token.chosen.text for token in told] == ["a", "b", "c"]  # and none for the end
    for token in told:
        assert token.top[0] == token.chosen
        assert len(token.top) == 2
        expected = 1 - np.log(np.e + EOS)  # one logit is 1, all others are 0
        assert token.chosen.logprob == pytest.approx(expected, abs=1e-6)
    assert not any(text.logprobs for text in events(ScriptedRunner("abc"), text_model, "x")[:-1])


def test_the_tokens_of_a_stop_string_are_told_too(text_model: TextModel) -> None:
    texts = events(ScriptedRunner("a two"), text_model, "x", stop=("two",), top_logprobs=0)[:-1]
    assert "".join(text.text for text in texts) == "a "
    assert "".join(token.chosen.text for text in texts for token in text.logprobs) == "a two"


def test_each_choice_has_a_seed_of_its_own() -> None:
    request = GenerationRequest(ChatPrompt([]), SamplingParams(temperature=1.0, seed=(1 << 64) - 1), n=3)
    assert [request.choice(index).sampling.seed for index in range(3)] == [(1 << 64) - 1, 0, 1]
    assert request.choice(2).n == 1
    assert GenerationRequest(ChatPrompt([]), SamplingParams()).choice(1).sampling.seed is None


def test_text_and_tokens_are_prompts_too(text_model: TextModel) -> None:
    for prompt in (TextPrompt("abc"), IdsPrompt([0, 1, 2])):
        assert text_model.encode(prompt) == [0, 1, 2]
        assert prompt_of(json.loads(pack_prompt(prompt)[LENGTH.size :])) == prompt


TOOLS = ToolUse(({"type": "function", "function": {"name": "f"}},))


def test_calls_are_events_and_the_reason_of_the_end(text_model: TextModel) -> None:
    letters = LETTERS + '<_>{}":/'
    vocab = {letter: id for id, letter in enumerate([*letters, "<end>"])}
    raw = RawTokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(["<end>"])
    model = TextModel(Tokenizer.from_json(raw.to_str().encode()), text_model.template, frozenset({len(letters)}))

    def runner() -> ScriptedRunner:
        return ScriptedRunner(call, letters=letters)

    call = 'see <tool_call>{"name":"f"}</tool_call>'
    text, called, end = merged(events(runner(), model, "x", tools=TOOLS))
    assert (text, called.name, called.arguments, end.reason) == ("see", "f", "{}", "tool_calls")
    assert merged(events(runner(), model, "x"))[0] == call
    cut = events(runner(), model, "x", tools=TOOLS, max_tokens=20)
    assert cut[-1].reason == "length"
    told = events(runner(), model, "x", tools=TOOLS, top_logprobs=0)
    assert sum(len(event.logprobs) for event in told if isinstance(event, Text)) == len(call)


def merged(events: list[Any]) -> list[Any]:
    """With the texts in one."""
    text = "".join(event.text for event in events if isinstance(event, Text))
    return [text, *(event for event in events if not isinstance(event, Text))]


def test_a_prompt_tells_of_tools_as_its_template_can() -> None:
    prompt = ChatPrompt([{"role": "user", "content": "x"}])
    tagged = prompt_with_tools(prompt, TOOLS, ToolFormat.TAGGED)
    assert isinstance(tagged, ChatPrompt)
    assert (tagged.messages, tagged.tools) == (prompt.messages, list(TOOLS.tools))
    told = prompt_with_tools(prompt, TOOLS, ToolFormat.DESCRIBED)
    assert isinstance(told, ChatPrompt)
    assert told.tools is None
    assert "# Tools" in str(told.messages[0]["content"])
    for format in ToolFormat:
        assert prompt_with_tools(prompt, None, format) == prompt
        assert prompt_with_tools(TextPrompt("x"), TOOLS, format) == TextPrompt("x")


def test_a_grammar_comes_from_the_form_or_from_the_tools() -> None:
    table = TokenTable(("a", "[TOOL_CALLS]"), frozenset({"[TOOL_CALLS]"}), None)
    schema, own = Grammar(json_schema='{"type": "null"}'), Grammar(lark="start: x")
    must = ToolUse(TOOLS.tools, required=True)
    assert grammar_with_tools(schema, None, ToolFormat.TAGGED, table) == schema
    assert grammar_with_tools(None, TOOLS, ToolFormat.TAGGED, table) is None
    assert grammar_with_tools(own, TOOLS, ToolFormat.TAGGED, table) == own
    either = grammar_with_tools(schema, TOOLS, ToolFormat.TAGGED, table)
    assert either is not None
    assert "answer" in str(either.lark)
    for format in ToolFormat:
        forced = grammar_with_tools(schema, must, format, table)
        assert forced is not None
        assert forced.field == "tools"
        assert "answer" not in str(forced.lark)
        assert ("<[1]>" in str(forced.lark)) == (format is ToolFormat.LISTED)
    assert shown_tokens(table, TOOLS, ToolFormat.LISTED).special_tokens == frozenset()
    assert shown_tokens(table, None, ToolFormat.LISTED) == shown_tokens(table, TOOLS, ToolFormat.BARE) == table
