"""The paper's claims: statement, section of the paper, and the check that tests it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.report.claims import checks
from bench.report.claims.comparison import FAILS, HOLDS, UNDECIDED, Finding
from bench.report.claims.evidence import Rows
from bench.report.published import PROPOSED

OPEN = "open"  # nothing is expected: the committed rows do not measure it


@dataclass(frozen=True)
class Claim:
    """A claim: name, statement, section of the paper, test, and the verdict expected of `hypergan`, with why.

    check: the findings on rows for the HyperGAN of this name. device: the only one on which it is tested;
    empty: any. attacked: it depends on attacks, whose flags are listed in its evidence.
    """

    name: str
    statement: str
    section: str
    test: str
    check: Callable[[Rows, str], list[Finding]]
    expected: str
    reason: str
    device: str = ""
    attacked: bool = False

    def expects(self, judged: str) -> str:
        """The verdict expected of a HyperGAN: of the one as published none."""
        return self.expected if judged == PROPOSED else OPEN


# Expectations are what the rows in `results/` show at preset quick; after runs that change a verdict, set
# it here anew.
CLAIMS = (
    Claim(
        "rises-with-size",
        "Accuracy rises with ensemble size 1 < 5 < 10 < 100, on every training set",
        "4.2, Table 2",
        "accuracy of 1, 5, 10 and 100 networks on the five training sets",
        checks.rises,
        OPEN,
        "three of the five training sets have no committed rows; on mnist and cifar10 one seed leaves "
        "the steps undecided",
    ),
    Claim(
        "most-accurate",
        "HyperGAN's 100 networks beat APD, MNF and MC dropout at the same architecture, on every training "
        "set",
        "Table 2",
        "accuracy with 100 networks on the five training sets",
        checks.most_accurate,
        FAILS,
        "mnf is two points above it on cifar10",
    ),
    Claim(
        "single-networks",
        "Single generated networks need no fine-tuning: MNIST 98 % or better",
        "4.2, Table 1",
        "accuracy of single networks on mnist",
        checks.singles,
        HOLDS,
        "99.2 % on one seed, a point above the bound",
    ),
    Claim(
        "norms-vary-more",
        "HyperGAN's norms vary more (sd/mean) than standard training's and APD's, in every layer",
        "4.2, Table 1",
        "sd/mean of the weight norms on mnist, layer by layer",
        checks.norms_vary,
        UNDECIDED,
        "0.13 to 0.28 against 0.03 at most, but one seed only is shared with the others",
    ),
    Claim(
        "order-stays",
        "With 5,000 training examples the order of methods stays",
        "Table 2",
        "accuracy with 100 networks on mnist-5000 and cifar10-5000, in the order of mnist and cifar10",
        checks.order_stays,
        OPEN,
        "no committed rows with 5,000 examples",
    ),
    Claim(
        "toy-band",
        "Toy regression: the target function lies in the band; 100 networks widen the band where data are "
        "few, against 10",
        "4.3, Fig. 2",
        "band_coverage of 100 networks (95 % or more) and band_width of 10 and 100 on toy",
        checks.toy,
        UNDECIDED,
        "one seed, on which the band misses the target outside the data, and nothing tells how much "
        "seeds differ",
    ),
    Claim(
        "entropy-notmnist",
        "Entropy on notMNIST: HyperGAN's is above every baseline's",
        "4.4, Fig. 3",
        "quartiles of entropy_nats on notmnist, at the largest size that both have",
        checks.entropy_notmnist,
        FAILS,
        "at every quartile below the standard ensemble's, three seeds each; other baselines share one seed",
    ),
    Claim(
        "entropy-cifar",
        "Entropy on CIFAR-10's unseen classes: HyperGAN's is above every baseline's",
        "4.4, Fig. 4",
        "quartiles of entropy_nats on cifar5-open, at the largest size that both have",
        checks.entropy_cifar,
        OPEN,
        "no committed rows on the unseen classes",
    ),
    Claim(
        "standard-overconfident",
        "Standard ensembles are overconfident on outliers: lowest entropy of all",
        "4.4",
        "quartiles of entropy_nats on notmnist and cifar5-open, at the largest size that both have",
        checks.standard_overconfident,
        FAILS,
        "hypergan is below on notmnist, by more than 0.2 nats",
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
        FAILS,
        "the highest mean, over few fooling images, is a quarter of the maximum",
        attacked=True,
    ),
    Claim(
        "small-perturbations",
        "For large ensembles small perturbations (0.01) hardly succeed",
        "4.5, Fig. 5",
        "success_rate (variant same, fused) of fgsm and pgd at epsilon 0.01 with 100 networks or more: at "
        "most 5 %",
        checks.small_perturbations,
        HOLDS,
        "0.3 % on three seeds",
        attacked=True,
    ),
    Claim(
        "one-to-many",
        "Examples made against one network fool 50 to 70 % of the others",
        "A.5, Fig. 10",
        "fooled_share (variant one-to-many) of fgsm and pgd-stop, mean over epsilon",
        checks.one_to_many,
        UNDECIDED,
        "55 % and less, and three seeds leave the bounds within the interval",
        attacked=True,
    ),
    Claim(
        "fgsm-transfers",
        "FGSM transfers better than PGD",
        "A.5, Fig. 10",
        "fooled_share (variant one-to-many) of fgsm against pgd-stop, mean over epsilon",
        checks.fgsm_transfers,
        HOLDS,
        "60 % against 29 % on one seed, with intervals apart",
        attacked=True,
    ),
    Claim(
        "no-discriminator",
        "Without discriminator: same accuracy, less diversity",
        "5, Figs. 6, 7",
        "traces on cifar10: final accuracy of single networks (within a point), final sd/mean",
        checks.no_discriminator,
        OPEN,
        "no committed traces of the variant on cifar10",
    ),
    Claim(
        "no-mixer",
        "Without mixer: slow start, same final accuracy, much less diversity",
        "5, Figs. 6, 7",
        "traces: accuracy of single networks first and last (within a point), final sd/mean below half",
        checks.no_mixer,
        OPEN,
        "no committed traces of the variant on the paper's training sets",
    ),
    Claim(
        "no-both",
        "Without both: norms hardly vary",
        "A.4, Tables 5, 6",
        "sd/mean of the weight norms on mnist and cifar10 below the whole method's, layer by layer",
        checks.norms_without_both,
        OPEN,
        "no committed rows of the variant on mnist and cifar10",
    ),
    Claim(
        "diversity-falls",
        "Diversity falls during training",
        "5, Fig. 7",
        "traces: sd/mean of the weight norms, mean over layers, last against first",
        checks.diversity_falls,
        UNDECIDED,
        "on cifar10 it falls, on mnist 100 networks of one seed do not tell first from last",
    ),
    Claim(
        "gpu-memory",
        "Less than 1.5 GB (MNIST) and 4 GB (CIFAR-10) of GPU memory",
        "4.1",
        "peak_memory_bytes on a GPU, of whole runs",
        checks.gpu_memory,
        OPEN,
        "no committed rows of a GPU",
        device="cuda",
    ),
)
