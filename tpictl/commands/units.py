"""The text of systemd's units: of the whole machine, and of a person's session."""

from collections.abc import Sequence

# The exit status of a daemon whose configuration cannot be used (EX_CONFIG of sysexits.h): a restart mends nothing.
CONFIG_STATUS = 78

_SYSTEM = """\
# tpid as a service of the system. `sudo tpictl service install` writes it, for where tpid is installed, together with a
# user of its own, a group of those who may speak to it, and an empty /etc/tpid/tpid.toml.
# The API's socket is /run/tpid/tpid.sock, where tpictl looks by itself.

[Unit]
Description=tpid: the devices of this home serve large language models together
After=network.target

[Service]
Type=notify
ExecStart={command} --config /etc/tpid/tpid.toml
ExecReload=kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
RestartPreventExitStatus={config_status}
WatchdogSec=60

# State in /var/lib/tpid, socket in /run/tpid; a user of its own that has nothing else.
User=tpid
Group=tpid
StateDirectory=tpid
StateDirectoryMode=0700
RuntimeDirectory=tpid
RuntimeDirectoryMode=0750
UMask=0007

# The owner's work comes first: others get the cores when they want them, and tpid is the first to go when memory ends.
Nice=5
CPUWeight=50
IOWeight=50
OOMScoreAdjust=500
# Above it the system takes memory back from tpid first: the budget, 70 % of what was free, stays below.
MemoryHigh=80%
# Weights in swap would be read from disk twice: what does not fit the budget streams anyway.
MemorySwapMax=0

# It reads models and speaks TCP, mDNS and a Unix socket: nothing else.
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateUsers=yes
ProtectProc=invisible
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
# The process that runs a model's template takes the network from itself, by namespaces of its own.
RestrictNamespaces=user net
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
DevicePolicy=closed
KeyringMode=private
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

_USER = """\
# tpid as a service of one person's session, written by `tpictl service install`.

[Unit]
Description=tpid: the devices of this home serve large language models together

[Service]
Type=notify
ExecStart={command}
ExecReload=kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
RestartPreventExitStatus={config_status}
WatchdogSec=60
UMask=0077

Nice=5
OOMScoreAdjust=500
MemoryHigh=80%
MemorySwapMax=0

NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def system_unit(command: Sequence[str]) -> str:
    return _SYSTEM.format(command=_quoted(command), config_status=CONFIG_STATUS)


def user_unit(command: Sequence[str]) -> str:
    return _USER.format(command=_quoted(command), config_status=CONFIG_STATUS)


def _quoted(command: Sequence[str]) -> str:
    """As systemd splits it again; specifiers and variables in it mean nothing."""
    words = []
    for word in command:
        escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        words.append(f'"{escaped}"' if any(char in escaped for char in " \t\"'\\;") else escaped)
    return " ".join(words)
