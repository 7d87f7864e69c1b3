"""Downloads that are complete or not there, one cached file per URL."""

import hashlib
import re
import shutil
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

from torch.hub import get_dir

from mmkd.utils.errors import ConfigError
from mmkd.utils.locks import wait_for_lock

TIMEOUT = 60  # seconds without a byte from the server
NAMED_HASH = re.compile(r'-([0-9a-f]{8,64})\.[^.]*$')  # OpenMMLab's and torch's `name-0123abcd.pth`


def cached_path(url: str) -> Path:
    """Return where the file of a URL is kept: the whole URL decides, not its last part alone."""
    name = Path(urlparse(url).path).name or 'file'
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(get_dir()) / 'checkpoints' / f'{digest}-{name}'


def download(url: str, key: str) -> Path:
    """Return the local file of a URL, downloaded if it is not there yet.

    The file gets its name when it is complete: as long as the server said, and with the hash that
    its name carries, if any. Processes of one machine take turns, so that one of them downloads.

    Args:
        url: Of http or https.
        key: Where it stands in the config, for messages.

    Raises:
        ConfigError: If the download fails, is cut short, or is another file than its name says.
    """
    path = cached_path(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(f'{path}.lock'):
            if not path.is_file():
                for left in path.parent.glob(f'.{path.name}.*'):  # by a kill
                    shutil.rmtree(left)
                _fetch(url, path)
    except (OSError, HTTPException) as error:
        raise ConfigError(f'{key}: cannot download {url!r}: {error}') from error
    return path


def _fetch(url: str, path: Path) -> None:
    digest, received = hashlib.sha256(), 0
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}.', dir=path.parent) as folder:
        whole = Path(folder) / 'download'
        with urllib.request.urlopen(url, timeout=TIMEOUT) as source, open(whole, 'wb') as target:
            expected = source.headers.get('Content-Length')
            while block := source.read(1 << 20):
                target.write(block)
                digest.update(block)
                received += len(block)
        if expected is not None and received != int(expected):
            raise OSError(f'{received} of {expected} bytes came')
        named = NAMED_HASH.search(Path(urlparse(url).path).name)
        if named and not digest.hexdigest().startswith(named.group(1)):
            raise OSError(f'its SHA-256 begins with {digest.hexdigest()[:8]}, not {named.group(1)}')
        whole.rename(path)
