"""The paper's claims: statement, section of the paper, and the check that tests it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.report.claims import checks
from bench.report.claims.evidence import Finding, Rows
from bench.report.published import PROPOSED

HOLDS, FAILS, UNKNOWN, OPEN = "holds", "does not hold", "not measured", "open"


@dataclass(frozen=True)
class Claim:
    """A claim: name, statement, section of the paper, test, and the verdict expected of `hypergan`.

    check: the findings on rows for the HyperGAN of this name. device: the only one on which it is tested;
    empty: any. attacked: it depends on attacks, whose flags are listed in its evidence.
    """

    name: str
    statement: str
    section: str
    test: str
    check: Callable[[Rows, str], list[Finding]]
    expected: str = OPEN
    device: str = ""
    attacked: bool = False

    def expects(self, judged: str) -> str:
        """The verdict expected of a HyperGAN: of the one as published none."""
        return self.expected if judged == PROPOSED else OPEN


CLAIMS = (
    Claim(
        "rises-with-size",
        "Accuracy rises with ensemble size 1 < 5 < 10 < 100, on every training set",
        "4.2, Table 2",
        "accuracy of 1, 5, 10 and 100 networks on the five training sets",
        checks.rises,
    ),
    Claim(
        "most-accurate",
        "HyperGAN's 100 networks beat APD, MNF and MC dropout at the same architecture, on every training "
        "set",
        "Table 2",
        "accuracy with 100 networks on the five training sets",
        checks.most_accurate,
    ),
    # Trial runs of a few minutes on two CPU cores reached 98.6 %.
    Claim(
        "single-networks",
        "Single generated networks need no fine-tuning: MNIST 98 % or better",
        "4.2, Table 1",
        "accuracy of single networks on mnist",
        checks.singles,
        HOLDS,
    ),
    # HyperGAN's sd/mean was about 0.1 or more in all trial runs; networks trained from the same
    # initialisation have nearly equal norms, however different they are.
    Claim(
        "norms-vary-more",
        "HyperGAN's norms vary more (sd/mean) than standard training's and APD's, in every layer",
        "4.2, Table 1",
        "sd/mean of the weight norms on mnist, layer by layer",
        checks.norms_vary,
        HOLDS,
    ),
    Claim(
        "order-stays",
        "With 5,000 training examples the order of methods stays",
        "Table 2",
        "accuracy with 100 networks on mnist-5000 and cifar10-5000, in the order of mnist and cifar10",
        checks.order_stays,
    ),
    Claim(
        "toy-band",
        "Toy regression: the target function lies in the band; 100 networks widen the band where data are "
        "few, against 10",
        "4.3, Fig. 2",
        "band_coverage of 100 networks (95 % or more) and band_width of 10 and 100 on toy",
        checks.toy,
    ),
    Claim(
        "entropy-notmnist",
        "Entropy on notMNIST: HyperGAN's is above every baseline's",
        "4.4, Fig. 3",
        "quartiles of entropy_nats on notmnist, at the largest size that both have",
        checks.entropy_notmnist,
    ),
    Claim(
        "entropy-cifar",
        "Entropy on CIFAR-10's unseen classes: HyperGAN's is above every baseline's",
        "4.4, Fig. 4",
        "quartiles of entropy_nats on cifar5-open, at the largest size that both have",
        checks.entropy_cifar,
    ),
    Claim(
        "standard-overconfident",
        "Standard ensembles are overconfident on outliers: lowest entropy of all",
        "4.4",
        "quartiles of entropy_nats on notmnist and cifar5-open, at the largest size that both have",
        checks.standard_overconfident,
    ),
    Claim(
        "adversarial-entropy",
        "On FGSM and PGD examples HyperGAN's entropy approaches the maximum, above standard ensembles of "
        "equal size, though its whole ensemble was attacked",
        "4.5, Fig. 5",
        "entropy_nats on fooling images (variant fresh) of fgsm and pgd-stop: 90 % of ln 10 at some epsilon, "
        "and the mean over epsilon against standard_ensemble; detected_share (variant adaptive) of worst "
        "against its",
        checks.adversarial_entropy,
        attacked=True,
    ),
    # On handwritten digits the smallest epsilon that fools an ensemble is ten times larger.
    Claim(
        "small-perturbations",
        "For large ensembles small perturbations (0.01) hardly succeed",
        "4.5, Fig. 5",
        "success_rate (variant same, fused) of fgsm and pgd at epsilon 0.01 with 100 networks or more: at "
        "most 5 %",
        checks.small_perturbations,
        HOLDS,
        attacked=True,
    ),
    Claim(
        "one-to-many",
        "Examples made against one network fool 50 to 70 % of the others",
        "A.5, Fig. 10",
        "fooled_share (variant one-to-many) of fgsm and pgd-stop, mean over epsilon",
        checks.one_to_many,
        attacked=True,
    ),
    Claim(
        "fgsm-transfers",
        "FGSM transfers better than PGD",
        "A.5, Fig. 10",
        "fooled_share (variant one-to-many) of fgsm against pgd-stop, mean over epsilon",
        checks.fgsm_transfers,
        attacked=True,
    ),
    Claim(
        "no-discriminator",
        "Without discriminator: same accuracy, less diversity",
        "5, Figs. 6, 7",
        "traces on cifar10: final accuracy of single networks (within a point), final sd/mean",
        checks.no_discriminator,
    ),
    Claim(
        "no-mixer",
        "Without mixer: slow start, same final accuracy, much less diversity",
        "5, Figs. 6, 7",
        "traces: accuracy of single networks first and last (within a point), final sd/mean below half",
        checks.no_mixer,
    ),
    Claim(
        "no-both",
        "Without both: norms hardly vary",
        "A.4, Tables 5, 6",
        "sd/mean of the weight norms on mnist and cifar10 below the whole method's, layer by layer",
        checks.norms_without_both,
    ),
    Claim(
        "diversity-falls",
        "Diversity falls during training",
        "5, Fig. 7",
        "traces: sd/mean of the weight norms, mean over layers, last against first",
        checks.diversity_falls,
    ),
    Claim(
        "gpu-memory",
        "Less than 1.5 GB (MNIST) and 4 GB (CIFAR-10) of GPU memory",
        "4.1",
        "peak_memory_bytes on a GPU, of whole runs",
        checks.gpu_memory,
        device="cuda",
    ),
)
