"""Removes disk folders that a crash has left: those of deleted disks, and those that never became a disk."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from dataplane.errors import DataplaneError
from service.catalog import operation_rows
from service.catalog.database import Database
from service.catalog.resource_rows import DISKS
from service.disk_folders import DiskFolders
from service.log import get_logger
from service.model import OperationKind, Status

log = get_logger(__name__)


def sweep(database: Database, folders: DiskFolders) -> None:
    """Remove the folders that no disk has. Called when the server starts, before there are calls.

    A folder that the catalogue knows nothing of and that holds something stays: the catalogue may be an older one, from
    a backup.
    """
    for disk_id in folders.names():
        with database.read() as tx:
            if DISKS.get(tx, disk_id) is not None:
                continue
            newest = operation_rows.of_resource(tx, disk_id, after=None, limit=1)
        if (newest and newest[0].kind is OperationKind.DELETE_DISK) or folders.is_abandoned(disk_id):
            folders.remove(disk_id)
            log.info("disk folder left by a crash removed", resource_id=disk_id)
        else:
            log.warning("disk folder that no disk has is left alone", resource_id=disk_id)


def discard(database: Database, folders: DiskFolders, disk_id: str) -> None:
    """Remove the folder that was made for a disk unless the disk came to be after all.

    A commit that failed may have happened, when the database was lost meanwhile; in doubt the folder stays.
    """
    try:
        with database.read() as tx:
            came_to_be = DISKS.get(tx, disk_id)
        if came_to_be is None or came_to_be.status is Status.CREATING:
            folders.remove(disk_id)
    except (SQLAlchemyError, DataplaneError) as error:
        log.warning("disk folder left for the next start", resource_id=disk_id, reason=str(error))
