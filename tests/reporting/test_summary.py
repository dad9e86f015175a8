import json
from pathlib import Path

import pytest

from satbench.attacks import ATTACKS, build_attack
from satbench.attacks.base import info_of
from satbench.core.errors import BadInput
from satbench.evaluation.migrate import UNCHECKED, migrate
from satbench.reporting.names import short_names, strength
from satbench.reporting.rounding import down, inward, outward, up
from satbench.reporting.summary import Row, Trusted, least_trusted, summarise
from satbench.results.metrics import WORST
from satbench.specs.attack import TIERS, ids

from .made import AA, EPS, FGSM, PGD, MakeRun, first, known, old_summary, rows_in, trust

SAT = PGD.replace("None", "'sat'").replace("'uniform'", "'uniform-unclipped'").replace("'best'", "'last'")


def row_of(rows: list[Row], attack: str, eps: float = EPS) -> Row:
    (row,) = [row for row in rows if row.attack == attack and row.eps == eps]
    return row


def test_two_runs_of_one_model_are_joined(make_run: MakeRun) -> None:
    pgd = make_run("silu", first(9, 10), {(PGD, "Linf", EPS): first(6, 10)}, violations=[9])
    autoattack = make_run("silu", first(4, 4), {(AA, "Linf", EPS): [True, False, True, False]})
    rows = summarise([pgd, autoattack])
    assert len(rows) == 3
    assert [(row.n, row.clean_correct, row.robust) for row in (row_of(rows, PGD), row_of(rows, AA))] == [
        (10, 9, 6),
        (4, 4, 2),
    ]
    worst = row_of(rows, WORST)
    assert (worst.n, worst.clean_correct, worst.robust, ids(worst.attacks)) == (4, 4, 2, (AA, PGD))
    assert (row_of(rows, PGD).violations, worst.violations) == (1, 0)
    assert worst.eval_seeds == (0,)
    assert worst.versions == {"satbench": "0.1.0", "torch": "2.11.0"}
    assert summarise([autoattack, pgd]) == rows


def test_one_attack_has_no_worst_case_and_disjoint_ones_neither(make_run: MakeRun) -> None:
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4), (AA, "Linf", 2 * EPS): first(1, 4)})
    assert [row.attack for row in summarise([run])] == [PGD, AA]
    halves = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4), (AA, "Linf", EPS): first(1, 4)})
    records = halves.records
    kept = records[(records["attack"] == PGD) == records["sample_id"].isin(["test/00000", "test/00001"])]
    apart = type(halves)(halves.path, halves.manifest, kept)
    assert {row.attack for row in summarise([apart])} == {PGD, AA}


def test_a_sample_with_several_records_is_broken_if_any_of_them_is(make_run: MakeRun) -> None:
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    assert summarise([run, run]) == summarise([run])
    weaker = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(3, 4)})
    other_way = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): [False, True, True, False]})
    for runs in ([run, weaker], [weaker, run]):
        assert [(row.robust, row.n) for row in summarise(runs)] == [(2, 4)]
    assert [(row.robust, row.n) for row in summarise([run, other_way])] == [(1, 4)]


def test_changed_images_are_refused(make_run: MakeRun) -> None:
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    other = make_run("silu", first(3, 4), {(AA, "Linf", EPS): first(2, 4)}, hashed="changed")
    with pytest.raises(BadInput, match="different images"):
        summarise([run, other])


def test_equal_weights_with_another_activation_stay_apart(make_run: MakeRun) -> None:
    runs = [make_run(name, first(3, 4), {(PGD, "Linf", EPS): first(2, 4)}, digest="same") for name in ("relu", "silu")]
    assert [row.activation for row in summarise(runs)] == ["relu", "silu"]


def test_attacks_of_one_label_show_the_parameters_in_which_they_differ() -> None:
    margin, momentum = PGD.replace("'ce'", "'margin'"), PGD[:-1] + ", momentum=0.75)"
    shorts = short_names(map(known, [PGD, margin, AA]))
    assert (shorts[PGD], shorts[margin]) == ("PGD-50 (loss=ce)", "PGD-50 (loss=margin)")
    assert shorts[AA] == "AutoAttack standard"
    assert short_names(map(known, [PGD, momentum])) == {PGD: "PGD-50", momentum: "PGD-50 (momentum=0.75)"}
    twins = [known("Mine(1)"), known("Mine(2)")]
    assert short_names(one.model_copy(update={"label": "Mine"}) for one in twins) == {id: id for id in ids(twins)}


@pytest.mark.parametrize(
    ("attack", "name", "tier"),
    [
        (PGD, "PGD-50", "PGD"),
        (PGD.replace("restarts=1", "restarts=5"), "PGD-50x5", "PGD"),
        (FGSM, "FGSM", "another attack"),
        ("not a call (", "not a call (", "another attack"),
        (SAT, "SAT PGD-50", "PGD"),
        ("AutoAttackComponent(name='apgd-t', unit=250)", "APGD-T", "part of AutoAttack"),
        ("AutoAttackComponent(name='fab', unit=250, version='plus')", "FAB", "part of AutoAttack"),
        ("AutoAttackComponent(name='fab-t', unit=250)", "FAB-T", "part of AutoAttack"),
        ("AutoAttackComponent(name='square', unit=250)", "Square", "another attack"),
        ("AutoAttack(version='standard', components='', unit=250)", "AutoAttack standard", "AutoAttack"),
        ("AutoAttack(version='rand', components='', unit=250)", "AutoAttack rand", "part of AutoAttack"),
        ("AutoAttack(version='custom', components='square', unit=250)", "AutoAttack custom square", "another attack"),
        ("Cascade(unit=250)", "Cascade", "AutoAttack"),
        ("Rapid()", "Rapid", "rapid"),
        (repr(build_attack("foolbox:LinfDeepFoolAttack", {})), "foolbox LinfDeepFoolAttack", "another attack"),
        ("Adaptive(attack='pack.mod:call', steps=20)", "adaptive pack.mod:call:steps=20", "another attack"),
        (f"Transfer(attack={PGD}, source='net a@0123456789ab')", "PGD-50 from net a", "attack from another model"),
        (f"Transfer(attack={AA}, source='b@01')", "AutoAttack standard from b", "attack from another model"),
        (f"Bf16(attack={PGD})", "PGD-50, bf16 search", "PGD"),
        (f"Transfer(attack=Bf16(attack={SAT}), source='b')", "SAT PGD-50, bf16 search from b", TIERS[0]),
        ("Bf16(attack=Cascade(unit=250))", "Cascade, bf16 search", "AutoAttack"),
        (f"Surrogate(attack={PGD})", "PGD-50, surrogate search", "another attack"),
        ("Transfer()", "Transfer", "another attack"),
    ],
)
def test_every_attack_has_a_label_and_a_tier(attack: str, name: str, tier: str) -> None:
    info = known(attack)
    assert (info.id, info.label, info.tier) == (attack, name, tier)


def test_evaluations_are_ordered_by_what_they_can_say() -> None:
    transfer = f"Transfer(attack={AA}, source='b')"
    rising = [transfer, FGSM, SAT, "AutoAttackComponent(name='apgd-t', unit=250)", "Rapid()", AA]
    strengths = [strength([known(attack)]) for attack in rising]
    assert strengths == sorted(strengths)
    assert len({tier for tier, _ in strengths}) == len(TIERS) == len(rising)
    assert strength(map(known, [FGSM, AA])) == strength([known(AA)])
    assert strength(map(known, [FGSM, transfer])) == strength([known(FGSM)])
    assert known(PGD.replace("restarts=1", "restarts=3")).strength > known(PGD).strength


def test_nested_attacks_are_told_apart_by_what_differs_inside() -> None:
    one, other = (f"Transfer(attack={attack}, source='b@01')" for attack in (PGD, PGD.replace("'ce'", "'dlr'")))
    assert [layer.id for layer in known(one).layers] == [one, PGD]
    assert short_names(map(known, [one, other])) == {
        one: "PGD-50 from b (loss=ce)",
        other: "PGD-50 from b (loss=dlr)",
    }
    smooth = [f"Surrogate(attack={attack})" for attack in (PGD, PGD.replace("'ce'", "'dlr'"))]
    shorts = short_names(map(known, smooth))
    assert list(shorts.values()) == [f"PGD-50, surrogate search (loss={loss})" for loss in ("ce", "dlr")]
    twin = one.replace("b@01", "b@02")
    assert short_names(map(known, [one, twin])) == {
        one: "PGD-50 from b (source=b@01)",
        twin: "PGD-50 from b (source=b@02)",
    }


def test_the_tables_own_attacks_are_labelled_and_ranked() -> None:
    """No attack of the table has the tier of what is unknown, but these."""
    infos = {name: info_of(build_attack(name, {})) for name in ATTACKS}
    shown = {name: info.label for name, info in infos.items()}
    assert shown["fgsm"] == "FGSM"
    assert shown["sat-pgd"] == "SAT PGD-50"
    assert all(shown[name] == name.upper() for name in ATTACKS if name.startswith(("apgd", "fab")))
    assert (shown["cascade"], shown["rapid"], shown["square"]) == ("Cascade", "Rapid", "Square")
    assert {name for name, info in infos.items() if info.tier == "another attack"} == {"fgsm", "knn-guided", "square"}
    assert infos["rapid"].tier == "rapid"
    assert {name for name, info in infos.items() if info.tier == "AutoAttack"} == {"autoattack", "cascade"}


# trust and passes


@pytest.mark.parametrize(
    ("pgd", "autoattack", "joint"),
    [
        ("suspicious", "pass", "pass"),
        ("pass", "suspicious", "suspicious"),
        ("not checked", "pass", "pass"),
        ("fail", "pass", "fail"),
        ("pass", "fail", "fail"),
    ],
)
def test_a_join_has_the_verdict_of_its_lowest_run_and_any_fail(
    pgd: str, autoattack: str, joint: str, make_run: MakeRun
) -> None:
    higher = make_run("silu", first(4, 4), {(PGD, "Linf", EPS): first(3, 4)}, trust=trust(pgd, "PGD"))
    lower = make_run("silu", first(4, 4), {(AA, "Linf", EPS): first(1, 4)}, trust=trust(autoattack, "AA"))
    rows = summarise([higher, lower])
    assert [row_of(rows, attack).trust.verdict for attack in (PGD, AA, WORST)] == [pgd, autoattack, joint]
    reasons = {joint} - {"pass"} and {f"growing eps: {'PGD' if pgd == joint else 'AA'}"}
    assert set(row_of(rows, WORST).trust.reasons) == set(reasons)


def test_runs_of_equal_outcomes_are_trusted_as_the_worse(make_run: MakeRun) -> None:
    outcomes = {attack: {(attack, "Linf", EPS): first(2, 4)} for attack in (PGD, AA)}
    good = make_run("silu", first(3, 4), outcomes[PGD], trust=trust("pass"))
    doubtful = make_run("silu", first(3, 4), outcomes[AA], trust=trust("suspicious", "it stays at 12%", "square"))
    expected = Trusted(verdict="suspicious", reasons=("growing eps: it stays at 12%",), next_attacks=("square",))
    assert row_of(summarise([good, doubtful]), WORST).trust == expected


def test_not_checked_is_worse_than_a_pass_and_better_than_a_doubt() -> None:
    passed, failed = Trusted(verdict="pass"), Trusted(verdict="fail", reasons=("NaN",))
    unchecked = Trusted(verdict="not checked", reasons=("needs 900 passes",))
    doubts = [Trusted(verdict="suspicious", reasons=(one,), next_attacks=("square",)) for one in "ab"]
    assert least_trusted([passed, passed]) == passed
    assert Trusted.of(None) == Trusted(verdict="not checked")
    assert least_trusted([passed, unchecked, Trusted.of(None)]) == unchecked
    assert least_trusted([unchecked, *doubts]) == Trusted(
        verdict="suspicious", reasons=("a", "b"), next_attacks=("square",)
    )
    assert least_trusted([doubts[0], failed, unchecked, passed]) == failed


def test_passes_are_summed_over_the_images_and_over_the_attacks_of_the_worst_case(make_run: MakeRun) -> None:
    """Three of four images are attacked; 51 and 50 passes each for PGD, 900 and 300 for the other."""
    pgd = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    other = make_run("silu", first(3, 4), {(AA, "Linf", EPS): first(1, 4)}, passes=(900, 300))
    rows = summarise([pgd, other])
    found = {attack: (row_of(rows, attack).forward, row_of(rows, attack).backward) for attack in (PGD, AA, WORST)}
    assert found == {PGD: (153, 150), AA: (2700, 900), WORST: (2853, 1050)}


def test_a_summary_from_before_there_was_trust_is_not_checked(make_run: MakeRun, tmp_path: Path) -> None:
    raw = old_summary(summarise([make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})]), 3)
    for key in ("trust", "forward", "backward"):
        del raw["rows"][0][key]
    (tmp_path / "s.json").write_text(json.dumps(raw))
    done = [done for _, done in migrate(tmp_path / "s.json")]
    assert done == [f"schema 3 to 5, 1 files in {tmp_path / 'runs'}; {UNCHECKED}"]
    (row,) = rows_in(tmp_path / "runs")
    assert (row.trust, row.forward, row.backward) == (Trusted(verdict="not checked"), None, None)


def test_rounding_favours_nobody() -> None:
    assert [down(0.58), down(0.7999), up(0.8001), up(1.0), down(0.0)] == ["58.0", "79.9", "80.1", "100.0", "0.0"]
    assert [inward(0.0299), inward(-0.0299), inward(-0.0004), inward(0.0)] == ["+2.9", "-2.9", "0.0", "0.0"]
    assert outward(-0.0121, 0.0121) == "[-1.3, 1.3]"
