"""Attacks, by name or as objects."""

from satbench.attacks.base import Attack
from satbench.attacks.gradient import PGD, fgsm
from satbench.attacks.table import ATTACKS, attack_parameters, build_attack, is_own, parse_attack

__all__ = ["ATTACKS", "PGD", "Attack", "attack_parameters", "build_attack", "fgsm", "is_own", "parse_attack"]
