"""The claims of the paper: what it says, how each is tested, and the ledger of verdicts."""
