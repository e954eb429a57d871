from tpictl.commands.conversation import Conversation
from tpictl.commands.sampling import Sampling


def test_the_whole_history_is_sent() -> None:
    conversation = Conversation("m", Sampling(temperature=0.5), system="Be brief.")
    conversation.add("Hi", "Hello.")
    assert conversation.request("Why?") == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Why?"},
        ],
        "temperature": 0.5,
    }


def test_a_prompt_without_an_answer_leaves_no_trace() -> None:
    conversation = Conversation("m", Sampling())
    conversation.add("Hi", "")
    assert conversation.turns == []


def test_forgetting_keeps_the_system_message() -> None:
    conversation = Conversation("m", Sampling(), system="Be brief.")
    conversation.add("Hi", "Hello.")
    conversation.forget()
    assert conversation.request("Why?")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
