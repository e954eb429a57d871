"""Which files of a repository are the model that was asked for."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tpid.errors import PullError

MAX_FILES = 1000  # of one model
_MOST_NAMED = 24  # quantizations in an error

# Without a wish: what most people take first, and smaller ones before larger ones of the same worth.
_PREFERRED = (
    *("Q4_K_M", "Q4_K_S", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "MXFP4"),
    *("Q3_K_L", "Q3_K_M", "Q2_K", "BF16", "F16", "F32"),
)
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?I?Q\d+(?:_[A-Za-z0-9]+)*|MXFP4(?:_[A-Za-z0-9]+)*|BF16|FP?16|FP?32)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL | re.IGNORECASE)
_BESIDE_WEIGHTS = re.compile(
    r"config\.json|generation_config\.json|tokenizer[\w.-]*|special_tokens_map\.json|added_tokens\.json|vocab\.json"
    r"|merges\.txt|spiece\.model|chat_template\.(?:jinja|json)|[\w.-]+\.safetensors(?:\.index\.json)?"
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a repository. `sha256` where the source tells it."""

    path: str
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files of one model. `name` is for the pack: that of the first GGUF file, or None for a whole repository."""

    files: tuple[Listed, ...]
    name: str | None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def choose(listing: Iterable[Listed], where: str, wish: str | None) -> Chosen:
    """The GGUF model that `wish` names (a quantization, or a file), or the best without one; else safetensors.

    Raises PullError, which lists what there is.
    """
    files = {file.path: file for file in listing}
    models = _gguf_models(files)
    if wish is not None:
        return _complete(_wished(models, where, wish), files, where)
    if models:
        return _complete(min(models, key=_worth), files, where)
    weights = tuple(file for path, file in files.items() if _BESIDE_WEIGHTS.fullmatch(path))
    if "config.json" in files and any(file.path.endswith(".safetensors") for file in weights):
        return _bounded(Chosen(_without_consolidated(weights), None), where)
    raise PullError(
        f"{where} has neither GGUF files nor safetensors.",
        hint="Look there for a conversion of the model: many are called as it is, with -GGUF behind.",
    )


def part_names(name: str) -> list[str]:
    """All parts' names by that of one: x-00002-of-00003.gguf -> three; any other name -> itself."""
    match = _PART.fullmatch(name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]) <= MAX_FILES:
        return [name]
    return [f"{match['stem']}-{number:05d}-of-{match['count']}.gguf" for number in range(1, int(match["count"]) + 1)]


def _gguf_models(files: Mapping[str, Listed]) -> list[str]:
    """First parts; without what sees, and without what only helps to quantize."""
    found = []
    for path in files:
        name = PurePosixPath(path).name.lower()
        match = _PART.fullmatch(name)
        later = match is not None and int(match["number"]) > 1
        if name.endswith(".gguf") and not later and "mmproj" not in name and "imatrix" not in name:
            found.append(path)
    return found


def quant_of(path: str) -> str | None:
    """The quantization that a file's name tells: the last one in it, else in its folder's name."""
    for part in reversed(PurePosixPath(path).parts):
        found = _QUANT.findall(part)
        if found:
            return str(found[-1]).upper()
    return None


def _wished(models: Sequence[str], where: str, wish: str) -> str:
    if wish in models:
        return wish
    named = [path for path in models if PurePosixPath(path).name.lower() == wish.lower()]
    matching = named or [path for path in models if quant_of(path) == wish.upper()]
    if matching:
        return min(matching, key=lambda path: (len(path), path))
    have = sorted({quant_of(path) or PurePosixPath(path).name for path in models})
    if not have:
        raise PullError(f"{where} has no GGUF files.", hint=f"Ask for it without :{wish}, or take its GGUF version.")
    more = f" and {len(have) - _MOST_NAMED} more" if len(have) > _MOST_NAMED else ""
    raise PullError(f"{where} has no {wish}.", hint=f"It has {', '.join(have[:_MOST_NAMED])}{more}.")


def _worth(path: str) -> tuple[int, int, str]:
    quant = quant_of(path)
    return (_PREFERRED.index(quant) if quant in _PREFERRED else len(_PREFERRED), len(path), path)


def _complete(path: str, files: Mapping[str, Listed], where: str) -> Chosen:
    """With all its parts."""
    folder = path.rpartition("/")[0]
    parts = [f"{folder}/{name}" if folder else name for name in part_names(PurePosixPath(path).name)]
    missing = [part for part in parts if part not in files]
    if missing:
        raise PullError(
            f"{where} lacks {missing[0]}, one of the {len(parts)} files of this model.",
            hint="Choose another quantization: its publisher has not finished this one.",
        )
    return _bounded(Chosen(tuple(files[part] for part in parts), PurePosixPath(path).name), where)


def _without_consolidated(files: tuple[Listed, ...]) -> tuple[Listed, ...]:
    """Some publish the same weights a second time, in their maker's own layout."""
    others = [file for file in files if file.path.endswith(".safetensors") and not file.path.startswith("consolidated")]
    return tuple(file for file in files if not (others and file.path.startswith("consolidated")))


def _bounded(chosen: Chosen, where: str) -> Chosen:
    if len(chosen.files) > MAX_FILES:
        raise PullError(f"{where} has {len(chosen.files)} files for this model, more than {MAX_FILES}.")
    return chosen
