"""The configuration's `web` section: where the console listens, and who may sign in how."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from iap_node.config.section import Section
from iap_node.records import Role


class OidcConfig(Section):
    """OpenID Connect: the hospital's own sign-in."""

    issuer: str
    client_id: str
    client_secret_file: Path
    roles_claim: str = "roles"
    roles: dict[str, Role] = {}
    default_role: Role | None = None
    recheck_min: float = Field(60.0, gt=0, le=60 * 24 * 31)

    @field_validator("issuer")
    @classmethod
    def _https(cls, value: str) -> str:
        if not value.startswith("https://") and not value.startswith(("http://127.0.0.1", "http://localhost")):
            raise ValueError("an issuer's URL begins with https://")
        return value.rstrip("/")


class StowConfig(Section):
    """Storing by STOW-RS (PS3.18 section 10.5), with a token of the scope `store`."""

    enabled: bool = False
    max_requests: int = Field(4, ge=1, le=1000)
    max_request_mb: int = Field(16_384, ge=1)


class WebConfig(Section):
    """The console in the browser and the API."""

    enabled: bool = True
    bind: str = "127.0.0.1"
    port: int = Field(8480, ge=0, le=65535)
    certificate: Path | None = None
    private_key: Path | None = None
    behind_tls: bool = False
    public_url: str | None = None
    session_hours: float = Field(10.0, gt=0, le=24 * 31)
    oidc: OidcConfig | None = None
    stow: StowConfig = StowConfig()

    @model_validator(mode="after")
    def _certificate_with_its_key(self) -> WebConfig:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together")
        if self.oidc is not None and self.public_url is None:
            raise ValueError("oidc needs public_url: where the issuer sends the browser back to")
        return self

    @property
    def is_secure(self) -> bool:
        """Whether browsers come by TLS: to us, or to a proxy in front of us."""
        return self.certificate is not None or self.behind_tls
