from tpictl.commands.conversation import Conversation, Prompt
from tpictl.commands.sampling import Sampling


def test_the_whole_history_is_sent() -> None:
    conversation = Conversation("m", Sampling(temperature=0.5), system="Be brief.")
    conversation.add(Prompt("Hi", "Hi"), "Hello.")
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
    conversation.add(Prompt("Hi", "Hi"), "")
    assert conversation.turns == []


def test_forgetting_keeps_the_system_message() -> None:
    conversation = Conversation("m", Sampling(), system="Be brief.")
    conversation.add(Prompt("Hi", "Hi"), "Hello.")
    conversation.forget()
    assert conversation.request("Why?")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
