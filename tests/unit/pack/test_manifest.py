import json
import os
import re
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tpid.errors import PackError
from tpid.model.spec import LayerSpec, Rope
from tpid.pack.geometry import Block, Half, UnitRange
from tpid.pack.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, MAX_VALUES, dump_manifest, load_manifest
from tpid.pack.reader import Pack
from tpid.pack.writer import import_pack

Sources = Callable[..., Any]
Check = Callable[[bytes], str]


@pytest.fixture(scope="module")
def pack(source_of: Sources, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return import_pack(source_of(tied_head=False), tmp_path_factory.mktemp("models") / "pack")


@pytest.fixture(scope="module")
def refusal(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """`refusal(data)`: what opening a directory with this model.json says; empty where it opens."""
    directory = tmp_path_factory.mktemp("manifests")

    def check(data: bytes) -> str:
        (directory / MANIFEST_NAME).write_bytes(data)
        opened = _opened(directory)
        if isinstance(opened, PackError):
            assert opened.message.startswith(str(directory / MANIFEST_NAME))
            assert opened.hint is not None
            return opened.message
        for block in opened.manifest.blocks():  # a manifest that is accepted can be worked with
            assert opened.geometry(block).size_bytes > 0
        assert opened.manifest.head_geometry.size_bytes > 0
        return ""

    return check


def _opened(directory: Path) -> Pack | PackError:
    try:
        return Pack(directory)
    except PackError as error:
        return error


def test_it_is_read_as_it_was_written(pack: Pack) -> None:
    data = (pack.directory / MANIFEST_NAME).read_bytes()
    manifest, id = load_manifest(pack.directory)
    assert manifest == pack.manifest
    assert dump_manifest(manifest) == data
    assert id == pack.id
    assert re.fullmatch("[0-9a-f]{64}", id)


def changed(pack: Pack, path: str, value: Any) -> bytes:
    """model.json with one value replaced; `path` as in "spec.hidden_size"."""
    tree = json.loads((pack.directory / MANIFEST_NAME).read_bytes())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = tree
    for key in parents:
        place = place[key]
    place[last] = value
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("pack_version", 2),
        ("pack_version", None),
        ("extra", 1),
        ("spec", None),
        ("spec.architecture", "gpt2"),
        ("spec.hidden_size", 0),
        ("spec.hidden_size", -64),
        ("spec.hidden_size", 64.5),
        ("spec.hidden_size", 10**30),
        ("spec.n_layers", 1),
        ("spec.n_layers", 3),
        ("spec.n_layers", 10**9),
        ("spec.n_kv_heads", 0),
        ("spec.n_kv_heads", 3),
        ("spec.n_heads", 3),
        ("spec.n_heads", -2),
        ("spec.head_dim", 15),
        ("spec.head_dim", 1 << 40),
        ("spec.ffn_size", 1 << 62),
        ("spec.ffn_size", 200),
        ("spec.vocab_size", 1 << 62),
        ("spec.vocab_size", 5000),
        ("spec.context_tokens", 0),
        ("spec.norm_eps", 0),
        ("spec.norm_eps", -1.0),
        ("spec.norm_eps", float("nan")),
        ("spec.norm_eps", float("inf")),
        ("spec.pattern.0.rope.theta", float("nan")),
        ("spec.pattern.0.rope.theta", 0.0),
        ("spec.pattern.0.rope.factors", [1.0]),
        ("spec.pattern.0.rope.factors", [float("nan")] * 8),
        ("spec.pattern.0.rope.factors", [0.0] * 8),
        ("spec.pattern", []),
        ("spec.pattern", [{"rope": None}] * 3),
        ("spec.pattern", [{"rope": None}] * 5000),
        ("spec.pattern.0.rope", 1e4),
        ("spec.pattern.0.rope.rotary_dims", 3),
        ("spec.pattern.0.rope.rotary_dims", 32),
        ("spec.pattern.0.rope.long_factors", [1.0]),
        ("spec.pattern.0.window_tokens", 0),
        ("spec.pattern.0.attention_softcap", 0),
        ("spec.pattern.0.attention_scale", float("nan")),
        ("spec.pattern.0.norms", "post"),
        ("spec.pattern.0.residual_scale", None),
        ("spec.embedding_scale", 0),
        ("spec.logit_softcap", -1),
        ("spec.tied_head", "maybe"),
        ("layers", []),
        ("layers", {}),
        ("layers", [None, None]),
        ("layers.0.attn.formats", {}),
        ("layers.0.attn.formats", {"q": "w4", "k": "w4", "v": "w4"}),
        ("layers.1.ffn.formats", {"q": "w4", "k": "w4", "v": "w4", "o": "w4"}),
        ("layers.1.ffn.formats.gate", "w5"),
        ("layers.1.ffn.formats.extra", "w4"),
        ("layers.0.attn.digests", []),
        ("layers.0.attn.digests", ["0" * 64] * 3),
        ("layers.0.attn.digests", ["0" * 63] * 2),
        ("layers.0.attn.digests", ["G" * 64] * 2),
        ("layers.0.attn.digests", [0] * 100_000),
        ("layers.0.attn.digests", ["0" * 64] * 50_000),
        ("layers.0.vectors", ""),
        ("embed.digests", []),
        ("embed.format", 4),
        ("head.digests", ["0" * 64]),
        ("final_norm", "0" * 64 + "\n"),
        ("tokens.eos_ids", None),
        ("tokens.eos_ids", [2**70, "a"]),
        ("tokenizer", None),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(pack: Pack, refusal: Check, path: str, value: Any) -> None:
    assert refusal(changed(pack, path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.n_layers", 3, "lists 2 layers, its spec says 3"),
        ("spec.ffn_size", 1 << 62, "spec.ffn_size is 4611686018427387904, not 1 to 1.04858e+06"),
        ("spec.n_kv_heads", 3, "4 heads cannot be divided among 3 KV heads"),
        ("embed.digests", ["0" * 64], "has 1 digests for the 2 units of embed"),
        (
            "layers.1.attn.digests",
            ["0" * 64],
            "has 1 digests for the 2 units of layer 1 attn: it is damaged, or of a version that cut units otherwise",
        ),
        ("layers.0.ffn.formats", {"gate": "w4"}, "does not give layer 0 ffn a format for each of gate, up, down"),
        ("layers.0.vectors", "x", "layers.0.vectors: String should match pattern"),
        ("pack_version", 2, "pack_version: Input should be 1"),
    ],
)
def test_the_fault_is_named(pack: Pack, refusal: Check, path: str, value: Any, message: str) -> None:
    assert message in refusal(changed(pack, path, value))


def test_switches_of_the_whole_model_are_read_as_a_pattern(pack: Pack, tmp_path: Path) -> None:
    """What packs said before each layer had a description of its own."""
    tree = json.loads((pack.directory / MANIFEST_NAME).read_bytes())
    del tree["spec"]["pattern"]
    old = {"rope": {"theta": 1e5, "factors": None}, "qkv_bias": True, "o_bias": False, "qk_norm": True}
    tree["spec"] |= old | {"ffn_bias": False, "sliding_window_tokens": 7, "first_sliding_layer": 1}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(tree))
    layer = LayerSpec(Rope(1e5), qkv_bias=True, qk_norm=True)
    assert load_manifest(tmp_path)[0].spec.pattern == (layer, replace(layer, window_tokens=7))
    tree["spec"]["first_sliding_layer"] = 0
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(tree))
    assert load_manifest(tmp_path)[0].spec.pattern == (replace(layer, window_tokens=7),)


def test_old_windows_that_make_no_sense_are_refused(pack: Pack, refusal: Check) -> None:
    tree = json.loads((pack.directory / MANIFEST_NAME).read_bytes())
    del tree["spec"]["pattern"]
    for first in (-1, 3, 10**9, "1", None, []):
        tree["spec"] |= {"rope": {"theta": 1e5}, "sliding_window_tokens": 7, "first_sliding_layer": first}
        assert bool(refusal(json.dumps(tree).encode())) == bool(first)


def test_what_is_not_json_is_refused(refusal: Check) -> None:
    for data in (
        b"",
        b"\0",
        b"{",
        b"null",
        b"[]",
        b'"a"',
        b"\xff\xfe",
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"9" * 9999,
    ):
        assert refusal(data)


HUGE_LIST = "[" + ",".join(['""'] * 250_000) + "]"
HUGE_OBJECT = "{" + ",".join(f'"{i}":1' for i in range(250_000)) + "}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tokens.eos_ids", HUGE_LIST),
        ("spec.pattern.0.rope.factors", HUGE_LIST),
        ("spec.extra", HUGE_LIST),
        ("layers", HUGE_LIST),
        ("embed.digests", HUGE_LIST),
        ("layers.0.attn.formats", HUGE_OBJECT),
        ("layers.0", HUGE_OBJECT),
        ("spec", HUGE_OBJECT),
    ],
)
def test_a_fault_a_quarter_of_a_million_times_takes_little_memory(
    pack: Pack, refusal: Check, path: str, value: str
) -> None:
    data = changed(pack, path, "@").replace(b'"@"', value.encode())
    tracemalloc.start()
    try:
        assert refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(data) + (8 << 20)
    finally:
        tracemalloc.stop()


def test_more_values_than_a_pack_can_have_are_not_read(pack: Pack, refusal: Check) -> None:
    data = changed(pack, "spec.extra", "@").replace(b'"@"', b"[" + b"1," * MAX_VALUES + b"1]")
    assert "values, more than" in refusal(data)


def test_a_file_that_is_far_too_large_is_not_read(refusal: Check) -> None:
    assert "more than the 16.8 MB" in refusal(b" " * (MAX_MANIFEST_BYTES + 1))


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"model\.json cannot be opened: No such file"):
        load_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(PackError, match=r"model\.json is not a regular file"):
        load_manifest(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MANIFEST_NAME)
    with pytest.raises(PackError, match=r"model\.json is not a regular file"):
        load_manifest(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_its_bytes_gives_a_pack_or_one_error(pack: Pack, refusal: Check, data: st.DataObject) -> None:
    original = (pack.directory / MANIFEST_NAME).read_bytes()
    place = data.draw(st.integers(0, len(original)))
    length = data.draw(st.integers(0, 20))
    refusal(original[:place] + data.draw(st.binary(max_size=20)) + original[place + length :])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_of_its_values_gives_a_pack_or_one_error(pack: Pack, refusal: Check, data: st.DataObject) -> None:
    tree = json.loads((pack.directory / MANIFEST_NAME).read_bytes())
    place, path = tree, []
    while isinstance(place, dict | list) and place and (not path or data.draw(st.booleans())):
        keys = list(place) if isinstance(place, dict) else range(len(place))
        path.append(str(data.draw(st.sampled_from(keys))))
        place = place[int(path[-1])] if isinstance(place, list) else place[path[-1]]
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40), st.floats(), st.text(max_size=70)
    )
    values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner))
    refusal(changed(pack, ".".join(path), data.draw(values)))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["hidden_size", "n_heads", "head_dim", "ffn_size", "vocab_size"]), st.integers(1, 700))
def test_sizes_that_the_files_do_not_have_are_found_when_they_are_opened(
    pack: Pack, tmp_path: Path, name: str, value: int
) -> None:
    directory = tmp_path / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(pack.directory, directory)
    (directory / MANIFEST_NAME).write_bytes(changed(pack, f"spec.{name}", value))
    fault = _first_fault(directory)
    if fault is None:  # nothing has noticed, so nothing has changed its place
        opened = Pack(directory)
        strides = [pack.geometry(Block(0, half)).stride_bytes for half in Half]
        assert [opened.geometry(Block(0, half)).stride_bytes for half in Half] == strides
    else:
        assert str(directory) in fault.message


def _first_fault(directory: Path) -> PackError | None:
    try:
        pack = Pack(directory)
        for block in pack.manifest.blocks():
            pack.block_range(block, UnitRange(0, pack.geometry(block).n_units))
        pack.embed_range()
        pack.head_range()
        pack.final_norm()
    except PackError as error:
        return error
    return None


def test_who_opens_a_pack_again_shares_what_was_made_of_its_manifest(pack: Pack, tmp_path: Path) -> None:
    first, first_id = load_manifest(pack.directory)
    second, second_id = load_manifest(pack.directory)
    assert first is second
    assert first_id == second_id
    (tmp_path / MANIFEST_NAME).write_bytes(dump_manifest(first.model_copy(update={"chat_template": "0" * 64})))
    assert load_manifest(tmp_path)[0].chat_template == "0" * 64
