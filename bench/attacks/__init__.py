"""Adversarial examples: attacks, criteria of success, and the smallest epsilon that succeeds."""
