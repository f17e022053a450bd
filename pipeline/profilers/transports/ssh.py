"""A board by the system's OpenSSH: known hosts only, keys only, one connection."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from pipeline.core.errors import PareError
from pipeline.profilers.transports.remote import Remote
from pipeline.profilers.transports.talk import Said

_FORM = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_ALWAYS = {
    "BatchMode": "yes",  # asks for no password and no answer
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "PermitLocalCommand": "no",
    "LogLevel": "ERROR",
}


class Ssh(Remote):
    """A board that a key opens and whose own key is known.

    Args:
        address: ``ssh://user@host:port``; user and port may be left to ssh's own settings.
        known_hosts: file of the known keys, ssh's own by default.
        identity: private key, ssh's own choice or an agent's by default.

    Raises:
        PareError: the address is not of that form.
    """

    def __init__(
        self,
        address: str,
        *,
        known_hosts: str | None = None,
        identity: Path | None = None,
        port: int | None = None,
    ) -> None:
        found = _FORM.fullmatch(address)
        if not found:
            raise PareError(f"{address!r} is no address. Write ssh://user@host or with :port.")
        user, host, given = found["user"], found["host"].strip("[]"), found["port"]
        self.name = address
        self._to = f"{user}@{host}" if user else host
        self._port = int(given) if given else port
        self._known_hosts = known_hosts
        self._identity = identity

    def command(self, script: str) -> list[str]:
        """Return ssh with the script as its one operand."""
        options = dict(_ALWAYS)
        if self._known_hosts:
            options["UserKnownHostsFile"] = str(Path(self._known_hosts).expanduser())
            options["GlobalKnownHostsFile"] = "/dev/null"
        if self._identity:
            options["IdentitiesOnly"] = "yes"
        named = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        own = ["-i", str(self._identity)] if self._identity else []
        port = ["-p", str(self._port)] if self._port else []
        return [
            "ssh",
            "-T",
            *named,
            *own,
            *port,
            "--",
            self._to,
            f"sh -c {shlex.quote(script)}",
        ]

    def blame(self, said: Said) -> str | None:
        """Say what ssh itself ran into; its own exit code is 255."""
        if said.code != 255:
            return None
        told = said.stderr
        if said.events:
            return (
                f"{self.name}: the connection was lost while it measured ({_last(told)}). "
                f"Nothing was kept; the board removes what was sent. Try again."
            )
        for sign, reason in self._reasons().items():
            if sign in told:
                return f"{self.name}: {reason} ({_last(told)})"
        return (
            f"{self.name}: no connection ({_last(told)}). Check the address and the network."
        )

    def _reasons(self) -> dict[str, str]:
        host = self._to.rpartition("@")[2]
        return {
            "Host key verification failed": "its host key is not the one that is known, or "
            "none is known. Nothing was sent. Compare the board's key with what `ssh-keyscan "
            f"{host}` prints, and add it to the known hosts if it is the same",
            "REMOTE HOST IDENTIFICATION HAS CHANGED": "its host key has changed. Nothing was "
            "sent. Find out why before you remove the old one",
            "Permission denied": "it does not take this key. Add the public key to its "
            "authorized_keys, or name another with --identity; passwords are not used",
        }


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
