"""What an attack is called in front of readers, and how strong its word is. The full repr stays its identity."""

import ast
from collections import Counter
from collections.abc import Iterable, Sequence

from satbench.eps import format_eps
from satbench.results.metrics import WORST

Strength = tuple[int, int]  # tier, then gradient steps in all restarts
TIERS = ("another attack", "PGD", "part of AutoAttack", "AutoAttack")


def parse_repr(attack: str) -> tuple[str, dict[str, object]]:
    """Class name and parameters of an attack's repr; text that is no such call is its own name, without parameters."""
    try:
        call = ast.parse(attack, mode="eval").body
    except (SyntaxError, ValueError):
        return attack, {}
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        return attack, {}
    return call.func.id, {keyword.arg: _value(keyword.value) for keyword in call.keywords if keyword.arg}


def short_name(attack: str) -> str:
    """`PGD-50`, `PGD-50x5` with five restarts, `FGSM`, `AutoAttack standard`; else class, steps and restarts."""
    name, params = parse_repr(attack)
    if name == "AutoAttack":
        return " ".join([name, *(str(params[key]) for key in ("version", "components") if params.get(key))])
    steps, restarts = _count(params, "steps"), _count(params, "restarts")
    if name == "PGD" and steps == 1 and params.get("init") == "zero":
        return "FGSM"
    return name + (f"-{steps}" if steps else "") + (f"x{restarts}" if restarts > 1 else "")


def short_names(attacks: Iterable[str]) -> dict[str, str]:
    """A name for each repr, no two alike: attacks of one short name also show the parameters in which they differ."""
    reprs = sorted(set(attacks))
    shorts = {attack: short_name(attack) for attack in reprs}
    for short in sorted({name for name in shorts.values() if list(shorts.values()).count(name) > 1}):
        alike = [attack for attack in reprs if shorts[attack] == short]
        params = {attack: parse_repr(attack)[1] for attack in alike}
        keys = [key for key in params[alike[0]] if len({repr(params[attack].get(key)) for attack in alike}) > 1]
        for attack in alike:
            shorts[attack] = f"{short} ({', '.join(f'{key}={params[attack].get(key)}' for key in keys)})"
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
    return max((_strength(member) for member in members), default=(0, 0))


def _strength(attack: str) -> Strength:
    name, params = parse_repr(attack)
    steps = _count(params, "steps") * max(1, _count(params, "restarts"))
    if name == "AutoAttack":
        return (3 if params.get("version") in ("standard", "plus") else 2), steps
    return (1 if name == "PGD" and _count(params, "steps") > 1 else 0), steps


def _value(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _count(params: dict[str, object], key: str) -> int:
    value = params.get(key)
    return value if isinstance(value, int) else 0
