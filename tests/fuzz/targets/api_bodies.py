"""Bodies of the API: bytes as they are or words chosen by them, in pieces, then as a request."""

from tpid.api.asked import generation_request
from tpid.api.bodies import ImportBody, JsonBody, KeyBody, LoadBody, PlanBody, PullBody, VerifyBody
from tpid.api.chat_body import ChatBody
from tpid.api.completion_body import CompletionBody
from tpid.api.completions import continuations
from tpid.api.json_bounds import JsonBounds
from tpid.api.ollama import bodies as ollama
from tpid.api.ollama.options import Options
from tpid.api.request_body import validated
from tpid.api.responses.body import ResponsesBody
from tpid.errors import RequestError

_KINDS: tuple[type[JsonBody], ...] = (
    *(ChatBody, ImportBody, PullBody, LoadBody, VerifyBody, PlanBody),
    *(CompletionBody, KeyBody),
    *(ResponsesBody, ollama.ChatBody, ollama.GenerateBody, ollama.ShowBody),
)
_FIELDS = sorted(
    {field.alias or name for kind in (*_KINDS, Options) for name, field in kind.model_fields.items()}
    | {"role", "content", "include_usage", "type", "text", "tool_calls", "function", "arguments", "name", "call_id"}
    | {"format", "json_schema", "schema", "output", "effort"}
)
_WORDS = [
    *(b'"%s":' % name.encode() for name in _FIELDS),
    *(b"{", b"}", b"[", b"]", b",", b'"', b"\\", b"\\u", b"\\ud83d", b"null", b"true", b"-", b"0", b"9", b".", b"e"),
    *(b'"user"', b'"system"', b'"assistant"', b'"w4"', b'"2G"', b'""', b"NaN", b"Infinity", b" ", b"\xff", b"1e999"),
    *(b'"json"', b'"json_object"', b'"json_schema"', b'"function"', b'"function_call"', b'"function_call_output"'),
    b'{"role":"user","content":"x"},',
    b"9" * 40,
    b"[" * 40,
    b"1," * 500,
]
_MESSAGE = b'{"model":"m","messages":[{"role":"user","content":"x"}],'
_INPUT = b'{"model":"m","input":"x",'
_PROMPT = b'{"model":"m","prompt":"x",'
_BEGINNINGS: dict[type[JsonBody], bytes] = {
    ResponsesBody: _INPUT,
    ollama.GenerateBody: _PROMPT,
    CompletionBody: _PROMPT,
}


def fuzz(data: bytes) -> None:
    if len(data) < 2:
        return
    kind, body = _KINDS[data[0] % len(_KINDS)], data[2:]
    if data[0] & 0x80:
        body = b"".join(_WORDS[byte % len(_WORDS)] for byte in body)
    if data[0] & 0x40:
        body = _BEGINNINGS.get(kind, _MESSAGE) + body + b"}"
    bounds, whole = JsonBounds(), JsonBounds()
    size = data[1] % 64 + 1
    pieces = [bounds.push(body[at : at + size]) for at in range(0, len(body), size)]
    whole.push(body)
    assert bounds.n_marks == whole.n_marks
    if not all(pieces):
        return
    try:
        request = validated(kind, body)
        if isinstance(request, ChatBody | ResponsesBody | ollama.AnswerBody):
            generation_request(request)
        if isinstance(request, CompletionBody):
            continuations(request)
    except RequestError as error:
        assert len(error.message) < 1000
        assert error.message.isprintable()
