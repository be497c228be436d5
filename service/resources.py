"""Use cases that images, disks and snapshots share: each is one transaction over catalogue and, for content, ledger."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from dataplane.errors import AlreadyExists, NotFound
from service.auth import Caller, Verb
from service.catalog import binding_rows, operation_rows
from service.catalog.database import Database
from service.contents import Contents
from service.faults import FailedPrecondition, shown
from service.holding import DiskHolder, NoHolder
from service.kinds import DISK, Kind
from service.listing import PAGE_SIZE_DEFAULT, Listing
from service.model import Content, Operation, OperationKind, Resource, S, Status, new_id, now_us
from service.operations.beginning import new_operation
from service.operations.once import Changes
from service.origin import Origin
from service.quotas import Quotas
from service.sealing import Sealer
from service.visibility import find, named, require_folder


class Resources(Generic[S]):
    """What can be done with resources of one kind, for callers whose requests have been checked."""

    def __init__(
        self,
        kind: Kind[S],
        database: Database,
        sealer: Sealer,
        contents: Contents,
        quotas: Quotas | None = None,
        holder: DiskHolder | None = None,
    ) -> None:
        self._kind = kind
        self._database = database
        self._sealer = sealer
        self._contents = contents
        self._quotas = quotas or Quotas()
        self._holder = holder or NoHolder()
        self._changes = Changes(database, sealer)

    def get(self, resource_id: str, caller: Caller) -> Resource[S]:
        """Return what has this id. Raises NotFound or PermissionDenied."""
        resource = self._kind.rows.look_up(self._database.lookup, resource_id)
        if resource is not None and caller.may(resource.spec.folder_id, self._kind.actions[Verb.GET]):
            return resource
        with self._database.read() as tx:  # it may be shared; and whoever may not see it is told so in `find`
            return find(tx, self._kind, resource_id, caller, Verb.GET)

    def list(
        self, folder_id: str, caller: Caller, *, page_size: int, page_token: str, filter_text: str, order_by: str
    ) -> tuple[Sequence[Resource[S]], str]:
        """Return one page of what a folder has, and the token of the next page, empty at the end.

        The token holds the place of the last one seen, so that others created or deleted meanwhile shift nothing.
        Raises InvalidRequest for a token, filter or order that is not understood, NotFound or PermissionDenied.
        """
        require_folder(folder_id, caller, self._kind.actions[Verb.LIST])
        listing = Listing(self._kind.fields, folder_id, filter_text=filter_text, order_by=order_by)
        limit = page_size or PAGE_SIZE_DEFAULT
        with self._database.read() as tx:
            rows = self._kind.rows.page(
                tx,
                folder_id=folder_id,
                where=listing.where,
                order=listing.order,
                descending=listing.descending,
                after=listing.after(page_token),
                limit=limit + 1,
            )
        found = [resource for resource, _ in rows[:limit]]
        return found, listing.token(found[-1].id, rows[limit - 1][1]) if len(rows) > limit else ""

    def update(self, resource_id: str, values: Mapping[str, Any], paths: Collection[str], origin: Origin) -> Operation:
        """Give the fields `paths` of a resource these values; none means all that can be updated. Done at once.

        Raises AlreadyExists, NotFound, PermissionDenied, FailedPrecondition while the resource is being created, and
        InvalidRequest or QuotaExceeded for values that this one cannot have.
        """
        chosen = {name: values[name] for name in paths or self._kind.updatable}
        folder: list[str] = []

        def work(tx: Connection) -> Operation:
            resource = found_ready(tx, self._kind, resource_id, origin, Verb.UPDATE)
            folder[:] = [resource.spec.folder_id]
            new = self._checked(tx, resource, chosen)
            changed = self._kind.rows.update(tx, resource_id, new) if new else resource
            if changed is None:
                raise NotFound(f"{named(self._kind, resource_id)} is not there")
            response = self._kind.message(changed).SerializeToString()
            return self._ended(tx, self._kind.update, resource, origin, response)

        return self._unless_taken(str(chosen.get("name", "")), folder, lambda: self._changes.run(origin, work))

    def delete(self, resource_id: str, origin: Origin) -> Operation:
        """Remove a resource and let go of its content in one transaction; the operation returned is done.

        Raises NotFound, PermissionDenied; FailedPrecondition while the resource is being created, or is in use.
        """

        def work(tx: Connection) -> Operation:
            resource = found_ready(tx, self._kind, resource_id, origin, Verb.DELETE)
            self._require_unused(tx, resource)
            self._let_go(tx, resource)
            binding_rows.remove_all(tx, resource_id)
            if not self._kind.rows.delete(tx, resource_id, status=resource.status):
                raise NotFound(f"{named(self._kind, resource_id)} is not there")
            return self._ended(tx, self._kind.delete, resource, origin, b"")

        return self._changes.run(origin, work)

    def _checked(self, tx: Connection, resource: Resource[S], values: dict[str, Any]) -> dict[str, Any]:
        """Return new values of columns as they are kept. Raises what they cannot be."""
        return values

    def _require_unused(self, tx: Connection, resource: Resource[S]) -> None:
        """Return when the resource can go. Raises FailedPrecondition."""

    def _let_go(self, tx: Connection, resource: Resource[S]) -> None:
        """Let go of the content of a resource that is going away."""
        self._contents.let_go(tx, resource.id)

    def _create(self, spec: S, origin: Origin, work: Callable[[Connection], Operation]) -> Operation:
        """Run the creation `work` for a caller who may create in the folder; say so when the name is taken."""
        require_folder(spec.folder_id, origin.caller, self._kind.actions[Verb.CREATE])
        return self._unless_taken(spec.name, [spec.folder_id], lambda: self._changes.run(origin, work))

    def _begin_creation(
        self,
        tx: Connection,
        spec: S,
        origin: Origin,
        *,
        source: bytes | None = None,
        held_pin: str | None = None,
        disk_id: str | None = None,
        folder_bytes_max: int | None = None,
    ) -> Operation:
        """Add a resource that is being created, and the operation that waits for a worker to create it."""
        resource = self._added(tx, self._new_id(), spec, Status.CREATING, None)
        operation = new_operation(
            self._kind.create,
            resource_id=resource.id,
            folder_id=spec.folder_id,
            origin=origin,
            source=source,
            held_pin=held_pin,
            disk_id=disk_id,
            folder_bytes_max=folder_bytes_max,
        )
        operation_rows.insert(tx, operation)
        return operation

    def _create_at_once(
        self, tx: Connection, spec: S, origin: Origin, source: Resource[Any] | None, *, resource_id: str = ""
    ) -> Operation:
        """Add a resource that is READY with the content of `source`, or empty without one; return its operation."""
        content = source.content if source is not None else None
        resource = self._added(tx, resource_id or self._new_id(), spec, Status.READY, content)
        if source is not None:
            self._contents.keep_also(tx, source.id, also=resource.id)
        response = self._kind.message(resource).SerializeToString()
        return self._ended(tx, self._kind.create, resource, origin, response)

    def _hold_disk(self, disk_id: str, origin: Origin) -> None:
        """Have a disk open in this process before an operation begins to take its content, if the caller may see it."""
        disk = DISK.rows.look_up(self._database.lookup, disk_id)
        if disk is not None and origin.caller.may(disk.spec.folder_id, DISK.actions[Verb.GET]):
            self._holder.hold(disk_id)

    def _held(self, tx: Connection, source_id: str) -> str:
        """Pin the content of a source under a name of its own, until it is copied; return that name."""
        held_pin = new_id("copy")
        self._contents.keep_also(tx, source_id, also=held_pin)
        return held_pin

    def _new_id(self) -> str:
        return new_id(self._kind.id_prefix)

    def _added(self, tx: Connection, resource_id: str, spec: S, status: Status, content: Content | None) -> Resource[S]:
        resource = Resource(id=resource_id, spec=spec, status=status, created_at_us=now_us(), content=content)
        self._kind.rows.insert(tx, resource)
        return resource

    def _ended(
        self, tx: Connection, kind: OperationKind, resource: Resource[S], origin: Origin, response: bytes
    ) -> Operation:
        operation = new_operation(
            kind, resource_id=resource.id, folder_id=resource.spec.folder_id, origin=origin, response=response
        )
        operation_rows.insert(tx, operation)
        return operation

    def _unless_taken(self, name: str, folder: Sequence[str], run: Callable[[], Operation]) -> Operation:
        """Return what `run` returns, and say so when it fails because the name is taken."""
        try:
            return run()
        except IntegrityError as error:
            with self._database.read() as tx:
                taken = bool(name and folder) and self._kind.rows.name_taken(tx, folder_id=folder[0], name=name)
            if not taken:
                raise
            where = f"in folder {shown(folder[0])}"
            raise AlreadyExists(f"{self._kind.word} name {shown(name)} is taken {where}: choose another") from error


def found_ready(
    tx: Connection, kind: Kind[S], resource_id: str, origin: Origin, verb: Verb, *, lock: bool = True
) -> Resource[S]:
    """Return what the caller may do this to. Raises FailedPrecondition while it is being created."""
    resource = find(tx, kind, resource_id, origin.caller, verb, lock=lock)
    if resource.status is Status.CREATING:
        creating = operation_rows.creating(tx, resource_id)
        cancel = f": wait for operation {creating.id}, or cancel it" if creating is not None else ""
        message = f"{named(kind, resource_id)} is being created{cancel}"
        raise FailedPrecondition(message, subject=f"{kind.word}:{resource_id}")
    return resource


def require_disk_idle(tx: Connection, disk_id: str) -> None:
    """Return when no operation is taking the disk's content. Raises FailedPrecondition."""
    reading = operation_rows.reading_disk(tx, disk_id)
    if reading is not None:
        message = f"operation {reading.id} takes the content of disk {shown(disk_id)}: wait for it, or cancel it"
        raise FailedPrecondition(message, subject=f"disk:{disk_id}")
