import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tpictl.commands.attachments import MAX_FILE_BYTES, with_files
from tpid.errors import RequestError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("typed", ["Hi", "mail bob@x.org", "ask @bob, please", "a @ b", "@"])
def test_no_files(typed: str) -> None:
    assert with_files(typed).sent == typed


def test_text_goes_along_once_and_in_a_fence_of_its_own(here: Path) -> None:
    (here / "a.md").write_text("one\n```\ntwo\n```\n")
    (here / "b c.txt").write_text("three")
    (here / "plain").write_text("four")
    prompt = with_files('What is in @a.md? And @"b c.txt", (not @@a.md) @~/plain @a.md.')
    assert prompt.typed.startswith("What is in @a.md?")
    assert prompt.sent == (
        'What is in @a.md? And @"b c.txt", (not @a.md) @~/plain @a.md.\n\n'
        "a.md:\n````\none\n```\ntwo\n```\n````\n\n"
        "b c.txt:\n```\nthree\n```\n\n"
        f"{here}/plain:\n```\nfour\n```"
    )
    assert with_files("@@a.md").sent == "@a.md"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "x.dat is an image. Models here read text."),
        (b"\xff\xd8\xff\xe0" + bytes(20), "x.dat is an image."),
        (b"%PDF-1.7\n\xff", "x.dat is a PDF."),
        (b"abc\xff", "x.dat is not text in UTF-8."),
        (b"abc\0", "x.dat is not text in UTF-8."),
        (b"a" * (MAX_FILE_BYTES + 1), "x.dat is larger than 256 kB."),
    ],
)
def test_what_is_refused(here: Path, content: bytes, reason: str) -> None:
    (here / "x.dat").write_bytes(content)
    with pytest.raises(RequestError) as caught:
        with_files("see @x.dat")
    assert reason in str(caught.value)


def test_what_is_not_there(here: Path) -> None:
    (here / "d.d").mkdir()
    for word, reason in (("@nothing.txt", "nothing.txt does not exist"), ("@d.d", "d.d is a directory")):
        with pytest.raises(RequestError, match=reason):
            with_files(f"see {word}, please")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from('@~/. "a\0\n' + "é")), st.sampled_from(["", "x" * 300]))
def test_any_prompt_is_sent_or_refused_with_a_reason(typed: str, more: str) -> None:
    with contextlib.suppress(RequestError):
        assert with_files(typed + more).typed == typed + more


def test_a_picture_of_words_is_text(here: Path) -> None:
    (here / "x.bmp").write_text("BM is how this begins")
    assert "BM is how this begins" in with_files("@x.bmp").sent
