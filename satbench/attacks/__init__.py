"""Attacks, by name or as objects."""

from satbench.attacks.base import Attack
from satbench.attacks.gradient import PGD, fgsm
from satbench.attacks.table import attack_parameters, build_attack, is_own
from satbench.core.tables import ATTACKS
from satbench.specs.names import parse_attack

__all__ = ["ATTACKS", "PGD", "Attack", "attack_parameters", "build_attack", "fgsm", "is_own", "parse_attack"]
