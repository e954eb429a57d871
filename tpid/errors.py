"""Every error that an owner may see, as one tree.

    TpidError
    ├── ConfigError                 the configuration cannot be used
    ├── ListenError                 the daemon cannot listen where it was told to
    ├── ModelError
    │   ├── ModelFileError          a model file is truncated, corrupt or not readable
    │   ├── UnsupportedModelError   a sound file of a kind that tpid cannot run
    │   ├── TokenizerError          the tokenizer is missing or unusable
    │   ├── ChatTemplateError       the chat template is missing or refuses the messages
    │   ├── ModelNotFoundError      no pack or catalogue entry of that name
    │   └── PullError               a published model could not be fetched
    ├── PackError                   a pack on disk is damaged or of another version
    ├── DiskFullError               the disk cannot hold what is to be written
    ├── RequestError
    │   ├── ContextOverflowError    prompt and answer do not fit the context
    │   └── BusyError               the queue of requests is full
    ├── AccessError
    │   ├── ApiKeyError             the API asks for a key, and there was no good one
    │   └── OriginError             a browser asks for a web page that may not use the API
    ├── ProtocolError
    │   ├── LocalProtocolError      our own side broke the protocol: a bug
    │   ├── RemoteProtocolError     the peer sent what the protocol does not allow
    │   └── VersionMismatchError    the peer speaks another version of the protocol
    ├── ClusterError
    │   ├── DeviceLostError         a device of the plan is gone
    │   ├── RankFailedError         a device of the plan is there and did not do its part
    │   ├── NotCoordinatorError     this device may not, or cannot now, coordinate
    │   ├── MemoryPlanError         the devices together cannot hold the model
    │   ├── LoadError               a device could not load its share
    │   ├── UnitsError              a device could not get the units of its share from others
    │   ├── PassDroppedError        the coordinator has given up a pass: a request was cancelled
    │   ├── RefusedError            a hello was refused, by the peer or by this device
    │   ├── NotPairedError          one of two devices does not count the other to its home
    │   ├── PairingError            a device could not be paired: wrong code, too late, cancelled
    │   │   └── PairingBusyError    the device that invites is just pairing with another one
    │   └── RosterError             the list of the home's devices does not allow it, or is full
    ├── NumericError                the model computed what is not a number
    ├── ServiceError                systemd cannot run the daemon, or is not there
    └── DaemonUnreachableError      tpictl finds no daemon

Each leaf is one thing that an owner can act on. `code` is stable: scripts may
depend on it. The message is one sentence with the device and the numbers in
it; `hint`, where there is one, says what to do next.
"""

from typing import ClassVar, Self


class TpidError(Exception):
    """Base of all errors that tpid raises on purpose."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def again(self) -> Self:
        """The same error for another to raise. What is kept and raised itself would keep alive all that it passed."""
        twin = type(self).__new__(type(self), *self.args)
        twin.__dict__.update(self.__dict__)
        return twin

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigError(TpidError):
    code = "config"


class ListenError(TpidError):
    code = "listen"


class ModelError(TpidError):
    code = "model"


class ModelFileError(ModelError):
    code = "model_file"


class UnsupportedModelError(ModelError):
    code = "unsupported_model"


class TokenizerError(ModelError):
    code = "tokenizer"


class ChatTemplateError(ModelError):
    code = "chat_template"


class ModelNotFoundError(ModelError):
    code = "model_not_found"


class PullError(ModelError):
    code = "pull"


class PackError(TpidError):
    code = "pack"


class DiskFullError(TpidError):
    code = "disk_full"


class RequestError(TpidError):
    """`field` is that of the request's body which is at fault, where it is one."""

    code = "request"

    def __init__(self, message: str, *, hint: str | None = None, field: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class ContextOverflowError(RequestError):
    code = "context_overflow"


class BusyError(RequestError):
    """`retry_after_s` is when it is worth another try."""

    code = "busy"

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class AccessError(TpidError):
    code = "access"


class ApiKeyError(AccessError):
    code = "invalid_api_key"


class OriginError(AccessError):
    code = "origin"


class ProtocolError(TpidError):
    code = "protocol"


class LocalProtocolError(ProtocolError):
    code = "local_protocol"


class RemoteProtocolError(ProtocolError):
    code = "remote_protocol"


class VersionMismatchError(ProtocolError):
    code = "version_mismatch"


class ClusterError(TpidError):
    code = "cluster"


class DeviceLostError(ClusterError):
    code = "device_lost"


class RankFailedError(ClusterError):
    code = "rank_failed"


class NotCoordinatorError(ClusterError):
    code = "not_coordinator"


class MemoryPlanError(ClusterError):
    code = "memory_plan"


class LoadError(ClusterError):
    code = "load"


class UnitsError(ClusterError):
    code = "units"


class PassDroppedError(ClusterError):
    code = "pass_dropped"


class RefusedError(ClusterError):
    """`reason_code` is "other_cluster", "self", "cloned", or the code of what the listener's owner refused with."""

    code = "refused"

    def __init__(self, message: str, *, reason_code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason_code = reason_code


class NotPairedError(ClusterError):
    code = "not_paired"


class PairingError(ClusterError):
    code = "pairing"


class PairingBusyError(PairingError):
    """It may be free in a moment, and the code is as good as before."""


class RosterError(ClusterError):
    code = "roster"


class NumericError(TpidError):
    code = "numeric"


class ServiceError(TpidError):
    code = "service"


class DaemonUnreachableError(TpidError):
    code = "daemon_unreachable"
