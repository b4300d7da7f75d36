"""What servers and hospital hold of stored objects: the same before and after a job that cleans up."""

from pathlib import Path

from client.config import HospitalConfig
from darkroom.simulation import Simulation


def held_objects(cluster: Simulation, config: HospitalConfig) -> list[Path]:
    """Every share at both servers, every record and header at the hospital (not its ledger of nonces, which only grows)."""
    stores = [path for letter in "ab" for path in cluster.site.root.rglob(f"{letter}.store/objects")]
    assert len(stores) == 2
    records = [path for path in config.objects.glob("*") if path.suffix in (".json", ".dcm")]
    return sorted([*(share for store in stores for share in store.iterdir()), *records])
