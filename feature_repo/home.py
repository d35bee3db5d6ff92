"""Where state lives, and the one place that reads the environment.

On a laptop everything is in one folder, ``.airworthy`` (``AIRWORTHY_HOME``). On a cluster the
same variable names a volume that the pods share, and the others point at services. Nothing
here acts at import, and every file is written under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from feature_repo.errors import StateError


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """The folder that holds tables, stores, models, ledger and reports of one installation.

    ``online``: a folder for online rows in the place of what ``online_store`` says.
    """

    root: Path
    online: str = ""

    @property
    def id(self) -> str:
        """Identity of this home, made once. Deleting the folder makes a new one, so that no
        cached result can point into a folder that is gone."""
        path = self.root / "home-id"
        if not path.exists():
            with self.lock("home"):
                if not path.exists():
                    write_atomically(path, uuid.uuid4().hex.encode())
        return path.read_text()

    def path(self, *parts: str) -> Path:
        """A path inside the home; its parent folders are made."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def lock(self, name: str, timeout: float = 600.0) -> Iterator[None]:
        """Hold the home's named lock, across processes; released when the holder dies.

        Raises:
            StateError: not had within ``timeout`` seconds.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path("locks", f"{name}.lock"), timeout=timeout):
                yield
        except Timeout as exc:
            raise StateError(
                f"lock {name!r} of {self.root} was not free within {timeout:.0f} s; another run "
                "holds it: wait for it, or stop it"
            ) from exc


def open_home(root: str = "") -> Home:
    """The home at ``root``, else at ``$AIRWORTHY_HOME``, else ``.airworthy`` here.

    Raises:
        StateError: the folder cannot be made.
    """
    where = Path(root or os.environ.get("AIRWORTHY_HOME", ".airworthy")).resolve()
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StateError(
            f"the home {where} cannot be made ({exc.strerror}); set AIRWORTHY_HOME to a folder "
            "that this user may write"
        ) from exc
    return Home(root=where)


def tracking_uri(home: Home) -> str:
    """MLflow's tracking and registry address: ``$MLFLOW_TRACKING_URI``, else the home's sqlite."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.path('mlflow.db')}"


def online_store(home: Home) -> str:
    """Where online rows are: ``$AIRWORTHY_ONLINE_STORE`` (a Redis URL), else the home's folder."""
    return home.online or os.environ.get("AIRWORTHY_ONLINE_STORE") or str(home.root / "online")


def checkpoint_storage(home: Home) -> str:
    """Where trainings keep checkpoints: ``$AIRWORTHY_CHECKPOINTS`` (a folder, or an address that
    fsspec knows, such as s3://bucket/prefix), else the home's folder."""
    told = os.environ.get("AIRWORTHY_CHECKPOINTS")
    return told.rstrip("/") if told else str(home.root / "checkpoints")


def metrics_collector() -> bool:
    """Whether OpenTelemetry's variables name a collector that takes metrics by OTLP."""
    told = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    return bool(told or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def pushgateway() -> str:
    """Address of a Prometheus Pushgateway: ``$AIRWORTHY_PUSHGATEWAY``; empty where there is
    none."""
    return os.environ.get("AIRWORTHY_PUSHGATEWAY", "")


def sweep_storage() -> str:
    """Where the trials of sweeps are: ``$AIRWORTHY_SWEEP_STORAGE`` (a PostgreSQL URL); empty: a
    journal in the home."""
    return os.environ.get("AIRWORTHY_SWEEP_STORAGE", "")


def signing_key_path() -> Path | None:
    """Private key (PEM, ed25519) of ``$AIRWORTHY_SIGNING_KEY``; None: the development key."""
    value = os.environ.get("AIRWORTHY_SIGNING_KEY")
    return Path(value) if value else None


def trusted_keys_path() -> Path | None:
    """Folder of public keys (``*.pem``) that ``$AIRWORTHY_TRUSTED_KEYS`` names."""
    value = os.environ.get("AIRWORTHY_TRUSTED_KEYS")
    return Path(value) if value else None


def crd_path() -> Path | None:
    """Folder of KServe's and Kubeflow's CRDs (YAML) that ``$AIRWORTHY_CRDS`` names."""
    value = os.environ.get("AIRWORTHY_CRDS")
    return Path(value) if value else None


def server_image() -> str:
    """Image of the serving pods: ``$AIRWORTHY_SERVER_IMAGE``."""
    return os.environ.get("AIRWORTHY_SERVER_IMAGE", "airworthy-server:0.1.0")


def model_storage() -> str:
    """Address under which a cluster finds ``models/`` of the home: ``$AIRWORTHY_MODEL_STORAGE``."""
    return os.environ.get("AIRWORTHY_MODEL_STORAGE", "pvc://airworthy-home/models")


def cluster_namespace() -> str:
    """Namespace of the InferenceServices: ``$AIRWORTHY_NAMESPACE``."""
    return os.environ.get("AIRWORTHY_NAMESPACE", "models")


def deployment_mode() -> str:
    """KServe's mode, Standard or Knative: ``$AIRWORTHY_DEPLOYMENT_MODE``."""
    return os.environ.get("AIRWORTHY_DEPLOYMENT_MODE", "Standard")


def development_key_allowed() -> bool:
    """Whether ``$AIRWORTHY_ALLOW_DEVELOPMENT_KEY`` lets development keys count; never in a
    cluster."""
    return os.environ.get("AIRWORTHY_ALLOW_DEVELOPMENT_KEY", "").lower() in {"1", "true", "yes"}


def prediction_tokens() -> tuple[str, ...]:
    """One of these a caller must send to be answered; empty: everybody is."""
    told = os.environ.get("AIRWORTHY_PREDICTION_TOKEN", "").split(",")
    return tuple(token.strip() for token in told if token.strip())


def repository_token() -> str:
    """What a caller must send to load and unload models; empty: nobody may."""
    return os.environ.get("AIRWORTHY_REPOSITORY_TOKEN", "")


def write_atomically(path: Path, content: bytes, aside: Path | None = None) -> None:
    """Write ``content`` so that a reader, and a reboot, sees the old file or the new one.

    The temporary file, which stays when the process is killed, lies beside ``path``, or in the
    folder ``aside`` of the same file system where nothing else may lie beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent if aside is None else aside
    temporary = folder / f".{path.name}.{uuid.uuid4().hex}.tmp"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on disk when this returns: a power cut after it
    takes neither."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well.

    If another process put ``path`` there meanwhile, theirs stays: use it for content-addressed
    folders only.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if not path.exists():
            try:
                temporary.rename(path)
            except OSError:
                if not path.exists():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """sha256 of each file below ``folder``, by its path relative to it, in order of path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): file_digest(p) for p in files}


def digest_of(digests: dict[str, str]) -> str:
    """One sha256 for a set of named digests (the subject digest of a folder)."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
