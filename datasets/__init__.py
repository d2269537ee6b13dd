"""Registers the suite's tasks and data sources by name; their modules are imported on use."""

from bench.registry import add_source, add_task

add_task("digits", "bench.datasets.digits:digits", "1,797 handwritten digits, OOD: letters; no download")
add_task(
    "digits-open", "bench.datasets.digits:digits_open", "digits 0-4 in 3x32x32, OOD: digits 5-9; no download"
)
add_task(
    "digits-shift", "bench.datasets.digits:digits_shift", "trained as digits; corrupted images; no download"
)
add_task("mnist", "bench.datasets.mnist:mnist", "MNIST, 55,000 training images")
add_task("mnist-5000", "bench.datasets.mnist:mnist_5000", "MNIST, a fixed subset of 5,000 training images")
add_task("notmnist", "bench.datasets.notmnist:notmnist", "trained on MNIST, OOD: 10,000 letters of notMNIST")
add_task("mnist-attack", "bench.datasets.mnist:mnist_attack", "trained on MNIST; attacks on ensembles")
add_task("mnist-shift", "bench.datasets.mnist:mnist_shift", "trained on MNIST; corrupted test images")
add_task(
    "mnist-val",
    "bench.datasets.mnist:mnist_val",
    "MNIST's validation images; OOD: halves of two joined",
)
add_task("cifar10", "bench.datasets.cifar:cifar10", "CIFAR-10, 45,000 training images")
add_task(
    "cifar10-5000", "bench.datasets.cifar:cifar10_5000", "CIFAR-10, a fixed subset of 5,000 training images"
)
add_task("cifar5", "bench.datasets.cifar:cifar5", "CIFAR-10's first 5 classes, 22,500 training images")
add_task(
    "cifar5-open", "bench.datasets.cifar:cifar5_open", "trained as cifar5, OOD: CIFAR-10's other 5 classes"
)
add_task("cifar10-shift", "bench.datasets.cifar:cifar10_shift", "trained as cifar10; corrupted test images")
add_task("toy", "bench.datasets.toy:toy", "regression: x^3 with noise, 20 points; no download")

add_source("mnist", "bench.datasets.mnist:source", "MNIST: 4 files, 11.6 MB to download")
add_source("notmnist", "bench.datasets.notmnist:source", "notMNIST: letters A-J, 8.5 MB to download")
add_source("cifar10", "bench.datasets.cifar:source", "CIFAR-10: 7 files, 170.5 MB to download")
