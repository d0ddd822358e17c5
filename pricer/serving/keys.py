"""API keys: who may ask a service that listens beyond this machine."""

import hashlib
import hmac
import stat
from pathlib import Path

from pricer.errors import PricerError

SHORTEST = 20  # characters
OTHERS = stat.S_IRWXG | stat.S_IRWXO
# where container engines put secrets, as files that all may read who are in the container
SECRETS = Path("/run/secrets")


class Keys:
    """Keys that are accepted; only their hashes are held."""

    def __init__(self, keys: list[str]) -> None:
        """Hold some keys."""
        self._digests = [_digest(key) for key in keys]

    def accepts(self, key: str) -> bool:
        """Tell whether a key is one of them, in the same time whatever it is."""
        given = _digest(key)
        return any([hmac.compare_digest(given, one) for one in self._digests])  # all are compared


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def read_keys(file: Path) -> Keys:
    """Read keys, one a line; empty lines and those that begin with # are none.

    Raises:
        PricerError: there are none, one is short or has spaces, or others may read the file.
    """
    try:
        text = file.read_text()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise PricerError(f"--api-key-file {file}: {getattr(error, 'strerror', error)}") from None
    if mode & OTHERS and not file.resolve().is_relative_to(SECRETS):
        raise PricerError(f"--api-key-file {file}: others may read it: `chmod 600 {file}`")
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise PricerError(f"--api-key-file {file}: no key in it, one a line is wanted")
    for number, line in enumerate(lines, start=1):
        if line in keys and (len(line) < SHORTEST or not line.isascii() or " " in line):
            raise PricerError(
                f"--api-key-file {file}: line {number}: a key has {SHORTEST} or more characters "
                "without spaces: `openssl rand -hex 32` makes one"
            )
    return Keys(keys)
