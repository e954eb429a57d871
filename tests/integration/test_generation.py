"""Answers of real daemons: the same text from one and from two, KV reuse, limits, cancellation."""

from typing import Any

import pytest

Home = Any  # of conftest.py

PROMPTS = ["What is the capital of France?", "Count from one to ten.", "Écris une phrase sur la mer. 海について一文。"]


@pytest.mark.parametrize("wire_dtype", ["fp32", "bf16"])
def test_two_daemons_give_the_tokens_of_one(model_home: Home, wire_dtype: str) -> None:
    (alone,) = model_home.start("alone")
    expected = [alone.chat(prompt, max_tokens=48) for prompt in PROMPTS]
    assert alone.status()["plan"]["ranks"][0]["share"] == {
        "attn": {"start": 0, "stop": 3},
        "ffn": {"start": 0, "stop": 48},
    }
    alone.stop()

    user, *_ = model_home.start("user", "helper", wire_dtype=wire_dtype)
    answers = [user.chat(prompt, max_tokens=48) for prompt in PROMPTS]
    plan = user.status()["plan"]
    assert [rank["name"] for rank in plan["ranks"]] == ["user", "helper"]
    assert plan["ranks"][1]["share"]["ffn"]["stop"] == 48
    if wire_dtype == "fp32":
        assert [text_of(answer) for answer in answers] == [text_of(answer) for answer in expected]
    assert "Paris" in text_of(answers[0])


def test_three_daemons_and_an_idle_rank(model_home: Home) -> None:
    """Four ranks and three KV groups: one has FFN columns only."""
    user, *_ = model_home.start("user", "a", "b", "c")
    assert "Paris" in text_of(user.chat(PROMPTS[0], max_tokens=16))
    shares = [rank["share"] for rank in user.status()["plan"]["ranks"]]
    assert sum(share["attn"]["stop"] - share["attn"]["start"] for share in shares) == 3
    assert any(share["attn"]["stop"] == share["attn"]["start"] for share in shares)
    assert all(share["ffn"]["stop"] > share["ffn"]["start"] for share in shares)


def test_a_second_turn_prefills_only_what_is_new(model_home: Home) -> None:
    user, _ = model_home.start("user", "helper")
    chat = [{"role": "user", "content": PROMPTS[1]}]
    first = user.chat(chat, max_tokens=24)
    chat += [{"role": "assistant", "content": text_of(first)}, {"role": "user", "content": "And now backwards."}]
    second = user.chat(chat, max_tokens=24)
    seen = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] - 1
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= seen - 2
    # What was reused is what would have been computed.
    assert text_of(user.chat("Say hello.", max_tokens=4))
    again = user.chat(chat, max_tokens=24)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] < seen
    assert text_of(again) == text_of(second)


def test_a_seed_gives_the_same_answer_again_and_another_seed_another(model_home: Home) -> None:
    (user,) = model_home.start("user")
    options = {"temperature": 1.0, "top_k": 50, "top_p": 0.95, "max_tokens": 24}
    first = text_of(user.chat("Tell me a story.", seed=1, **options))
    assert text_of(user.chat("Tell me a story.", seed=1, **options)) == first
    assert text_of(user.chat("Tell me a story.", seed=2, **options)) != first


def test_stop_strings_and_limits_end_an_answer(model_home: Home) -> None:
    (user,) = model_home.start("user")
    whole = user.chat(PROMPTS[0])
    assert whole["choices"][0]["finish_reason"] == "stop"
    cut = user.chat(PROMPTS[0], stop=["France"])
    assert text_of(cut) == text_of(whole).partition("France")[0]
    assert cut["choices"][0]["finish_reason"] == "stop"
    short = user.chat(PROMPTS[0], max_tokens=3)
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 3
    pieces = list(user.stream(PROMPTS[0]).texts())
    assert "".join(pieces) == text_of(whole)
    assert len(pieces) > 3


def test_the_context_is_a_limit(model_home: Home) -> None:
    (user,) = model_home.start("user", context_tokens=64)
    status, answer = user.request("/v1/chat/completions", body("word " * 100))
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert "64" in answer["error"]["message"]
    full = user.chat("Tell me a very long story.")
    assert full["choices"][0]["finish_reason"] == "length"
    assert full["usage"]["total_tokens"] == 64


@pytest.mark.parametrize("names", [("user",), ("user", "helper")])
def test_a_client_that_leaves_ends_its_answer_at_once(model_home: Home, names: tuple[str, ...]) -> None:
    user, *_ = model_home.start(*names)
    expected = text_of(user.chat(PROMPTS[0]))
    stream = user.stream("Tell me a very long story.", max_tokens=3000)
    texts = stream.texts()
    for _ in range(5):
        next(texts)
    status = user.status()
    assert status["busy"]
    stream.close()
    idle = user.wait("idle", lambda status: not status["busy"])
    assert idle["last"] == status["last"], "the answer went on to its end"
    term = user.status()["plan"]["term"]
    assert text_of(user.chat(PROMPTS[0])) == expected
    assert user.status()["plan"]["term"] == term, "the plan was made anew"


def test_requests_wait_for_their_turn_and_too_many_are_refused(model_home: Home) -> None:
    (user,) = model_home.start("user", max_waiting_requests=0)
    stream = user.stream("Tell me a very long story.", max_tokens=3000)
    next(stream.texts())
    status, answer = user.request("/v1/chat/completions", body(PROMPTS[0]))
    assert (status, answer["error"]["code"]) == (429, "busy")
    stream.close()
    user.wait("idle", lambda status: not status["busy"])
    assert text_of(user.chat(PROMPTS[0]))


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"model": "nothing"}, "model_not_found", "nothing"),
        ({"temperature": -1}, "request", "temperature"),
        ({"top_p": 2}, "request", "top_p"),
        ({"messages": []}, "request", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "request", "role"),
        ({"max_tokens": 0}, "request", "max_tokens"),
        ({"unknown": 1}, "request", "unknown"),
        ({"model": "../etc"}, "request", "../etc"),
    ],
)
def test_bad_requests_get_one_clear_error(shared_daemon: Any, change: dict[str, Any], code: str, word: str) -> None:
    status, answer = shared_daemon.request("/v1/chat/completions", body(PROMPTS[0]) | change)
    assert 400 <= status < 500
    assert answer["error"]["code"] == code
    assert word in answer["error"]["message"]


def body(prompt: str) -> dict[str, Any]:
    return {"model": "smollm2-135m", "messages": [{"role": "user", "content": prompt}], "temperature": 0}


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])
