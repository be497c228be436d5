"""The content-addressed store: packs, runs, manifests and the ledger that names what is live."""
