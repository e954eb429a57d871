"""A real text process: what a hostile model cannot do, and what the next request finds."""

import asyncio
import itertools
import json
import os
import select
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from tpid.engine.constraint import Grammar
from tpid.engine.prompt import ChatPrompt
from tpid.engine.text_owner import ModelText, TextLimits, TextSource
from tpid.errors import ChatTemplateError, RequestError, TokenizerError, TpidError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONTENT = "{{ messages[0].content }}"
ENDLESS = (
    "{% if messages[0].content == 'slow' %}{% set x = 'a' * 33554432 %}"
    "{% for i in range(99999) %}{% if x[1:] == 'b' %}{% endif %}{% endfor %}{% endif %}" + CONTENT
)
GREEDY = (
    "{% if messages[0].content == 'slow' %}{% set x = 'a' * 33554432 %}{% set l = ["
    + ",".join(f"x[{start}:]" for start in range(1, 400))
    + "] %}{{ l|length }}{% endif %}"
    + CONTENT
)


def tokenizer_json(**changes: Any) -> bytes:
    raw = RawTokenizer(models.BPE(vocab={letter: id for id, letter in enumerate(LETTERS)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return json.dumps(json.loads(raw.to_str()) | changes).encode()


def source(template: str | None = CONTENT, **changes: Any) -> TextSource:
    return TextSource(tokenizer_json(**changes), template, None, None, frozenset({0}))


async def say(text: ModelText, content: str) -> list[int]:
    return await text.encode(ChatPrompt([{"role": "user", "content": content}]))


def with_text(
    source: TextSource, use: Callable[[ModelText], Awaitable[None]], limits: TextLimits | None = None
) -> None:
    async def run() -> None:
        text = await ModelText.open(source, limits)
        try:
            await use(text)
        finally:
            await text.close()

    asyncio.run(run())


def pid(text: ModelText) -> int:
    assert text._process is not None
    return text._process.pid


def test_a_chat_becomes_ids_and_the_table_gives_their_texts() -> None:
    async def use(text: ModelText) -> None:
        assert await say(text, "abc") == [0, 1, 2]
        assert [text.tokenizer.id_to_token(id) for id in (0, 25, 26)] == ["a", "z", None]
        assert text.tokenizer.decoder_settings() is not None

    with_text(source(), use)


def test_a_refusal_leaves_the_process_running() -> None:
    async def use(text: ModelText) -> None:
        first = pid(text)
        with pytest.raises(ChatTemplateError, match="no chat template"):
            await say(text, "a")
        assert pid(text) == first

    with_text(source(None), use)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (source(ENDLESS), ChatTemplateError, "longer than 1 s"),
        (source(GREEDY), ChatTemplateError, "more than 537 MB"),
        (
            source(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [{"type": "Replace", "pattern": {"String": "s"}, "content": "s" * 10}] * 10,
                }
            ),
            TokenizerError,
            "537 MB",
        ),
    ],
    ids=["time", "memory", "abort"],
)
def test_what_takes_too_much_is_an_error_and_the_next_request_is_answered(
    model: TextSource, error: type[TpidError], words: str
) -> None:
    async def use(text: ModelText) -> None:
        with pytest.raises(error, match=words) as raised:
            await say(text, "slow")
        assert raised.value.hint
        assert await say(text, "abc") == [0, 1, 2]

    with_text(model, use, TextLimits(request_s=1.0 if model.template == ENDLESS else 30.0, memory_bytes=512 << 20))


def test_a_template_that_only_computes_ends_soon_and_a_long_prompt_is_no_such_thing() -> None:
    async def use(text: ModelText) -> None:
        with pytest.raises(ChatTemplateError, match=r"computes for longer than 0\.2 s") as raised:
            await say(text, "slow")
        assert raised.value.hint
        assert await say(text, "abc") == [0, 1, 2]
        assert len(await say(text, "abc" * 100_000)) == 300_000  # its tokens take longer than the template may

    with_text(source(ENDLESS), use, TextLimits(render_s=0.2))


def test_a_template_that_takes_too_long_to_compile_is_refused() -> None:
    async def run() -> None:
        with pytest.raises(ChatTemplateError, match="computes for longer"):
            await ModelText.open(source("{{ a }}" * 100_000), TextLimits(render_s=0.3))

    asyncio.run(run())


def test_the_largest_vocabulary_that_is_published_fits() -> None:
    """Gemma's 262,144 tokens, and merges for nearly each."""
    pairs = [a + b for a in LETTERS for b in LETTERS]
    merges = [*((a, b) for a in LETTERS for b in LETTERS), *itertools.product(pairs, pairs)][: 262_144 - len(LETTERS)]
    tokens = [*LETTERS, *(a + b for a, b in merges)]
    settings = json.loads(tokenizer_json())
    settings["model"] |= {"vocab": {token: id for id, token in enumerate(tokens)}, "merges": merges}
    model = TextSource(json.dumps(settings).encode(), CONTENT, None, None, frozenset())

    async def use(text: ModelText) -> None:
        assert text.tokenizer.id_to_token(262_143) == tokens[-1]
        assert await say(text, "aaab") == [tokens.index("aaab")]

    with_text(model, use)


def test_it_has_no_network() -> None:
    if all(subprocess.run(["unshare", *flags, "true"], check=False).returncode for flags in (["-n"], ["-U", "-n"])):
        pytest.skip("this system lets no process give up its network")

    async def use(text: ModelText) -> None:
        assert os.readlink(f"/proc/{pid(text)}/ns/net") != os.readlink("/proc/self/ns/net")

    with_text(source(), use)


def test_a_cancelled_request_ends_its_process_and_the_next_is_answered() -> None:
    async def use(text: ModelText) -> None:
        assert text._process is not None
        process = text._process
        slow = asyncio.create_task(say(text, "slow"))
        await asyncio.sleep(0)  # it has the turn and waits for the reply
        waiting = asyncio.create_task(say(text, "abc"))
        await asyncio.sleep(0)
        slow.cancel()
        assert await process.wait() == -9
        assert await waiting == [0, 1, 2]

    with_text(source(ENDLESS), use)


def test_a_process_that_was_killed_is_replaced() -> None:
    async def use(text: ModelText) -> None:
        assert text._process is not None
        process = text._process
        process.kill()
        await process.wait()
        assert await say(text, "abc") == [0, 1, 2]

    with_text(source(), use)


def test_a_tokenizer_that_cannot_be_read_is_an_error_of_the_load() -> None:
    async def run() -> None:
        with pytest.raises(TokenizerError):
            await ModelText.open(TextSource(b"{", CONTENT, None, None, frozenset()))

    asyncio.run(run())


def test_it_ends_with_its_daemon_even_while_it_works(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    script = f"""
import asyncio, os, signal
from pathlib import Path
from tpid.engine.prompt import ChatPrompt
from tpid.engine.text_owner import ModelText, TextSource
async def run():
    tokenizer = Path({str(tmp_path / "tokenizer.json")!r}).read_bytes()
    text = await ModelText.open(TextSource(tokenizer, {ENDLESS!r}, None, None, frozenset()))
    slow = asyncio.create_task(text.encode(ChatPrompt([{{"role": "user", "content": "slow"}}])))
    await asyncio.sleep(0.1)
    print(text._process.pid, flush=True)
    await asyncio.to_thread(input)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(run())
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        child = os.pidfd_open(int(daemon.stdout.readline()))
        try:
            daemon.stdin.write("\n")
            daemon.stdin.flush()
            assert daemon.wait(10) == -9
            ended, _, _ = select.select([child], [], [], 10)  # a pidfd is readable once its process has ended
            assert ended
        finally:
            os.close(child)


def test_an_answer_is_held_to_its_grammar() -> None:
    async def use(text: ModelText) -> None:
        constraint = await text.constrain(Grammar(lark='start: "bc" | "cb"'))
        assert np.flatnonzero(await constraint.allowed(40)).tolist() == [1, 2]
        await constraint.accept(1)
        assert np.flatnonzero(await constraint.allowed(40)).tolist() == [2]
        await constraint.accept(2)
        assert np.flatnonzero(await constraint.allowed(40)).tolist() == [0]  # the end of this model's answers
        await constraint.close()
        assert await say(text, "abc") == [0, 1, 2]

    with_text(source(), use)


def test_a_grammar_that_is_not_sound_leaves_the_process_running() -> None:
    async def use(text: ModelText) -> None:
        first = pid(text)
        with pytest.raises(RequestError, match="cannot be used") as caught:
            await text.constrain(Grammar(json_schema='{"type": "nonsense"}'))
        assert caught.value.field == "response_format"
        assert await say(text, "abc") == [0, 1, 2]
        assert pid(text) == first

    with_text(source(), use)
