"""DICOM TLS in the configuration: certificates of this node, and who vouches for its peers."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from iap_node.config.section import Section


class TlsConfig(Section):
    """DICOM TLS (PS3.15 Annex B): certificate and key of this node, CA of the peers."""

    certificate: Path | None = None
    private_key: Path | None = None
    peer_ca: Path | None = None  # set: the peer must show a certificate signed by it

    @model_validator(mode="after")
    def _certificate_and_key_go_together(self) -> TlsConfig:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("name both certificate and private_key, or neither")
        if self.peer_ca is not None and self.certificate is None:
            raise ValueError("peer_ca needs certificate and private_key too")
        return self

    @property
    def enabled(self) -> bool:
        """Whether associations are to use TLS."""
        return self.certificate is not None
