"""Devices that are paired before they start: what `tpictl invite` and `join` come to, for tests and measurements."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tpid.cluster.identity.identity import FILE_NAME as IDENTITY_FILE
from tpid.cluster.identity.identity import load_or_create_identity
from tpid.cluster.roster.roster import admit, found
from tpid.cluster.roster.store import FILE_NAME as ROSTER_FILE
from tpid.cluster.roster.store import save_roster
from tpid.device import Role


class PairedHome:
    """A home of devices with these names and roles; the first user's founds it. Use as a context, or `close` it."""

    def __init__(self, devices: Mapping[str, Role]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tpid-paired-"))
        identities = {name: load_or_create_identity(self._directory / name) for name in devices}
        # A home begins with a user's device; where there are helpers alone, with one that is nowhere.
        founder = next((name for name, role in devices.items() if role is Role.USER), None)
        identity = identities[founder] if founder is not None else load_or_create_identity(self._directory / ".founder")
        self._roster = found(identity, founder or "founder")
        for name, role in devices.items():
            if name != founder:
                certificate = identities[name].certificate
                self._roster = admit(self._roster, identity, certificate=certificate, name=name, role=role)

    def furnish(self, name: str, state_dir: Path) -> None:
        """Make the device's state directory that of a member, if it is not."""
        if (state_dir / ROSTER_FILE).exists():
            return
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy2(self._directory / name / IDENTITY_FILE, state_dir / IDENTITY_FILE)
        save_roster(state_dir, self._roster)

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> "PairedHome":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
