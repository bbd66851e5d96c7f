"""Files that are downloaded to the cache folder on first use."""

import hashlib
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException

from gpt_common.cache import cache_folder, write_cached
from gpt_common.errors import InputError
from gpt_common.storage import require_file

TIMEOUT = 30  # seconds without data from a server


@dataclass(frozen=True)
class Download:
    """A file on the web, of `size` bytes, and its name in the cache.

    `flag` is the command-line flag that takes the path of a copy.
    """

    url: str
    sha256: str
    size: int
    filename: str
    flag: str

    def read(self) -> bytes:
        """Return the file's bytes, from the cache if it has been downloaded before.

        Raises `InputError`, with instructions for a manual download, if it fails, and for bytes
        with another SHA-256.
        """
        path = cache_folder() / self.filename
        cached = path.exists()
        if cached:
            require_file(path)
        content = path.read_bytes() if cached else self._download()
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            source = path if cached else self.url
            raise InputError(f"{source}: expected sha256 {self.sha256}, got {digest}")
        if not cached:
            write_cached(path, lambda file: file.write(content))
        return content

    def _download(self) -> bytes:
        try:
            with urllib.request.urlopen(self.url, timeout=TIMEOUT) as response:
                return response.read(self.size + 1)
        except (OSError, HTTPException) as error:
            raise InputError(
                f"{self.filename}: no download from {self.url} ({error}); save it as "
                f"{cache_folder() / self.filename}, or give the path of a copy with {self.flag}"
            ) from None
