import json
from typing import Any

import pytest

from tpid.model.chat_template import ChatTemplate
from tpid.model.tool_format import ToolFormat, described, tool_format_of

TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
CALL = {"id": "123456789", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
USER = {"role": "user", "content": "1 + 1?"}
CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "format"),
    [
        (None, ToolFormat.DESCRIBED),
        (CHATML, ToolFormat.DESCRIBED),
        ("{% if tools %}<tools></tools> within <tool_call></tool_call>{% endif %}", ToolFormat.TAGGED),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", ToolFormat.LISTED),
        ("{% if tools is not none %}{{ '\"parameters\": ' }}{% endif %}", ToolFormat.BARE),
        ("{% if tools %}in a way of its own{% endif %}", ToolFormat.DESCRIBED),
    ],
)
def test_the_template_says_how_its_model_calls(template: str | None, format: ToolFormat) -> None:
    assert tool_format_of(template) is format


def test_tools_are_told_in_the_systems_message() -> None:
    (system, user) = described([USER], [TOOL])
    assert (system["role"], user) == ("system", USER)
    assert json.dumps(TOOL) in system["content"]
    assert '{"name": <function-name>, "arguments": <args-json-object>}' in system["content"]
    (system, user) = described([{"role": "system", "content": "Be brief."}, USER], [TOOL])
    assert system["content"].startswith("Be brief.\n\n# Tools")
    assert user == USER


def test_without_tools_a_chat_stays_as_it_is() -> None:
    chat = [{"role": "system", "content": "Be brief."}, USER]
    assert described(chat, []) == chat


def test_calls_and_results_become_text() -> None:
    history: list[dict[str, Any]] = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "123456789", "content": "2"},
    ]
    _, call, result = described(history, [])
    written = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert call == {"role": "assistant", "content": f"{written}\n{written}"}
    assert result == {"role": "user", "content": "<tool_response>\n2\n</tool_response>"}
    text = ChatTemplate(CHATML, None, None).render(described(history, [TOOL]))
    assert written in text
