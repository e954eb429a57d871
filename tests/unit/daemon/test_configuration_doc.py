import re
from pathlib import Path

from tpid.daemon.config import ApiConfig, Config

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_document_lists_every_field_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z_0-9]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(Config.model_fields)
    of_api = re.findall(r"^\| `api\.([a-z_]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert of_api == list(ApiConfig.model_fields)
