"""Dataplane: disk images as content-addressed data; this package is the storage library, and knows nothing of gRPC."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself costs start-up time, and only type checkers read this
    from dataplane.analysis.measuring import Measured as Measured
    from dataplane.analysis.measuring import Measurement as Measurement
    from dataplane.analysis.measuring import measure as measure
    from dataplane.disks.boot_trace import BootTrace as BootTrace
    from dataplane.disks.boot_trace import load_trace as load_trace
    from dataplane.disks.chunk_cache import ChunkCache as ChunkCache
    from dataplane.disks.control import ControlListener as ControlListener
    from dataplane.disks.disk import Disk as Disk
    from dataplane.disks.disk import open_disk as open_disk
    from dataplane.disks.folder import DiskStatus as DiskStatus
    from dataplane.disks.folder import create_overlay as create_overlay
    from dataplane.disks.folder import delete_overlay as delete_overlay
    from dataplane.disks.folder import disk_status as disk_status
    from dataplane.disks.folder import lock_disk as lock_disk
    from dataplane.disks.pinning import create_disk as create_disk
    from dataplane.disks.pinning import delete_disk as delete_disk
    from dataplane.disks.pinning import release_pins as release_pins
    from dataplane.disks.pool import Pool as Pool
    from dataplane.disks.pool import build_pool as build_pool
    from dataplane.disks.pool import open_pool as open_pool
    from dataplane.disks.resizing import resize_disk as resize_disk
    from dataplane.disks.snapshot import PreparedSnapshot as PreparedSnapshot
    from dataplane.disks.snapshot import prepare_snapshot as prepare_snapshot
    from dataplane.disks.snapshot import snapshot_disk as snapshot_disk
    from dataplane.formats.probe import open_source as open_source
    from dataplane.image_source import ImageSource as ImageSource
    from dataplane.ingest.accounting import Sizes as Sizes
    from dataplane.ingest.copying import prepare_copy as prepare_copy
    from dataplane.ingest.exporting import ExportResult as ExportResult
    from dataplane.ingest.exporting import export_image as export_image
    from dataplane.ingest.importing import ImportResult as ImportResult
    from dataplane.ingest.importing import PreparedImport as PreparedImport
    from dataplane.ingest.importing import import_image as import_image
    from dataplane.ingest.importing import prepare_import as prepare_import
    from dataplane.ingest.progress import Progress as Progress
    from dataplane.ingest.progress import ProgressSnapshot as ProgressSnapshot
    from dataplane.nbd.exports import BlockDevice as BlockDevice
    from dataplane.nbd.exports import Export as Export
    from dataplane.nbd.server import NbdServer as NbdServer
    from dataplane.nbd.watching import WatchedDevice as WatchedDevice
    from dataplane.store.statistics import ImageSizes as ImageSizes
    from dataplane.store.statistics import image_sizes as image_sizes
    from dataplane.store.store import Store as Store

__version__ = "0.1.0"

# Imported when first asked for: a verb pays for what it uses, and `dataplane --version` for nothing.
_HOMES = {
    "BlockDevice": "dataplane.nbd.exports",
    "Export": "dataplane.nbd.exports",
    "NbdServer": "dataplane.nbd.server",
    "WatchedDevice": "dataplane.nbd.watching",
    "BootTrace": "dataplane.disks.boot_trace",
    "load_trace": "dataplane.disks.boot_trace",
    "Pool": "dataplane.disks.pool",
    "build_pool": "dataplane.disks.pool",
    "open_pool": "dataplane.disks.pool",
    "ChunkCache": "dataplane.disks.chunk_cache",
    "ControlListener": "dataplane.disks.control",
    "Disk": "dataplane.disks.disk",
    "DiskStatus": "dataplane.disks.folder",
    "create_disk": "dataplane.disks.pinning",
    "create_overlay": "dataplane.disks.folder",
    "delete_disk": "dataplane.disks.pinning",
    "delete_overlay": "dataplane.disks.folder",
    "disk_status": "dataplane.disks.folder",
    "lock_disk": "dataplane.disks.folder",
    "open_disk": "dataplane.disks.disk",
    "PreparedSnapshot": "dataplane.disks.snapshot",
    "prepare_snapshot": "dataplane.disks.snapshot",
    "release_pins": "dataplane.disks.pinning",
    "resize_disk": "dataplane.disks.resizing",
    "snapshot_disk": "dataplane.disks.snapshot",
    "ExportResult": "dataplane.ingest.exporting",
    "ImageSizes": "dataplane.store.statistics",
    "ImageSource": "dataplane.image_source",
    "ImportResult": "dataplane.ingest.importing",
    "Measured": "dataplane.analysis.measuring",
    "Measurement": "dataplane.analysis.measuring",
    "PreparedImport": "dataplane.ingest.importing",
    "Progress": "dataplane.ingest.progress",
    "ProgressSnapshot": "dataplane.ingest.progress",
    "Sizes": "dataplane.ingest.accounting",
    "Store": "dataplane.store.store",
    "export_image": "dataplane.ingest.exporting",
    "image_sizes": "dataplane.store.statistics",
    "import_image": "dataplane.ingest.importing",
    "measure": "dataplane.analysis.measuring",
    "open_source": "dataplane.formats.probe",
    "prepare_copy": "dataplane.ingest.copying",
    "prepare_import": "dataplane.ingest.importing",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'dataplane' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
