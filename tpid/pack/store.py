"""All packs of a device: one directory each in `models_dir`."""

import re
from dataclasses import dataclass
from pathlib import Path

from tpid.errors import ModelNotFoundError, PackError, RequestError
from tpid.pack.manifest import PackId
from tpid.pack.reader import Pack

_PART = re.compile(r"-\d{5}-of-\d{5}$")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """`name` itself. Raises RequestError where it cannot be a pack's."""
    if _NAME.fullmatch(name) is None:
        raise RequestError(
            f"{name!r} cannot be a model's name.",
            hint="Use up to 64 lower-case letters, digits, dots, dashes and underscores.",
        )
    return name


def name_from_path(path: Path) -> str:
    """A name for the model at `path`: Llama-3.2-1B.Q4_K_M.gguf -> llama-3.2-1b.q4_k_m

    A part's number is left out, and so is the commit that a cache of Hugging Face keeps a model under.
    """
    stem = path.stem if path.suffix.lower() == ".gguf" else path.name
    stem = _PART.sub("", stem)
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        stem = path.parent.parent.name.rpartition("--")[2]
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64]
    return check_name(slug or "model")


@dataclass(frozen=True, slots=True)
class Damaged:
    """A directory that should be a pack and is not."""

    name: str
    reason: str


class PackStore:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return self.directory / check_name(name)

    def scan(self) -> list[Pack | Damaged]:
        """Everything that is there, by name. Raises PackError where the directory cannot be read."""
        found: list[Pack | Damaged] = []
        for path in sorted(self._directories()):
            try:
                found.append(Pack(path))
            except PackError as error:
                found.append(Damaged(path.name, str(error)))
        return found

    def open(self, name: str) -> Pack:
        """Raises ModelNotFoundError, which names what is there, or PackError."""
        if not self.path(name).is_dir():
            names = [path.name for path in sorted(self._directories())]
            have = f"It has {', '.join(names)}." if names else "It has none yet: try tpictl pull smollm2-135m."
            raise ModelNotFoundError(f"This device has no model {name}.", hint=have)
        return Pack(self.path(name))

    def find(self, id: PackId) -> Pack:
        """The pack whatever its name. Raises ModelNotFoundError."""
        for pack in self.scan():
            if isinstance(pack, Pack) and pack.id == id:
                return pack
        raise ModelNotFoundError(f"This device has no pack with id {id[:12]}.", hint="Import the same model here.")

    def _directories(self) -> list[Path]:
        try:
            return [path for path in self.directory.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PackError(
                f"{self.directory} cannot be read: {error.strerror}.",
                hint="Let tpid read that directory, or set another models_dir in the configuration.",
            ) from error
