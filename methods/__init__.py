"""The methods: a .py and a .toml each, registered here by one line."""

from bench.registry import add_method

add_method("hypergan", "bench.methods.hypergan:HyperGAN")
add_method("standard_ensemble", "bench.methods.standard_ensemble:StandardEnsemble")
add_method("deep_ensemble", "bench.methods.deep_ensemble:DeepEnsemble")
add_method("apd", "bench.methods.apd:APD")
add_method("mc_dropout", "bench.methods.mc_dropout:MCDropout")
add_method("mnf", "bench.methods.mnf:MNF")
add_method("bayes_by_hypernet", "bench.methods.bayes_by_hypernet:BayesByHypernet")
add_method("bayesian_hypernetwork", "bench.methods.bayesian_hypernetwork:BayesianHypernetwork")
