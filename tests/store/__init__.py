"""The store: its bytes, its opening, its ledger."""
