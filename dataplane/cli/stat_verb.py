"""dataplane stat: show the sizes of an image, or of a store."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane.cli.verb_parser import VerbParser
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.store.store import Store


def add_arguments(parser: VerbParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("store", metavar="STORE", help="the store's folder")
    parser.add_argument("name", metavar="NAME", nargs="?", help="an image; without it the whole store is shown")
    parser.add_argument("--matrix", action="store_true", help="show how much every two images share")
    parser.add_argument("--json", action="store_true", help="print the sizes as JSON")


def run(args: SimpleNamespace) -> int:
    """Print the sizes."""
    from dataplane.cli.output import print_fields, print_json
    from dataplane.errors import UsageError
    from dataplane.store.store import Store

    if args.matrix and args.name is not None:
        raise UsageError("--matrix is about all images of a store: leave NAME out")
    with Store.open(args.store) as store:
        if args.matrix:
            return show_matrix(store, as_json=args.json)
        fields = store_fields(store) if args.name is None else image_fields(store, args.name)
    if args.json:
        print_json(fields)
    else:
        print_fields({name: value for name, value in fields.items() if not isinstance(value, list)})
    return 0


def show_matrix(store: Store, *, as_json: bool) -> int:
    """Print the stored bytes that every two images share, and which share of the row's image that is."""
    from dataplane.analysis.sharing import sharing
    from dataplane.cli.output import print_json, print_table
    from dataplane.cli.sizes import human_size

    found = sharing(store)
    shared, containment = found.shared.tolist(), found.containment().round(4).tolist()
    if as_json:
        print_json({"images": list(found.names), "shared_size": shared, "containment": containment})
        return 0
    rows = [
        [name, *(f"{human_size(size)} {share:.0%}" for size, share in zip(shared[row], containment[row], strict=True))]
        for row, name in enumerate(found.names)
    ]
    print_table(["shared, of the row's image", *found.names], rows)
    return 0


def image_fields(store: Store, name: str) -> dict[str, object]:
    """Return the sizes of one image."""
    from dataplane.store.statistics import image_sizes

    pin = store.pin(name)
    shares = image_sizes(store, name)
    return {
        "name": pin.name,
        "root": pin.root.hex(),
        "format": pin.format,
        "virtual_size": pin.virtual_size,
        "data_size": pin.data_size,
        "storage_size": pin.storage_size,
        "unique_size": shares.unique_size,
        "shared_size": shares.shared_size,
        "allocated_size": pin.allocated_size,
        "chunk_size": store.chunk_size,
        "codec": str(store.codec),
        "chunks": pin.chunks,
        "distinct_chunks": pin.distinct_chunks,
    }


def store_fields(store: Store) -> dict[str, object]:
    """Return the sizes of the whole store."""
    from dataplane.store.statistics import store_sizes

    sizes = store_sizes(store)
    return {
        "path": str(store.path),
        "images": sizes.images,
        "virtual_size": sizes.virtual_size,
        "data_size": sizes.data_size,
        "storage_size": sizes.live_size,
        "unique_size": sizes.unique_size,
        "shared_size": sizes.live_size - sizes.unique_size,
        "physical_size": sizes.physical_size,
        "dedup_ratio": round(sizes.data_size / sizes.live_size, 3) if sizes.live_size else None,
        "chunk_size": store.chunk_size,
        "codec": str(store.codec),
        "distinct_chunks": sizes.live_chunks,
        "packs": sizes.packs,
        **unfinished_fields(store),
        **({"damaged_images": sizes.damaged_images} if sizes.damaged_images else {}),
    }


def unfinished_fields(store: Store) -> dict[str, object]:
    """Return what imports that did not finish keep, nothing when there are none.

    `unfinished_size` is in stored bytes, what images use too included, and counts for each what several keep. From
    `expires_at` on a collection with the usual period forgets an import; one that is at work has none.
    """
    from dataplane.cli.output import utc
    from dataplane.store.checkpoints import checkpoints

    found = checkpoints(store.ledger)
    if not found:
        return {}
    from dataplane.store.workspace import is_abandoned
    from dataplane.upkeep.gc import CHECKPOINT_S

    imports: list[dict[str, object]] = []
    for one in found:
        at_work = not is_abandoned(store.layout.temporary / one.lease)
        imports.append(
            {
                "owner": one.owner,
                "position": one.position,
                "storage_size": one.storage_size,
                "saved_at": utc(one.saved_at / 1e6),
                "at_work": at_work,
                "expires_at": None if at_work else utc(one.saved_at / 1e6 + CHECKPOINT_S),
            }
        )
    return {
        "unfinished_imports": len(found),
        "unfinished_size": sum(one.storage_size or 0 for one in found),
        "unfinished_expire_at": max((str(one["expires_at"]) for one in imports if one["expires_at"]), default=None),
        "unfinished": imports,
    }
