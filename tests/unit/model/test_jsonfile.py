"""What reading JSON costs, and what it refuses before."""

import tracemalloc
from pathlib import Path

import pytest

from tpid.errors import ModelFileError
from tpid.model.jsonfile import count_values, parse_json_object, read_json_object

LARGE = {
    "lists": b'{"a":[' + b"[]," * 30_000 + b"0]}",
    "objects": b'{"a":{' + b",".join(b'"%d":{}' % i for i in range(30_000)) + b"}}",
    "numbers": b'{"a":[' + b"1e1," * 30_000 + b"0]}",
    "strings": b'{"a":["",' + b'"ab",' * 30_000 + b'""]}',
    "one string": b'{"a":"' + "\U0001f600".encode() * 30_000 + b'"}',
    "keys that differ little": b"{" + b",".join(b'"%030d":1' % i for i in range(20_000)) + b"}",
}


@pytest.mark.parametrize("kind", LARGE)
def test_the_memory_is_bounded_by_size_and_values(kind: str) -> None:
    text = LARGE[kind]
    tracemalloc.start()
    try:
        parse_json_object(text, "a file")
        assert tracemalloc.get_traced_memory()[1] <= 9 * len(text) + 300 * count_values(text)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [b'{"a":1}', b'{"a":[1,2,{"b":[]}],"c":"d"}', b'{"a":{"b":{"c":[[[]]]}}}'])
def test_no_value_is_left_uncounted(text: bytes) -> None:
    def values(tree: object) -> int:
        inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
        return 1 + sum(values(item) for item in inner)

    assert values(parse_json_object(text, "a file")) <= count_values(text)


def test_too_many_values_are_refused_before_they_are_read() -> None:
    text = b'{"a":[' + b"0," * 1_000_000 + b"0]}"
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="a file holds some 1000003 values, more than 262144"):
            parse_json_object(text, "a file")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_object_with_too_many_keys_is_refused() -> None:
    assert parse_json_object(b'{"a":{"b":1,"c":2}}', "a file", max_keys=2)
    with pytest.raises(ModelFileError, match="an object has 3 keys, more than 2"):
        parse_json_object(b'{"a":{"b":1,"c":2,"d":3}}', "a file", max_keys=2)


def test_a_key_that_comes_twice_is_named() -> None:
    with pytest.raises(ModelFileError, match="key 'b' appears twice"):
        parse_json_object(b'{"a":{"c":1,"b":1,"b":2}}', "a file")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelFileError, match=r"config\.json has 1\.10 TB, more than the 4\.19 MB"):
        read_json_object(path, 4 << 20)
