"""Rendered prompts, judged by transformers' apply_chat_template; and what a hostile template may not do."""

import contextlib
import re
from datetime import datetime
from typing import Any
from unittest import mock

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import nodes
from tokenizers import models

from tpid.errors import ChatTemplateError
from tpid.model.chat_template import MAX_TEMPLATE_CHARS, ChatTemplate

# In the style of SmolLM2: one line, a default system prompt.
SHORT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# In the style of Llama 3.1: BOS, defaults for variables, a date, tools as JSON, exceptions.
DATED = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not messages|selectattr('role', 'equalto', 'tool')|list %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}
    {%- else %}
        {%- set as_json = message.content is mapping or message.content is iterable %}
        {{- message.content | tojson if as_json else message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""

# In the style of Qwen: reversed loops over a namespace, reasoning, nested conditions, string methods.
REASONING = """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "system" and not loop.first %}
        {{- raise_exception("System message must come first.") }}
    {%- endif %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
        {%- if not reasoning and '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' ~ reasoning.strip('\\n') ~ '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' ~ tool_call.function.name ~ '", "arguments": ' }}
            {%- set arguments = tool_call.function.arguments %}
            {{- arguments if arguments is string else arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' ~ content ~ '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

# In the style of Mistral: roles must alternate; macros, loop controls, the tag for training, odd whitespace.
STRICT = """{% macro text(content) %}{% if content is string %}{{ content }}{% else %}
  {% for part in content %}{% if part.type != 'text' %}{% continue %}{% endif %}{{ part.text }}{% endfor %}
{% endif %}{% endmacro %}
{{ bos_token }}
    {% set user_messages = messages | selectattr("role", "equalto", "user") | list %}
{% for message in messages if message.role != 'system' %}
  {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('Roles must alternate: ' + (loop.index0 | string)) }}
  {% endif %}
  {% if message['role'] == 'user' %}
    {%- if loop.last and messages[0].role == 'system' %}[INST] {{ messages[0].content }}

{{ text(message.content) }} [/INST]
    {%- else %}[INST] {{ text(message.content) }} [/INST]{% endif %}
  {% elif message['role'] == 'assistant' %}
    {% generation %}{{ ' ' + text(message.content) | trim }}{{ eos_token }}{% endgeneration %}
  {% else %}{% break %}{% endif %}
{% else %}nobody spoke
{% endfor %}
{% set n = {'a': 1}.items() | list | length %}{{ user_messages | length }}{{ n * 'x' }}
{{ dict(a=[1, 'é'], b=none) | tojson }}{{ [1, none, {'a': 2.5}, true] }}{{ none }}
{% filter upper %}done{% endfilter %}{# comment #}
{{ "%s-%d" | format('a', 7) }}{{ "{:>5}".format(3) }}{{ ['b', 'a'] | sort | join(', ') }}{{ undefined_name }}
"""

TEMPLATES = {"short": SHORT, "dated": DATED, "reasoning": REASONING, "strict": STRICT}

_TOOL = {
    "type": "function",
    "function": {"name": "wetter", "description": '<Wie> & "was"? é', "parameters": {"x": [1]}},
}
_CALL = {"type": "function", "function": {"name": "wetter", "arguments": {"ort": "Köln", "n": 1.5, "ok": None}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "  hi <b>&'\"\n"}],
    "system": [{"role": "system", "content": " Be terse. "}, {"role": "user", "content": "Grüße 👋"}],
    "several": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\na1 "},
        {"role": "user", "content": "u2"},
        {"role": "assistant", "content": "a2", "reasoning": "why"},
    ],
    "tools": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "content": '{"t": 3}'},
        {"role": "tool", "content": "more"},
    ],
    "two calls": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "c", "tool_calls": [_CALL, _CALL]},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}
    ],
    "late system": [{"role": "user", "content": "u"}, {"role": "system", "content": "s"}],
    "same role": [{"role": "user", "content": "u"}, {"role": "user", "content": "v"}],
}


@pytest.fixture(scope="module")
def judge() -> Any:
    backend = tokenizers.Tokenizer(models.BPE({"<s>": 0, "</s>": 1}, []))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


OPTIONS: list[dict[str, Any]] = [
    {"add_generation_prompt": add, "tools": tools, **variables}
    for add in (True, False)
    for tools in (None, [_TOOL, _TOOL])
    for variables in ({}, {"enable_thinking": False, "date_string": "1 Jan 2026"})
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_prompt_is_that_of_transformers(judge: Any, template: str, conversation: str, options: dict[str, Any]) -> None:
    messages = CONVERSATIONS[conversation]
    ours = ChatTemplate(TEMPLATES[template], "<s>", "</s>")
    try:
        theirs = judge.apply_chat_template(messages, chat_template=TEMPLATES[template], tokenize=False, **options)
    except Exception as error:  # what a template raises there is not of one type
        refusal = re.escape(str(error))
    else:
        assert ours.render(messages, **options) == theirs
        return
    with pytest.raises(ChatTemplateError, match=refusal):
        ours.render(messages, **options)


def test_most_pairs_above_render() -> None:
    """Else transformers would be asked about refusals only."""
    n_rendered = 0
    for source in TEMPLATES.values():
        for messages in CONVERSATIONS.values():
            with contextlib.suppress(ChatTemplateError):
                n_rendered += bool(ChatTemplate(source, "<s>", "</s>").render(messages))
    assert n_rendered >= 20


def test_the_clock_is_the_one_given() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", None, None, now=lambda: datetime(2024, 7, 26))
    assert template.render([]) == "26 Jul 2024"


def test_a_missing_bos_is_undefined() -> None:
    assert ChatTemplate("{{ bos_token }}{{ bos_token is defined }}", None, "</s>").render([]) == "False"


def test_what_is_not_json_or_nests_too_deeply_is_refused() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    for content in (object(), nested):
        with pytest.raises(ChatTemplateError):
            ChatTemplate("{{ messages }}", None, None).render([{"role": "user", "content": content}])


def test_variables_win_over_special_tokens() -> None:
    assert ChatTemplate("{{ bos_token }}", "<s>", None).render([], bos_token="<x>") == "<x>"


def test_messages_are_not_changed() -> None:
    messages = [{"role": "user", "content": None, "thinking": "t"}]
    ChatTemplate("{% set messages = [] %}{{ messages }}", None, None).render(messages)
    assert messages == [{"role": "user", "content": None, "thinking": "t"}]


LOOP = "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = EXPRESSION %}{% endfor %}{{ ns.x }}"


@pytest.mark.parametrize(
    "expression",
    [
        "ns.x ~ ns.x",
        "ns.x + ns.x",
        "ns.x * 9",
        "ns.x.replace('a', ns.x)",
        "ns.x | replace('a', ns.x)",
        "ns.x.join([ns.x, ns.x, ns.x])",
        "[ns.x, ns.x] | join(ns.x)",
        "'%s%s' % (ns.x, ns.x)",
        "'{}{}'.format(ns.x, ns.x)",
        "'{0}{0}{0}'.format(ns.x)",
        "'%s%s' | format(ns.x, ns.x)",
        "ns.x.center(ns.x | length * 2)",
        "double(ns.x)",
        "[ns.x, ns.x] | string",
        "(ns.x | list + ns.x | list) | join",
        "ns.x | indent(ns.x, true) ~ ns.x",
    ],
)
def test_text_cannot_grow_without_bound(expression: str) -> None:
    source = "{% macro double(x) %}{{ x }}{{ x }}{% endmacro %}" + LOOP.replace("EXPRESSION", expression)
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source, None, None).render([])


@pytest.mark.parametrize(
    "source",
    [
        "{{ 2 ** 100000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%(a)1000000000d' % {'a': 1} }}",
        "{{ '{:>+#0000001.1000000000f}'.format(1) }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ '{x:{w}}'.format_map({'x': 1, 'w': 1000000000}) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
        "{{ messages | tojson(indent=1000000000) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ range(1000000000) | list }}",
        "{{ lipsum(n=1000) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x={}) %}{% for i in range(60) %}{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}"
        "{{ ns.x | tojson }}",
        "{{ [1, 2, 3] | tojson(indent='x' * 100000) }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_giants_and_endless_loops_are_refused(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source, None, None).render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__ }}{{ messages|attr('__class__') }}{{ ().__class__.__base__.__subclasses__() }}",
        "{{ strftime_now.__globals__.keys() }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{% include 'x' %}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_errors_and_ways_out_are_refused(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source, None, None).render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    [
        "{% for",
        "{{ x | nonsense }}",
        "{{ x | tpid turns }}",
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{% if 1 %}" * 300 + "{% endif %}" * 300,
        "{% for i in [1] %}" * 40 + "{% endfor %}" * 40,
        " " * (MAX_TEMPLATE_CHARS + 1),
    ],
)
def test_templates_that_do_not_compile_are_refused(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source, None, None)


def test_large_conversations_and_numbers_pass() -> None:
    messages = [{"role": "user", "content": f"{n} " + "x" * 200} for n in range(2000)]
    assert len(ChatTemplate(SHORT, None, None).render(messages)) > 2000 * 200
    assert ChatTemplate("{{ '{}'.format(n) }} {{ n | int }}", None, None).render([], n=17**9) == f"{17**9} {17**9}"
    bold = "{{ '**%s** 100000' % 'a' }}{{ '{{**{}** 1000000: 50% *{}'.format('b', 'c') }}{{ '%s*' | format('d') }}"
    assert ChatTemplate(bold, None, None).render([]) == "**a** 100000{**b** 1000000: 50% *cd*"


_FRAGMENTS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "for",
    "in",
    "if",
    "endfor",
    "endif",
    "set",
    "macro",
    "messages",
    "loop",
    "(",
    ")",
]
_MORE = [
    "'a'",
    "*",
    "~",
    "|",
    "join",
    "tojson",
    "range",
    "9",
    "[",
    "]",
    ".",
    "x",
    "=",
    "-",
    " ",
    "\n",
    "generation",
    "ns",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(_FRAGMENTS + _MORE), st.text(max_size=2)), max_size=15).map(" ".join))
def test_any_source_gives_a_text_or_a_typed_error(source: str) -> None:
    try:
        rendered = ChatTemplate(source, "<s>", None).render([{"role": "user", "content": "x"}])
    except ChatTemplateError:
        return
    assert isinstance(rendered, str)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("{{ " + "+" * 100 + "x }}", nodes.UnaryExpr),
        ("{{ " + "not " * 100 + "x }}", nodes.UnaryExpr),
        ("{{ " + " and ".join(["x"] * 100) + " }}", nodes.And),
        ("{{ x" + "|trim" * 100 + " }}", nodes.Filter),
    ],
    ids=["plus", "not", "and", "filter"],
)
def test_nested_operators_are_looked_at_once_or_twice(source: str, kind: type[nodes.Expr]) -> None:
    """Not as often as they are deep, which makes a template of some hundred characters take seconds to compile."""
    looked_at = 0
    as_const = kind.as_const

    def counted(self: nodes.Expr, context: nodes.EvalContext | None = None) -> Any:
        nonlocal looked_at
        looked_at += 1
        return as_const(self, context)

    with mock.patch.object(kind, "as_const", counted):
        ChatTemplate(source, None, None)
    assert looked_at <= 300
