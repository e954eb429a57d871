import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from tpid.errors import DiskFullError, ModelFileError, PackError, UnsupportedModelError
from tpid.model.huggingface import HuggingFaceSource
from tpid.model.inventory import matrix_shapes
from tpid.model.sampling_defaults import SamplingDefaults
from tpid.model.source import TokenizerFiles
from tpid.model.spec import LayerSpec, Norms, Rope
from tpid.model.weights import CODINGS, F32, ROUNDED_TO, Format, convert
from tpid.pack.manifest import SAMPLING_NAME
from tpid.pack.reader import Pack
from tpid.pack.verify import Progress, verify_pack
from tpid.pack.writer import import_pack

Sources = Callable[..., Any]
ReadMatrix = Callable[[Pack, str], F32]

MIXED = {"q": Format.W4, "k": Format.W8, "v": Format.BF16, "gate": Format.W8, "up": Format.W4, "embed": Format.W8}
MODELS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tied_head": False},
    "mixed formats": {"formats": MIXED, "tied_head": False, "ffn_size": 96},
    "biases and norms": {
        "pattern": (
            LayerSpec(Rope(1e4), qkv_bias=True, o_bias=True, qk_norm=True),
            LayerSpec(None, ffn_bias=True, norms=Norms.SANDWICH),
        )
    },
    "odd sizes": {"hidden_size": 50, "head_dim": 6, "n_heads": 9, "n_kv_heads": 3, "ffn_size": 101, "vocab_size": 2561},
    "o cuts groups": {"formats": {"o": Format.W4}, "head_dim": 48, "n_heads": 2},
    "coded": {
        "formats": dict(zip(("q", "k", "v", "o", "gate", "up", "down", "embed"), list(CODINGS)[:8], strict=True)),
        "hidden_size": 256,
        "head_dim": 96,
        "ffn_size": 512,
    },
    "coded otherwise": {
        "formats": dict(zip(("down", "o", "gate", "q", "up"), list(CODINGS)[-5:], strict=True)),
        "hidden_size": 160,
        "head_dim": 64,
    },
    "one layer, one of each": {"n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "ffn_size": 1, "vocab_size": 1},
}


@pytest.fixture(params=MODELS)
def source(request: pytest.FixtureRequest, source_of: Sources) -> Any:
    return source_of(**MODELS[request.param])


@pytest.mark.parametrize("requested", [None, *ROUNDED_TO])
def test_a_pack_holds_every_matrix_and_vector(
    source: Any, read_matrix: ReadMatrix, tmp_path: Path, requested: Format | None
) -> None:
    pack = import_pack(source, tmp_path / "pack", requested=requested)
    for name in matrix_shapes(source.spec):
        published = source.matrices[name]
        rows, columns = published.shape
        expected = convert(published, _format_of(pack, name)).dequantize()
        np.testing.assert_array_equal(read_matrix(pack, name)[:rows, :columns], expected[:, :columns], err_msg=name)
    np.testing.assert_array_equal(pack.final_norm(), source.vectors["final_norm"])
    for layer in range(source.spec.n_layers):
        found = {f"layers.{layer}.{name}": vector for name, vector in pack.vectors(layer).items()}
        expected_vectors = {name for name in source.vectors if name.startswith(f"layers.{layer}.")}
        assert found.keys() == expected_vectors
        for name, vector in found.items():
            np.testing.assert_array_equal(vector, source.vectors[name])
    verify_pack(pack)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pack"]


def _format_of(pack: Pack, name: str) -> Format:
    if name in ("embed", "head"):
        entry = pack.manifest.embed if name == "embed" else pack.manifest.head
        assert entry is not None
        return entry.format
    _, layer, matrix = name.split(".")
    entry = pack.manifest.layers[int(layer)]
    return (entry.attn.formats | entry.ffn.formats)[matrix]


@pytest.mark.parametrize(("requested", "vocab"), [("w4", "w8"), ("w8", "w8"), ("f16", "f16"), ("bf16", "bf16")])
def test_a_requested_format_is_that_of_all_matrices(
    source_of: Sources, tmp_path: Path, requested: str, vocab: str
) -> None:
    source = source_of(formats=MIXED, tied_head=False, n_heads=8)
    manifest = import_pack(source, tmp_path / "pack", requested=Format(requested)).manifest
    for layer in manifest.layers:
        assert set((layer.attn.formats | layer.ffn.formats).values()) == {requested}
    assert manifest.head is not None
    assert {manifest.embed.format, manifest.head.format} == {vocab}


def test_the_files_are_plain_safetensors_and_units_start_at_pages(source: Any, tmp_path: Path) -> None:
    pack = import_pack(source, tmp_path / "pack")
    names = {f"layers/{layer:03d}.safetensors" for layer in range(source.spec.n_layers)} | {"embed.safetensors"}
    names |= set() if source.spec.tied_head else {"head.safetensors"}
    found = {str(path.relative_to(pack.directory)) for path in pack.directory.rglob("*") if path.is_file()}
    assert found == names | {"model.json", "tokenizer.json", "chat_template.jinja", "sampling.json"}
    for name in names:
        path = pack.directory / name
        starts = _data_offsets(path)
        with safe_open(path, "numpy") as file:
            assert set(file.keys()) == starts.keys()
            for key in starts:
                tensor = file.get_tensor(key)
                if key.endswith(".units"):
                    assert tensor.dtype == np.uint8
                    assert starts[key] % 4096 == 0
                    assert tensor.shape[1] % 4096 == 0
                else:
                    assert tensor.dtype == np.float32
                    in_source = key if key == "final_norm" else f"layers.{int(path.stem)}.{key}"
                    np.testing.assert_array_equal(tensor, source.vectors[in_source])


def _data_offsets(path: Path) -> dict[str, int]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in json.loads(data[8 : 8 + length]).items()}


def test_the_same_import_gives_the_same_bytes_and_the_same_id(source: Any, tmp_path: Path) -> None:
    one, two = (import_pack(source, tmp_path / place / "pack") for place in ("one", "two"))
    assert one.id == two.id
    assert contents(one.directory) == contents(two.directory)


def test_names_of_tokens_are_kept_and_notes_are_told(source_of: Sources, tmp_path: Path) -> None:
    source, told = source_of(), []
    source.files = TokenizerFiles(b"{}", "{{ pad_token }}", None, None, (0,), {"pad_token": "<pad>"}, ("one", "two"))
    pack = import_pack(source, tmp_path / "pack", tell=told.append)
    assert told == ["one", "two"]
    assert pack.manifest.tokens.other_tokens == {"pad_token": "<pad>"}


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_different_weights_tokenizers_and_formats_have_different_ids(source_of: Sources, tmp_path: Path) -> None:
    with_tokenizer = source_of()
    with_tokenizer.files = TokenizerFiles(b"{}", None, None, None, (0,))
    packs = [
        import_pack(source_of(), tmp_path / "a"),
        import_pack(source_of(seed=2), tmp_path / "b"),
        import_pack(source_of(), tmp_path / "c", requested=Format.W8),
        import_pack(with_tokenizer, tmp_path / "d"),
    ]
    assert len({pack.id for pack in packs}) == len(packs)
    assert packs[0].chat_template() == "{{ messages }}"
    assert packs[3].chat_template() is None
    assert not (packs[3].directory / "chat_template.jinja").exists()


def test_a_published_model_comes_through(
    random_model: Callable[..., Path], pack_of: Callable[..., Pack], read_matrix: ReadMatrix
) -> None:
    directory = random_model("qwen2", tie_word_embeddings=False)
    pack = pack_of(directory)
    with HuggingFaceSource(directory) as source:
        for name, (rows, columns) in matrix_shapes(source.spec).items():
            published = source.matrix(name, 0, rows).dequantize()
            np.testing.assert_array_equal(read_matrix(pack, name)[:rows, :columns], published)


def test_progress_grows_to_the_end_of_each_stage(source_of: Sources, tmp_path: Path) -> None:
    reports: list[Progress] = []
    import_pack(source_of(), tmp_path / "pack", progress=reports.append)
    for stage in ("convert", "verify"):
        done = [report.done_bytes for report in reports if report.stage == stage]
        assert done == sorted(done)
        assert done[-1] == next(report.total_bytes for report in reports if report.stage == stage)
    assert [report.stage for report in reports] == sorted(report.stage for report in reports)


def test_a_name_that_is_taken_is_refused_and_untouched(source_of: Sources, tmp_path: Path) -> None:
    pack = import_pack(source_of(), tmp_path / "pack")
    before = contents(pack.directory)
    other = source_of(seed=2)
    with pytest.raises(PackError, match="pack is there already") as caught:
        import_pack(other, tmp_path / "pack")
    assert caught.value.hint is not None
    assert other.reads == []
    assert contents(tmp_path) == {f"pack/{name}": data for name, data in before.items()}


def test_a_pack_is_replaced(source_of: Sources, tmp_path: Path) -> None:
    old = import_pack(source_of(), tmp_path / "pack")
    new = import_pack(source_of(seed=2, n_layers=1), tmp_path / "pack", replace=True)
    assert old.id != new.id == Pack(tmp_path / "pack").id
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
    assert not (new.directory / "layers" / "001.safetensors").exists()
    verify_pack(new)


def test_a_replacement_that_fails_leaves_the_old_pack(source_of: Sources, tmp_path: Path) -> None:
    import_pack(source_of(), tmp_path / "pack")
    before = contents(tmp_path)

    def fail(progress: Progress) -> None:
        raise ModelFileError("The file was unplugged.")

    with pytest.raises(ModelFileError, match="unplugged"):
        import_pack(source_of(seed=2), tmp_path / "pack", replace=True, progress=fail)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("error", [ModelFileError("x"), MemoryError(), ValueError("a bug"), OSError(5, "I/O error")])
@pytest.mark.parametrize("after", [1, 3, 8])
def test_errors_leave_nothing_behind(source_of: Sources, tmp_path: Path, error: Exception, after: int) -> None:
    reports = []

    def fail(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) == after:
            raise error

    expected = PackError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        import_pack(source_of(), tmp_path / "models" / "pack", progress=fail)
    assert len(reports) == after
    assert list((tmp_path / "models").iterdir()) == []


def test_what_was_written_wrongly_is_found_before_it_is_a_pack(
    source_of: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that lies: one byte changes between writing and verifying."""
    fsync = os.fsync

    def spoil(file: int) -> None:
        fsync(file)
        path = Path(f"/proc/self/fd/{file}").readlink()
        if path.name == "001.safetensors":
            with path.open("r+b") as again:
                again.seek(3 * 4096 + 5)
                again.write(b"\x99")

    monkeypatch.setattr(os, "fsync", spoil)
    with pytest.raises(PackError, match=r"001\.safetensors: unit \d of attn\.units .*is not what was imported"):
        import_pack(source_of(), tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_found_before_anything_is_read(
    source_of: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpid.pack.writer.shutil.disk_usage", lambda path: _Usage(free=10))
    source = source_of()
    with pytest.raises(DiskFullError, match=r"needs [\d.]+ MB on the disk of .*, where [\d.]+ \w+ are free") as caught:
        import_pack(source, tmp_path / "models" / "pack")
    assert caught.value.hint is not None
    assert source.reads == []
    assert list((tmp_path / "models").iterdir()) == []


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_model_that_would_be_mostly_padding_is_refused(source_of: Sources, tmp_path: Path) -> None:
    sizes = {"hidden_size": 1, "n_heads": 4096, "n_kv_heads": 4096, "head_dim": 2, "ffn_size": 1, "vocab_size": 1}
    source = source_of(default=Format.F16, n_layers=20, **sizes)
    with pytest.raises(UnsupportedModelError, match=r"has 655\d\d\d weights, but in pieces so small .* take 33\d MB"):
        import_pack(source, tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_the_publishers_sampling_is_kept_and_is_no_part_of_the_id(source_of: Sources, tmp_path: Path) -> None:
    pack = import_pack(source_of(), tmp_path / "pack")
    assert pack.sampling_defaults == SamplingDefaults(temperature=0.6, top_k=20)
    (pack.directory / SAMPLING_NAME).unlink()
    again = Pack(pack.directory)
    assert (again.id, again.sampling_defaults) == (pack.id, SamplingDefaults())
