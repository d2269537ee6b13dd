"""Adversarial examples: how images are attacked, who is fooled, and by how small a change."""
