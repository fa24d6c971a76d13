"""A container engine: Docker, or Podman as root, which takes the same words."""

import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PULL_SECONDS = 60
# Where cgroups of version 2 are mounted beside those of version 1, which Podman's crun refuses.
BOTH_CGROUPS = "/sys/fs/cgroup/unified"
# What the base image needs beside Debian's smallest system, and what reaches an index of packages
# from here: the machine's certificates and configurations of pip and uv.
BASE_PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CONFIGURATIONS = ("/etc/pip.conf", "/etc/uv/uv.toml")
NOT_IN_SLIM = [f"usr/share/{name}" for name in ("doc", "info", "locale", "man")]


class EngineError(Exception):
    """A command of the engine failed; the message is what it said."""


@dataclass(frozen=True)
class Engine:
    """The command line of an engine that works here."""

    name: str

    @property
    def is_podman(self) -> bool:
        return self.name == "podman"

    @property
    def limits(self) -> list[str]:
        """Podman asks for more files and processes than a machine may allow."""
        hard = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
        most = {name: min(resource.getrlimit(kind)[1], 20_000) for name, kind in hard.items()}
        words = [w for name, n in most.items() for w in ("--ulimit", f"{name}={n}:{n}")]
        return words if self.is_podman else []

    def __call__(self, *words: str, timeout: float | None = None) -> str:
        """What the command prints.

        Raises:
            EngineError: it failed, or took longer than `timeout` seconds.
        """
        try:
            done = subprocess.run(
                [self.name, *words], capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"{self.name} {words[0]}: no end after {timeout} s") from error
        if done.returncode:
            raise EngineError(f"{self.name} {' '.join(words[:3])}: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def works(self, *words: str) -> bool:
        """Whether the command succeeds."""
        try:
            self(*words)
        except EngineError:
            return False
        return True

    def has(self, image: str) -> bool:
        """Whether the image is here, or can be pulled."""
        if self.works("image", "inspect", image):
            return True
        try:
            self("pull", "--quiet", image, timeout=PULL_SECONDS)
        except EngineError:
            return False
        return True

    def build(self, tag: str, dockerfile: Path, context: Path, target: str = "") -> float:
        """Build an image; returns the seconds that it took."""
        started = time.monotonic()
        words = ["build", "--quiet", "--file", str(dockerfile), "--tag", tag]
        words += ["--target", target] if target else []
        if self.is_podman:
            words += ["--network", "host", "--format", "docker", *self.limits]
            there = filter(os.path.exists, CONFIGURATIONS)
            words += [f"--volume={place}:{place}:ro" for place in there]
        self(*words, str(context))
        return time.monotonic() - started

    def size(self, image: str) -> int:
        """Bytes of an image, unpacked."""
        return int(self("image", "inspect", "--format", "{{.Size}}", image))


def find_engine() -> Engine | None:
    """The engine of this machine; None without one that works."""
    docker, podman = Engine("docker"), Engine("podman")
    if shutil.which("docker") and docker.works("info"):
        return docker
    if shutil.which("podman") and os.geteuid() == 0 and podman.works("info"):
        return podman
    return None


def alone_with_one_cgroup(command: list[str]) -> None:
    """Replace this process by the command, in a mount namespace where only one version of cgroups
    is mounted; nothing where that is so already."""
    if os.path.ismount(BOTH_CGROUPS):
        unmount = f'umount {BOTH_CGROUPS} && exec "$@"'
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", unmount, "sh", *command])


def base_image(dockerfile: Path) -> str:
    """The image that the Dockerfile begins with."""
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    return str(image)


def make_base(engine: Engine, tag: str) -> None:
    """An image in the place of Python's own: Debian bookworm with its Python, from this machine's
    Debian mirror, with this machine's certificates.

    Raises:
        EngineError: there is no debootstrap, or it failed.
    """
    if not (engine.is_podman and shutil.which("debootstrap")):
        raise EngineError(f"{tag} cannot be pulled, nor made without podman and debootstrap")
    mirrors = _run(
        *("apt-get", "indextargets", "--format", "$(REPO_URI)"),
        *("Created-By: Packages", "Codename: bookworm"),
    ).split()
    with tempfile.TemporaryDirectory() as folder:
        _run(
            *("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}"),
            *("bookworm", folder, *mirrors[:1]),
        )
        root = Path(folder)
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        next(root.glob("usr/lib/python3*/EXTERNALLY-MANAGED")).unlink()
        (root / "usr/bin/python").symlink_to("python3")
        for unused in ("var/cache/apt", "var/lib/apt/lists", *NOT_IN_SLIM):
            shutil.rmtree(root / unused, ignore_errors=True)
        archive = f"{folder}.tar"
        _run("tar", "--create", "--file", archive, "--directory", folder, ".")
    try:
        engine("import", "--change", f"ENV SSL_CERT_FILE={CERTIFICATES}", archive, tag)
    finally:
        Path(archive).unlink()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout
