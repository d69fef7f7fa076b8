"""A real S3 server (`versitygw`) that can go away and come back."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "slipstream", "slipstream-secret"


class S3Server:
    """An S3 server over a folder, on one port for its whole life; each bucket is a folder in it."""

    def __init__(self, folder: Path) -> None:
        binary = os.environ.get("SLIPSTREAM_VERSITYGW") or shutil.which("versitygw")
        if not binary:
            pytest.skip("NOT RUN: the release store on S3; put versitygw on the PATH or into $SLIPSTREAM_VERSITYGW")
        pytest.importorskip("s3fs", reason="NOT RUN: the release store on S3; install the extra `s3`")
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._command = [binary, "--port", f"127.0.0.1:{self._port}", "posix", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """For `FsspecReleaseStore`."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint}

    @property
    def environment(self) -> dict[str, str]:
        """The same for another process."""
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": self.endpoint}

    def start(self) -> None:
        """Listen, with what is in the folder."""
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), 0.2).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"versitygw does not listen on {self._port} (exit code {self._process.poll()})")

    def stop(self) -> None:
        """Go away: connections are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
