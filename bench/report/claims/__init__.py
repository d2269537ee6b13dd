"""The claims of the paper, the tests of each, and the ledger of verdicts."""
