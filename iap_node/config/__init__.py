"""config.yaml -> one frozen, validated `NodeConfig`.

Configuration enters here, once, at the start of a command; every room is handed its own section. Unknown keys are
errors that name the key and the nearest right one. Defaults stand in the fields; `config.yaml` documents each (a
test compares the two). Sections that are long have modules of their own: `routing`, `destinations`, and others.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from iap_node.config.crontab import crontab
from iap_node.config.destinations import KIND_PROBLEM, KINDS, AnyDestination, section_of_kind
from iap_node.config.destinations import DestinationConfig as DestinationConfig
from iap_node.config.notifications import NotificationsConfig
from iap_node.config.retraining import RetrainingConfig
from iap_node.config.routing import TERM_KEYS, TERM_PROBLEM, RoutingConfig, section_of_tag
from iap_node.config.section import Section, did_you_mean, keys_of
from iap_node.config.tls import TlsConfig as TlsConfig
from iap_node.config.web import WebConfig
from iap_node.dicom.protocol import keywords_with_tolerance
from iap_node.errors import ConfigError

ANY_AE_TITLE = "*"
REFERENCE_MODEL = "reference"


class DatabaseConfig(Section):
    """Where the tables live."""

    url: str | None = None  # None: SQLite (WAL) in the data directory


class SpoolConfig(Section):
    """How instances are kept on the disk."""

    durability: Literal["strict", "relaxed"] = "strict"
    prepared_mb: int = Field(512, ge=0)
    disk_reserve_mb: int = Field(1024, ge=0)


class ListenerConfig(Section):
    """The C-STORE and C-ECHO SCP."""

    ae_title: str = Field("IAP_NODE", min_length=1, max_length=16)
    bind: str = "127.0.0.1"
    port: int = Field(11112, ge=0, le=65535)
    require_called_ae_title: bool = False
    calling_ae_titles: tuple[str, ...] = (ANY_AE_TITLE,)
    addresses: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    processes: int = Field(1, ge=1, le=64)
    max_associations: int = Field(25, ge=1)
    max_associations_per_peer: int = Field(16, ge=1)
    max_pdu_bytes: int = Field(262_144, ge=4096)
    max_instance_mb: int = Field(8192, ge=1)
    idle_timeout_s: float = Field(60.0, gt=0)
    min_bytes_per_s: int = Field(1000, ge=0)
    association_timeout_s: float = Field(30.0, gt=0)
    stop_timeout_s: float = Field(30.0, gt=0)
    tls: TlsConfig = TlsConfig()

    @field_validator("addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @model_validator(mode="after")
    def _open_addresses_need_named_senders(self) -> ListenerConfig:
        beyond = [network for network in self.addresses if not ipaddress.ip_network(network).is_loopback]
        if beyond and ANY_AE_TITLE in self.calling_ae_titles:
            raise ValueError(
                f"addresses lets {', '.join(beyond)} in: name the senders in calling_ae_titles instead of '*'"
            )
        return self


class RequestorConfig(Section):
    """Where a peer that asks for storage commitment takes its report; its AE title is the key."""

    host: str
    port: int = Field(ge=1, le=65535)
    tls: TlsConfig = TlsConfig()


class StorageCommitmentConfig(Section):
    """The Storage Commitment Push Model as an SCP: how the reports get to those who asked."""

    requestors: dict[str, RequestorConfig] = {}
    same_association: bool = True
    patience_s: float = Field(10.0, ge=0)
    timeout_s: float = Field(30.0, gt=0)
    backoff_s: float = Field(30.0, gt=0)
    backoff_max_s: float = Field(3600.0, gt=0)
    expire_h: float = Field(72.0, gt=0)

    @field_validator("requestors")
    @classmethod
    def _ae_titles(cls, value: dict[str, RequestorConfig]) -> dict[str, RequestorConfig]:
        for ae_title in value:
            if not 0 < len(ae_title.strip()) <= 16:
                raise ValueError(f"{ae_title!r} is no AE title: it has 1 to 16 characters")
        return value


class QueryConfig(Section):
    """C-FIND as an SCP over what the node holds."""

    max_results: int = Field(10_000, ge=1)


class PullScheduleConfig(Section):
    """What is pulled by the clock; the filters are those of `iap-node pull`."""

    cron: str
    days: int | None = Field(2, ge=0)
    modalities: tuple[str, ...] = ()
    description: str = ""

    @field_validator("cron")
    @classmethod
    def _line_of_a_crontab(cls, value: str) -> str:
        crontab(value)
        return value


class SourceConfig(Section):
    """A PACS from which series are pulled: C-FIND and C-MOVE or C-GET as an SCU."""

    ae_title: str = Field(min_length=1, max_length=16)
    host: str
    port: int = Field(ge=1, le=65535)
    calling_ae_title: str = Field("IAP_NODE", min_length=1, max_length=16)
    retrieve: Literal["move", "get"] = "move"
    timeout_s: float = Field(60.0, gt=0)
    instances_per_minute: int | None = Field(None, ge=1)
    schedule: PullScheduleConfig | None = None
    tls: TlsConfig = TlsConfig()


class SeriesConfig(Section):
    """When a series counts as complete."""

    quiet_period_s: float = Field(60.0, ge=0)
    complete_on_release: bool = False


class JobsConfig(Section):
    """The queue: leases, retries, back-off."""

    lease_s: float = Field(60.0, gt=0)
    poll_s: float = Field(0.5, gt=0)
    max_attempts: int = Field(6, ge=1)
    backoff_s: float = Field(10.0, gt=0)
    backoff_max_s: float = Field(3600.0, gt=0)
    breaker_failures: int = Field(5, ge=1)
    breaker_s: float = Field(60.0, gt=0)
    patience_h: float = Field(72.0, ge=0)


class InferenceConfig(Section):
    """The model at work."""

    model: str = REFERENCE_MODEL
    engine: Literal["auto", "torch", "openvino"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(None, ge=1)
    max_slices: int = Field(24, ge=1)
    batch_size: int = Field(16, ge=1)
    max_pixels_per_slice: int = Field(4096 * 4096, ge=1)
    max_bytes_per_instance: int = Field(2 * 1024**3, ge=1)


class HabitConfig(Section):
    """What a scanner usually writes: when it may speak, and how far a value may be from it."""

    min_series: int = Field(10, ge=3)
    share: float = Field(0.8, gt=0.5, le=1)
    series: int = Field(500, ge=10)
    tolerances: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    vocabulary: Path | None = None

    @field_validator("tolerances")
    @classmethod
    def _numbers_of_a_protocol(cls, value: dict[str, float]) -> dict[str, float]:
        known = tuple(keywords_with_tolerance())
        for keyword in value:
            if keyword not in known:
                raise ValueError(f"{keyword!r} is no element with a tolerance{did_you_mean(keyword, known)}")
        return value


class ReportsConfig(Section):
    """The physicist's report, written by the scheduler."""

    folder: Path | None = None
    cron: str = "0 6 1 * *"

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if value != cls.model_fields["cron"].default:  # which is right, and saves every command the parser
            crontab(value)
        return value


class AuditConfig(Section):
    """Three witnesses for every header: pixels, the standard, the scanner's habit."""

    alpha: float = Field(0.01, gt=0, lt=0.5)
    joint_alpha: float = Field(0.01, gt=0, lt=0.5)
    suggest_probability: float = Field(0.8, gt=0, lt=1)
    habit: HabitConfig = HabitConfig()
    reports: ReportsConfig = ReportsConfig()


class RetentionConfig(Section):
    """Which bytes leave the spool, and when. By default none do."""

    judged_days: float | None = Field(None, gt=0)
    not_analysed_days: float | None = Field(None, gt=0)
    max_gb: float | None = Field(None, gt=0)
    unrouted: bool = False
    conflict_days: float | None = Field(None, gt=0)
    quarantine_days: float | None = Field(None, gt=0)
    every_s: float = Field(600.0, gt=0)
    files_per_run: int = Field(10_000, ge=1)

    @property
    def enabled(self) -> bool:
        """Whether anything is ever to go."""
        limits = (self.judged_days, self.not_analysed_days, self.max_gb, self.conflict_days, self.quarantine_days)
        return any(limit is not None for limit in limits)


class LogConfig(Section):
    """Logs: one event per line, UIDs and AE titles, never patient identity."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class NodeConfig(Section):
    """The whole configuration, validated and frozen."""

    data_dir: Path = Path("var")
    database: DatabaseConfig = DatabaseConfig()
    spool: SpoolConfig = SpoolConfig()
    listener: ListenerConfig = ListenerConfig()
    storage_commitment: StorageCommitmentConfig = StorageCommitmentConfig()
    query: QueryConfig = QueryConfig()
    sources: dict[str, SourceConfig] = {}
    series: SeriesConfig = SeriesConfig()
    jobs: JobsConfig = JobsConfig()
    inference: InferenceConfig = InferenceConfig()
    audit: AuditConfig = AuditConfig()
    routing: RoutingConfig = RoutingConfig()
    destinations: dict[str, AnyDestination] = Field(default_factory=dict)
    retention: RetentionConfig = RetentionConfig()
    web: WebConfig = WebConfig()
    notifications: NotificationsConfig = NotificationsConfig()
    retraining: RetrainingConfig = RetrainingConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _destinations_are_defined(self) -> NodeConfig:
        for key, names in self.routing.destination_names():
            for name in names:
                if name not in self.destinations:
                    raise ValueError(f"{key}: {name!r} is not defined{did_you_mean(name, self.destinations)}")
        return self

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database; SQLite in the data directory unless `database.url` says otherwise."""
        return self.database.url or f"sqlite:///{self.data_dir / 'node.sqlite'}"

    @property
    def spool_dir(self) -> Path:
        """Root of the spool."""
        return self.data_dir / "spool"

    @property
    def models_dir(self) -> Path:
        """Packages of the models that were trained or registered here, each in a folder named after the model."""
        return self.data_dir / "models"

    @property
    def retraining_dir(self) -> Path:
        """What a training works with: its data set, its checkpoint, its package before it is one."""
        return self.data_dir / "retraining"

    @property
    def patient_key_path(self) -> Path:
        """Secret that keys the patient hashes; made by `iap-node init`, readable by its owner only."""
        return self.data_dir / "patient.key"


def load_config(path: Path) -> NodeConfig:
    """Read and validate a configuration file; relative paths in it are relative to the file.

    Raises
    ------
    ConfigError
        The file is absent, not YAML, or not valid; the text has one line per problem, each naming its key.
    """
    return parse_config(_read(path), base=path.resolve().parent)


def load_routing(path: Path, config_path: Path) -> RoutingConfig:
    """The `routing` of another file, as it would be in the node's configuration: whole, or only with this section.

    Parameters
    ----------
    path
        A configuration file; where it names no `destinations`, those of `config_path` are meant.

    Raises
    ------
    ConfigError
        See `load_config`.
    """
    content, own = _read(path), _read(config_path)
    if set(content) <= {"routing", "destinations"}:
        content = {**own, **content}
    return parse_config(content, base=config_path.resolve().parent).routing


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; write one or name it with --config") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: the top level must be a mapping of sections, for example 'listener:'")
    return content or {}


def parse_config(content: dict[str, Any], base: Path) -> NodeConfig:
    """Validate a configuration that is already parsed; relative paths in it are relative to `base`.

    Raises
    ------
    ConfigError
        With one line per problem.
    """
    try:
        config = NodeConfig.model_validate(content)
    except ValidationError as error:
        lines = [_explain(problem) for problem in _causes(error.errors())]
        raise ConfigError("the configuration is not valid:\n" + "\n".join(f"  {line}" for line in lines)) from error
    return _resolve_paths(config, base)


def _causes(problems: Sequence[Any]) -> list[Any]:
    """The problems without those that only follow: a list is too short when none of its items is right."""
    places = [problem["loc"] for problem in problems]

    def follows(problem: Any) -> bool:
        own = problem["loc"]
        return problem["type"] == "too_short" and any(p[: len(own)] == own and len(p) > len(own) for p in places)

    return [problem for problem in problems if not follows(problem)]


def _explain(problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"] if _section_of(part) is None)
    if problem["type"] == "extra_forbidden":
        return f"{location}: unknown key{did_you_mean(str(problem['loc'][-1]), _keys_beside(problem['loc']))}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] in ("literal_error", "enum"):
        message += did_you_mean(str(problem["input"]), re.findall(r"'([^']+)'", problem["ctx"]["expected"]))
    if problem["type"] == TERM_PROBLEM and isinstance(problem["input"], dict):
        for key in problem["input"]:
            if did_you_mean(str(key), TERM_KEYS):
                return f"{location}.{key}: unknown key{did_you_mean(str(key), TERM_KEYS)}"
    if problem["type"] == KIND_PROBLEM and isinstance(problem["input"], dict):
        return f"{location}.kind: {message}{did_you_mean(str(problem['input'].get('kind')), KINDS)}"
    return f"{location}: {message}" if location else message


def _section_of(part: object) -> type[Section] | None:
    """The section that a part of an error's location stands for where several are possible."""
    return section_of_tag(part) or section_of_kind(part)


def _keys_beside(location: tuple[Any, ...]) -> list[str]:
    """The keys that are right where an unknown one was found."""
    model: Any = NodeConfig
    for part in location[:-1]:
        field = _field(model, part)
        if _section_of(part) is not None:
            model = _section_of(part)
        elif field is not None:  # else a name in a mapping, or an index in a list: the value's model stays
            model = _section_in(field.annotation)
    return keys_of(model) if isinstance(model, type) and issubclass(model, Section) else []


def _field(model: Any, key: object) -> FieldInfo | None:
    if not (isinstance(model, type) and issubclass(model, Section)):
        return None
    return next((field for name, field in model.model_fields.items() if key in (name, field.alias)), None)


def _section_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_in(argument)
        if found is not None:
            return found
    return None


def _resolve_paths(config: NodeConfig, base: Path) -> NodeConfig:
    def absolute(section: Any) -> Any:
        changes: dict[str, Any] = {}
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, Path):
                changes[name] = base / value
            elif isinstance(value, Section):
                changes[name] = absolute(value)
            elif isinstance(value, dict):
                changes[name] = {
                    key: absolute(item) if isinstance(item, Section) else item for key, item in value.items()
                }
        return section.model_copy(update=changes)

    resolved: NodeConfig = absolute(config)
    if resolved.inference.model != REFERENCE_MODEL:
        inference = resolved.inference.model_copy(update={"model": str(base / resolved.inference.model)})
        resolved = resolved.model_copy(update={"inference": inference})
    return resolved
