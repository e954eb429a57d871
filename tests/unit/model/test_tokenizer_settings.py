"""The rows of docs/tokenizers.md on Hugging Face directories, each judged by transformers reading the same files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from tpid.errors import TokenizerError
from tpid.model.chat_template import ChatTemplate
from tpid.model.source import TokenizerFiles
from tpid.model.tokenizer import Tokenizer
from tpid.model.tokenizer_files import MAX_TEMPLATES, tokenizer_files_from_directory
from tpid.model.tokenizer_settings import MAX_ADDED_TOKENS

DOCUMENT = Path(__file__).parents[3] / "docs" / "tokenizers.md"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MARKS = ["<s>", "</s>", "<|im_end|>"]  # special in tokenizer.json: ids 257 to 259
TOOL = "<|tool|>"  # an added token of tokenizer.json that is not special: id 260
TEXT = "a<s>b</s> c <|im_end|>d<|tool|> e<new>f <two> g [PAD]he"
TEMPLATE = (
    "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ image_token }}|{{ tool_token }}"
    "{% if pad_token is defined %}!{% endif %}"
)

Files = dict[str, Any]


def _tokenizer_json() -> str:
    backend = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate([*ALPHABET, "he"])}, [("h", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(MARKS)
    backend.add_tokens([AddedToken(TOOL, special=False, normalized=False)])
    return backend.to_str()


TOKENIZER_JSON = _tokenizer_json()


def _write(directory: Path, files: Files) -> Path:
    for name, content in ({"tokenizer.json": TOKENIZER_JSON} | files).items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return directory


def _compare(directory: Path) -> TokenizerFiles:
    """Ids, shown text and template of our reading with transformers'."""
    files = tokenizer_files_from_directory(directory)
    ours = Tokenizer.from_json(files.tokenizer_json)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    ids = ours.encode(TEXT, add_special=False)
    assert ids == theirs.encode(TEXT, add_special_tokens=False)
    assert ours.encode(TEXT, add_special=True) == theirs.encode(TEXT)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.vocab_size == len(theirs)
    template = ChatTemplate(TEMPLATE, files.bos_token, files.eos_token, other_tokens=files.other_tokens)
    messages = [{"role": "user", "content": "hi"}]
    assert template.render(messages) == theirs.apply_chat_template(messages, chat_template=TEMPLATE, tokenize=False)
    several = theirs.chat_template if isinstance(theirs.chat_template, dict) else {"default": theirs.chat_template}
    assert files.chat_template == several.get("default")
    return files


def _config(**values: Any) -> Files:
    return {"tokenizer_config.json": values}


# Row of the table -> files that show it.
ROWS: dict[str, list[Files]] = {
    "tokenizer.json | added_tokens": [{}],
    "tokenizer_config.json | bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token": [
        _config(bos_token="<s>", eos_token="<|im_end|>", unk_token="</s>", pad_token="</s>"),
        _config(pad_token="[PAD]", sep_token="<two>", eos_token=None),
        _config(eos_token={"__type": "AddedToken", "content": "<new>", "lstrip": True, "normalized": False}),
        _config(eos_token=TOOL),
        _config(eos_token="he"),
    ],
    "tokenizer_config.json | any other name that ends with _token": [
        _config(image_token="<s>", tool_token=TOOL),
        _config(image_token="<new>"),
        _config(image_token={"__type": "AddedToken", "content": "<new>", "rstrip": True}),
    ],
    "tokenizer_config.json | extra_special_tokens": [
        _config(extra_special_tokens=[TOOL]),
        _config(extra_special_tokens=["<new>", "he", "<s>"]),
        _config(extra_special_tokens={"image_token": TOOL, "tool_token": "<new>"}),
    ],
    "tokenizer_config.json | additional_special_tokens": [
        _config(additional_special_tokens=[TOOL, "<new>", "he"]),
        _config(additional_special_tokens=["<new>"], extra_special_tokens=["<two>"]),
    ],
    "tokenizer_config.json | added_tokens_decoder": [
        _config(added_tokens_decoder={"261": {"content": "<new>"}, "262": {"content": "<two>", "special": True}}),
        _config(added_tokens_decoder={"260": {"content": TOOL, "special": True, "lstrip": True}}),
        _config(added_tokens_decoder={"257": {"content": "<s>", "special": False, "rstrip": True}}),
        _config(added_tokens_decoder={"261": {"content": "<new>"}}, eos_token="<new>"),
        _config(added_tokens_decoder={"257": {"content": "<s>", "special": True}}, tool_token=TOOL),
        _config(added_tokens_decoder={"0": {"content": ALPHABET[0], "normalized": True}}),
    ],
    "tokenizer_config.json | add_bos_token, add_eos_token": [
        _config(bos_token="<s>", add_bos_token=True, eos_token="</s>", add_eos_token=True),
    ],
    "special_tokens_map.json | the same names": [
        {"special_tokens_map.json": {"pad_token": "<new>", "image_token": TOOL}},
        {"special_tokens_map.json": {"image_token": "<new>", "tool_token": {"content": "<two>"}}},
        {"special_tokens_map.json": {"eos_token": {"content": "<|im_end|>", "lstrip": True}, "bos_token": "<s>"}},
        {"special_tokens_map.json": {"additional_special_tokens": [TOOL, "<new>"]}},
        {"special_tokens_map.json": {"eos_token": "</s>"}} | _config(eos_token="<|im_end|>", pad_token="<two>"),
        {"special_tokens_map.json": {"eos_token": "</s>", "pad_token": "[PAD]"}}
        | _config(eos_token="<|im_end|>", added_tokens_decoder={}),
        {"special_tokens_map.json": {"extra_special_tokens": ["<new>"]}} | _config(extra_special_tokens=["<two>"]),
        {"special_tokens_map.json": {"additional_special_tokens": ["<new>"]}} | _config(extra_special_tokens=["<two>"]),
    ],
    "added_tokens.json | ids by text": [
        {"added_tokens.json": {"<new>": 261, "<two>": 262}},
        {"added_tokens.json": {"<two>": 262, "<new>": 261}} | _config(eos_token="<two>"),
        {"added_tokens.json": {"<new>": 261}, "special_tokens_map.json": {"pad_token": "<new>"}},
        {"added_tokens.json": {"<new>": 261}, "special_tokens_map.json": {"additional_special_tokens": ["<new>"]}},
        {"added_tokens.json": {"<new>": 261}} | _config(additional_special_tokens=["<new>"]),
        {"added_tokens.json": {"<new>": 261}} | _config(added_tokens_decoder={}),
        {"added_tokens.json": {"<new>": 261}} | _config(image_token="<new>"),
    ],
    "tokenizer_config.json | chat_template": [
        _config(chat_template="{{ messages }}"),
        _config(chat_template=[{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]),
    ],
    "tokenizer_config.json | tokenizer_class, legacy, clean_up_tokenization_spaces, model_max_length, the rest": [
        _config(
            tokenizer_class="LlamaTokenizerFast",
            legacy=False,
            clean_up_tokenization_spaces=True,
            model_max_length=3,
            truncation_side="left",
            padding_side="left",
            add_prefix_space=True,
            errors="replace",
            use_default_system_prompt=True,
        ),
    ],
    "chat_template.jinja": [
        {"chat_template.jinja": "file ä"},
        {"chat_template.jinja": "f"} | _config(chat_template="c"),
    ],
    "additional_chat_templates/*.jinja": [
        {"additional_chat_templates/tool_use.jinja": "t", "chat_template.jinja": "f"},
        {"additional_chat_templates/tool_use.jinja": "t"} | _config(chat_template="c"),
    ],
}
# Rows of other tests, here and in test_tokenizer_files.py.
ELSEWHERE = {
    "tokenizer.json | all but truncation and padding",
    "tokenizer.model | all",
    "tokenizer_config.json | split_special_tokens, "
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "generation_config.json, config.json | eos_token_id",
}


def test_the_table_of_the_documentation_is_what_is_tested() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("## ")[1]
    cells = re.findall(r"^\| (`[^|]+?) \|([^|]*)\|", table, re.MULTILINE)
    rows = {f"{file} | {field.strip()}".replace("`", "").removesuffix(" | ") for file, field in cells}
    assert rows == ROWS.keys() | ELSEWHERE


@pytest.mark.parametrize(("row", "files"), [(row, files) for row, several in ROWS.items() for files in several])
def test_a_row_of_the_table(tmp_path: Path, row: str, files: Files) -> None:
    _compare(_write(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (_config(split_special_tokens=True), "split_special_tokens"),
        (_config(added_tokens_decoder={"0": {"content": "<s>"}}), "'<s>' the id 257, which holds; beside it stands 0."),
        ({"added_tokens.json": {"<s>": 0, "</s>": 1, "<|im_end|>": 259}}, "beside it stands 0, as for 1 more"),
        ({"additional_chat_templates/tool_use.jinja": "t"}, "tool_use"),
        (_config(chat_template=[{"name": "tool_use", "template": "t"}]), "none is called 'default'"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, files: Files, note: str) -> None:
    assert tokenizer_files_from_directory(_write(tmp_path, {})).notes == ()
    notes = tokenizer_files_from_directory(_write(tmp_path, files)).notes
    assert any(note in said for said in notes)


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"<new>": "261"}},
        {"added_tokens.json": {"<new>": -1}},
        {"added_tokens.json": {"<new>": 999}},
        {"added_tokens.json": {"<s>": 0, "<new>": 999}},
        {"added_tokens.json": []},
        {"added_tokens.json": '{"\\ud800": 261}'},
        {"special_tokens_map.json": '{"eos_token": "\\udfff"}'},
        {"tokenizer_config.json": '{"chat_template": "\\ud800"}'},
        {"added_tokens.json": {f"<{n}>": 261 + n for n in range(MAX_ADDED_TOKENS + 1)}},
        {"special_tokens_map.json": {"eos_token": ["</s>"]}},
        _config(extra_special_tokens=5),
        _config(extra_special_tokens=[["<new>"]]),
        _config(extra_special_tokens={"image_token": 5}),
        _config(extra_special_tokens=["<new>"] * (MAX_ADDED_TOKENS + 1)),
        _config(chat_template={"default": 5}),
        _config(chat_template=["default"]),
        _config(chat_template=[]),
        {f"additional_chat_templates/{n}.jinja": "" for n in range(MAX_TEMPLATES + 1)},
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, files: Files) -> None:
    with pytest.raises(TokenizerError):
        tokenizer_files_from_directory(_write(tmp_path, files))


_TEXTS = st.sampled_from(["<s>", "</s>", "<|im_end|>", TOOL, "<new>", "<two>", "[PAD]", "he", "a"])
_DESCRIBED = st.fixed_dictionaries(
    {"__type": st.just("AddedToken"), "content": _TEXTS},
    optional={name: st.booleans() for name in ("lstrip", "rstrip", "normalized", "special")},
)
_TOKEN = st.one_of(_TEXTS, _DESCRIBED)
_ROLES: dict[str, Any] = dict.fromkeys(("eos_token", "pad_token", "sep_token", "image_token", "tool_token"), _TOKEN)
_EXTRA: dict[str, Any] = {
    "extra_special_tokens": st.one_of(
        st.lists(_TEXTS, max_size=3), st.dictionaries(st.sampled_from(["image_token", "tool_token"]), _TEXTS)
    ),
    "additional_special_tokens": st.lists(_TEXTS, max_size=3),
}
_BY_ID = st.lists(st.sampled_from(["<new>", "<two>", "[PAD]"]), unique=True).map(
    lambda texts: {text: 261 + n for n, text in enumerate(texts)}
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries({}, optional=_ROLES | _EXTRA),
    st.none() | st.fixed_dictionaries({}, optional=_ROLES | _EXTRA),
    st.none() | _BY_ID,
    st.none() | _BY_ID.flatmap(lambda ids: st.tuples(*[_DESCRIBED.map(lambda d, t=t: (t, d)) for t in ids])),
)
def test_any_mix_of_settings_is_read_as_transformers_reads_it(
    tmp_path_factory: pytest.TempPathFactory, config: Files, special_map: Any, added: Any, listed: Any
) -> None:
    if listed is not None:
        listed = {str(261 + n): described | {"content": text} for n, (text, described) in enumerate(listed)}
        for described in listed.values():
            del described["__type"]
        config = config | {"added_tokens_decoder": listed}
    files = {"tokenizer_config.json": config, "special_tokens_map.json": special_map, "added_tokens.json": added}
    directory = tmp_path_factory.mktemp("mix")
    _write(directory, {name: content for name, content in files.items() if content is not None})
    try:
        transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    except Exception:  # what it does not read, we may
        tokenizer_files_from_directory(directory)
        return
    _compare(directory)
