"""A request with tools, as its model knows tools: the prompt, the grammar where it must call one, and the parser."""

from dataclasses import replace

from tpid.engine.constraint import Grammar
from tpid.engine.prompt import ChatPrompt, Prompt
from tpid.engine.text_messages import TokenTable
from tpid.model.tool_calls import ToolCallParser, parser_of
from tpid.model.tool_format import MISTRAL_MARK, ToolFormat, ToolUse, described
from tpid.model.tool_grammar import tool_grammar


def prompt_with_tools(prompt: Prompt, use: ToolUse | None, format: ToolFormat) -> Prompt:
    """The history too is told as the model's template can show it."""
    if not isinstance(prompt, ChatPrompt):
        return prompt
    tools = () if use is None else use.tools
    if format is ToolFormat.DESCRIBED:
        return replace(prompt, messages=described(prompt.messages, tools), tools=None)
    return replace(prompt, tools=list(tools) or None)


def grammar_with_tools(
    grammar: Grammar | None, use: ToolUse | None, format: ToolFormat, tokens: TokenTable
) -> Grammar | None:
    """Of calls where the model must call a tool, else of calls or an answer by `grammar`; None: anything may come."""
    if use is None or (grammar is None and not use.required):
        return grammar
    mark_id = tokens.id_of(MISTRAL_MARK) if format is ToolFormat.LISTED else None
    schema = None if use.required or grammar is None else grammar.json_schema
    if not use.required and schema is None:
        return grammar  # of its own notation: it says itself what may come
    return Grammar(lark=tool_grammar(use, format, mark_id, schema), field="tools")


def parser_for_tools(use: ToolUse, format: ToolFormat) -> ToolCallParser:
    return parser_of(format, {function["name"] for function in use.functions})


def shown_tokens(tokens: TokenTable, use: ToolUse | None, format: ToolFormat) -> TokenTable:
    """With Mistral's mark among what is shown: hidden as a special token, no call would be found."""
    if use is None or format is not ToolFormat.LISTED:
        return tokens
    return replace(tokens, special_tokens=tokens.special_tokens - {MISTRAL_MARK})
