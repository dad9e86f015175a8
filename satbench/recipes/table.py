"""Named training runs as functions that return a config, and config files in their place."""

from collections.abc import Callable
from pathlib import Path

from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.core.lookup import find
from satbench.recipes import cifar10, cifar10_jpeg, cifar10_labels, digits, digits_labels, imagenet
from satbench.recipes.file import SUFFIXES, read_recipe
from satbench.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "digits-sat": digits.digits_sat,
    "digits-sat-single-step": digits.digits_sat_single_step,
    "digits-standard": digits.digits_standard,
    "digits-quick": digits.digits_quick,
    "digits-pgd-at": digits.digits_pgd_at,
    "digits-trades": digits.digits_trades,
    "digits-mart": digits.digits_mart,
    "digits-awp": digits.digits_awp,
    "digits-fgsm-rs": digits.digits_fgsm_rs,
    "digits-n-fgsm": digits.digits_n_fgsm,
    "digits-gradalign": digits.digits_gradalign,
    "digits-free": digits.digits_free,
    "digits-sglr": digits_labels.digits_sglr,
    "digits-sglr-trades": digits_labels.digits_sglr_trades,
    "digits-self-adaptive": digits_labels.digits_self_adaptive,
    "digits-te": digits_labels.digits_te,
    "digits-te-trades": digits_labels.digits_te_trades,
    "digits-adr": digits_labels.digits_adr,
    "digits-adr-trades": digits_labels.digits_adr_trades,
    "digits-ema": digits.digits_ema,
    "digits-swa": digits.digits_swa,
    "digits-bag-of-tricks": digits.digits_bag_of_tricks,
    "digits-moat": digits.digits_moat,
    "digits-aft": digits.digits_aft,
    "digits-simclr": digits.digits_simclr,
    "digits-ssl-at": digits.digits_ssl_at,
    "digits-collapse": digits.digits_collapse,
    "digits-surrogate-none": digits.digits_surrogate_none,
    "digits-surrogate-attacker": digits.digits_surrogate_attacker,
    "digits-surrogate-optimizer": digits.digits_surrogate_optimizer,
    "digits-surrogate-both": digits.digits_surrogate_both,
    "cifar10-standard": cifar10.cifar10_standard,
    "cifar10-pgd-at": cifar10.cifar10_pgd_at,
    "cifar10-sat": cifar10.cifar10_sat,
    "cifar10-sat-single-step": cifar10.cifar10_sat_single_step,
    "cifar10-bag-of-tricks": cifar10.cifar10_bag_of_tricks,
    "cifar10-trades": cifar10.cifar10_trades,
    "cifar10-mart": cifar10.cifar10_mart,
    "cifar10-awp": cifar10.cifar10_awp,
    "cifar10-trades-awp": cifar10.cifar10_trades_awp,
    "cifar10-fgsm-rs": cifar10.cifar10_fgsm_rs,
    "cifar10-free": cifar10.cifar10_free,
    "cifar10-n-fgsm": cifar10.cifar10_n_fgsm,
    "cifar10-gradalign": cifar10.cifar10_gradalign,
    "cifar10-sglr": cifar10_labels.cifar10_sglr,
    "cifar10-sglr-trades": cifar10_labels.cifar10_sglr_trades,
    "cifar10-self-adaptive": cifar10_labels.cifar10_self_adaptive,
    "cifar10-te": cifar10_labels.cifar10_te,
    "cifar10-te-trades": cifar10_labels.cifar10_te_trades,
    "cifar10-adr": cifar10_labels.cifar10_adr,
    "cifar10-adr-trades": cifar10_labels.cifar10_adr_trades,
    "cifar10-adr-awp": cifar10_labels.cifar10_adr_awp,
    "cifar10-ssl-at": cifar10.cifar10_ssl_at,
    "cifar10-ema": cifar10.cifar10_ema,
    "cifar10-swa": cifar10.cifar10_swa,
    "cifar10-jpeg-sat-small": cifar10_jpeg.cifar10_jpeg_sat_small,
    "imagenet-sat-resnet50": imagenet.imagenet_sat_resnet50,
    "imagenet-relu-resnet50": imagenet.imagenet_relu_resnet50,
}


def recipe(name: str | Path) -> TrainConfig:
    """The config of a named recipe, of one of the user's own, or the one in a .json, .yaml or .yml file.

    One of the user's own is `package.module:callable` with parameters. Raises `BadInput` for any other name.
    """
    reference, tail = plugins.spelled(str(name))
    if plugins.is_reference(reference) and not Path(name).exists():
        with plugins.own("recipe", reference) as build:
            found = build(**plugins.arguments(build, tail, f"recipe {name!r}"))
        if not isinstance(found, TrainConfig):
            wanted = plugins.SOCKETS["recipe"].wanted
            raise BadInput(f"recipe {name} returned a {type(found).__name__}; {wanted}")
        return named(found)
    if name not in RECIPES and Path(name).suffix in SUFFIXES:
        return named(read_recipe(Path(name)))
    if Path(name).is_dir():
        raise BadInput(f"{name} is a folder; give its {Path(name, 'config.json')} to train by the same settings")
    return find(RECIPES, str(name), "recipe")()


def named(config: TrainConfig) -> TrainConfig:
    """The config under the name of its recipe, with all settings in brackets in which it differs from that.

    Equal trainings so have equal names, however they were written. A name that is no recipe's stays.
    """
    start = RECIPES.get(config.recipe.partition(" [")[0])
    return config if start is None else config.named_after(start())
