"""config.json of a Hugging Face directory, to the architecture's numbers."""

from tests.fuzz.stretch import stretched
from tpid.errors import ModelError
from tpid.model.huggingface_config import read_spec
from tpid.model.inventory import matrix_shapes, vector_shapes
from tpid.model.jsonfile import parse_json_object
from tpid.model.limits import check_spec


def fuzz(data: bytes) -> None:
    try:
        spec = read_spec(parse_json_object(stretched(data), "config.json"), "config.json")
        check_spec(spec, "config.json")
    except ModelError as error:
        assert len(str(error)) < 10_000
        return
    assert all(size > 0 for shape in (matrix_shapes(spec) | vector_shapes(spec)).values() for size in shape)
    assert 0 < len(spec.pattern) <= spec.n_layers
