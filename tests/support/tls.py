"""Certificates made for a test."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class Authority:
    """An authority of its own, and certificates of it, in files."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self._directory = directory

    def issue(self, *names: str) -> dict[str, str]:
        """A server's certificate for these names, as the section `tls` of its configuration."""
        certificate = self._ca.issue_cert(*names)
        cert_file, key_file = self._directory / f"{names[0]}.pem", self._directory / f"{names[0]}.key"
        certificate.cert_chain_pems[0].write_to_path(cert_file)
        certificate.private_key_pem.write_to_path(key_file)
        return {"cert_file": str(cert_file), "key_file": str(key_file)}

    def context(self, *names: str) -> ssl.SSLContext:
        """What a stand-in for a server proves itself with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files = self.issue(*names)
        context.load_cert_chain(files["cert_file"], files["key_file"])
        return context
