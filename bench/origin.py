"""Where figures come from: the machine, the versions, the date and the commit. No name or path of the machine."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench import spu_peer
from darkroom import __version__


def machine() -> dict[str, Any]:
    """Processor and versions: figures of two of these do not belong in one table."""
    versions = {
        "Darkroom": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "crypten": metadata.version("crypten"),
        **spu_peer.versions(),
    }
    return {"cores": os.cpu_count(), "processor": _processor(), "versions": versions}


def today() -> str:
    """The date and the commit, as a row keeps them."""
    return f"{datetime.now(UTC).date().isoformat()}, commit {commit(Path(__file__).parent.parent)}"


def commit(clone: Path) -> str:
    """The commit of a clone, and whether its tracked files differ from it; "unknown" where git does not say."""
    git = shutil.which("git")

    def ask(*words: str) -> str | None:
        if git is None:
            return None
        answer = subprocess.run([git, "-C", str(clone), *words], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    head = ask("rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    return f"{head} with local changes" if ask("status", "--porcelain", "--untracked-files=no") else head


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
