"""What an attack is called in front of readers, and how strong its word is. The full repr stays its identity."""

import ast
from collections import Counter
from collections.abc import Iterable, Sequence

from satbench.eps import format_eps
from satbench.results.metrics import WORST

Strength = tuple[int, int]  # tier, then gradient steps in all restarts
TIERS = ("attack from another model", "another attack", "PGD", "part of AutoAttack", "rapid", "AutoAttack")
TRANSFER, OTHER, PGD, PART, RAPID, AUTOATTACK = range(len(TIERS))

SEARCHED = {"Bf16": "bf16", "Surrogate": "surrogate"}  # attacks around another that only search in another way
BLACK_BOX = "square"  # alone it bounds less than PGD does, though AutoAttack has it
SAT: dict[str, object] = {"step_size": "sat", "loss": "ce", "init": "uniform-unclipped", "restarts": 1, "keep": "last"}


def parse_repr(attack: str) -> tuple[str, dict[str, object]]:
    """Class name and parameters of an attack's repr; text that is no such call is its own name, without parameters.

    A parameter that is an attack itself stays a repr.
    """
    try:
        call = ast.parse(attack, mode="eval").body
    except (SyntaxError, ValueError):
        return attack, {}
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        return attack, {}
    return call.func.id, {keyword.arg: _value(keyword.value) for keyword in call.keywords if keyword.arg}


def short_name(attack: str) -> str:
    """`PGD-50`, `PGD-50x5` with five restarts, `FGSM`, `AutoAttack standard`; else class, steps and restarts.

    An attack around another is named by it: `PGD-50 from LABEL`, `PGD-50, bf16 search`.
    """
    name, params = parse_repr(attack)
    own, inner = (str(params[key]) if key in params else "" for key in ("name", "attack"))
    if name == "Transfer" and inner:
        source = str(params.get("source"))
        return f"{short_name(inner)} from {source.rpartition('@')[0] or source}"
    if name in SEARCHED and inner:
        return f"{short_name(inner)}, {SEARCHED[name]} search"
    if name == "AutoAttack":
        return " ".join([name, *(str(params[key]) for key in ("version", "components") if params.get(key))])
    if name == "AutoAttackComponent":
        return own.capitalize() if own == "square" else own.upper()
    if name in ("Foolbox", "Adaptive"):
        return f"{name.lower()} {own or inner}"
    steps, restarts = _count(params, "steps"), _count(params, "restarts")
    if name == "PGD" and steps == 1 and params.get("init") == "zero":
        return "FGSM"
    if name == "PGD" and all(params.get(key) == value for key, value in SAT.items()):
        name = "SAT PGD"
    return name + (f"-{steps}" if steps else "") + (f"x{restarts}" if restarts > 1 else "")


def short_names(attacks: Iterable[str]) -> dict[str, str]:
    """A distinct name for each repr: attacks of one short name also show the parameters in which they differ."""
    reprs = sorted(set(attacks))
    shorts = {attack: short_name(attack) for attack in reprs}
    for short in sorted({name for name in shorts.values() if list(shorts.values()).count(name) > 1}):
        same_name = [attack for attack in reprs if shorts[attack] == short]
        params = {attack: _all_params(attack) for attack in same_name}
        known = dict.fromkeys(key for attack in same_name for key in params[attack])
        keys = [key for key in known if len({repr(params[attack].get(key)) for attack in same_name}) > 1]
        for attack in same_name:
            shown = [f"{key}={params[attack][key]}" for key in keys if key in params[attack]]
            shorts[attack] = f"{short} ({', '.join(shown)})" if shown else short
    counts = Counter(shorts.values())
    return {attack: short if counts[short] == 1 else attack for attack, short in shorts.items()}


def display_name(attack: str, members: Sequence[str], shorts: dict[str, str]) -> str:
    """The name in a table; the worst case says which attacks it joins."""
    if attack != WORST:
        return shorts[attack]
    return f"{WORST} of {', '.join(sorted(shorts[member] for member in members))}"


def threat_name(norm: str, eps: float) -> str:
    """A threat as people write it: `Linf 8/255`."""
    return f"{norm} {format_eps(eps)}"


def strength(members: Iterable[str]) -> Strength:
    """How strong the strongest of these attacks is; orders evaluations, not models."""
    return max((_strength(member) for member in members), default=(TRANSFER, 0))


def _strength(attack: str) -> Strength:
    name, params = parse_repr(attack)
    if name == "Bf16" and "attack" in params:
        return _strength(str(params["attack"]))
    steps = _count(params, "steps") * max(1, _count(params, "restarts"))
    whole = params.get("version") in ("standard", "plus")
    part = OTHER if BLACK_BOX in (params.get("name"), params.get("components")) else PART
    tiers = {
        "Transfer": TRANSFER,
        "PGD": PGD if _count(params, "steps") > 1 else OTHER,
        "AutoAttackComponent": part,
        "Rapid": RAPID,
        "AutoAttack": AUTOATTACK if whole else part,
        "Cascade": AUTOATTACK,
    }
    return tiers.get(name, OTHER), steps


def _all_params(attack: str) -> dict[str, object]:
    """The parameters of an attack, and of the one it is built around."""
    name, params = parse_repr(attack)
    return {**_all_params(str(params.pop("attack", ""))), **params} if name in ("Transfer", *SEARCHED) else params


def _value(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _count(params: dict[str, object], key: str) -> int:
    value = params.get(key)
    return value if isinstance(value, int) else 0
