"""The methods: a .py and a .toml each, registered here by one line."""

from bench.registry import add_method

add_method("hypergan", "bench.methods.hypergan:HyperGAN")
add_method("standard_ensemble", "bench.methods.standard_ensemble:StandardEnsemble")
