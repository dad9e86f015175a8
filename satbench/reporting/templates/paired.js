/* Two models on the same images. */
const bits = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));

function logFactorials(n) {
  const sums = new Float64Array(n + 1);
  for (let k = 2; k <= n; k++) sums[k] = sums[k - 1] + Math.log(k);
  return sums;
}

/* The exact two-sided McNemar test (McNemar 1947): twice the tail of the binomial distribution with p = 1/2. */
function mcnemar(onlyA, onlyB) {
  const n = onlyA + onlyB, log = logFactorials(n);
  let tail = 0;
  for (let k = 0; k <= Math.min(onlyA, onlyB); k++) tail += Math.exp(log[n] - log[k] - log[n - k] - n * Math.LN2);
  return Math.min(1, 2 * tail);
}

/* The 95% score interval of the difference of two paired rates (Tango 1998), by bisection. */
function tango(n, onlyA, onlyB) {
  const gap = onlyA - onlyB, z2 = 1.959963984540054 ** 2;
  const outside = (difference) => {
    const linear = (2 * n - gap) * difference - onlyA - onlyB;
    const constant = -onlyB * difference * (1 - difference);
    const rate = (Math.sqrt(Math.max(0, linear * linear - 8 * n * constant)) - linear) / (4 * n);
    return (gap - n * difference) ** 2 > z2 * n * (2 * rate + difference * (1 - difference));
  };
  return [-1, 1].map((far) => {
    let near = gap / n;
    while (Math.abs(far - near) > 1e-12) {
      const middle = (far + near) / 2;
      if (outside(middle)) far = middle; else near = middle;
    }
    return near;
  });
}

function paired(a, b) {
  const [standsA, metA, standsB, metB] = [a.stands, a.met, b.stands, b.met].map(bits);
  const ones = (byte) => { let count = 0; for (; byte; byte &= byte - 1) count++; return count; };
  let n = 0, onlyA = 0, onlyB = 0;
  for (let place = 0; place < metA.length; place++) {
    const met = metA[place] & metB[place];
    n += ones(met);
    onlyA += ones(met & standsA[place] & ~standsB[place]);
    onlyB += ones(met & ~standsA[place] & standsB[place]);
  }
  return { n, onlyA, onlyB, p: mcnemar(onlyA, onlyB), interval: tango(n, onlyA, onlyB) };
}

const points = (fraction, round) => (round(fraction * 1000) / 10).toFixed(1);

function comparisonRow(a, b, names) {
  const found = paired(a, b);
  const gap = (found.onlyA - found.onlyB) / found.n;
  const decided = found.p < 0.05 && (found.interval[0] > 0 || found.interval[1] < 0);
  return {
    seeds: names,
    n: found.n,
    "only A": found.onlyA,
    "only B": found.onlyB,
    "A - B points": `${points(gap, Math.trunc)} [${points(found.interval[0], Math.floor)}, ${points(found.interval[1], Math.ceil)}]`,
    p: found.p.toPrecision(2),
    "A is": decided ? (gap > 0 ? "higher" : "lower") : "inside the noise",
  };
}

function comparison(section, a, b) {
  const [first, second] = [a, b].map((id) => page.outcomes?.[section.id]?.[id]);
  if (page.outcomes === null) return "The outcomes image by image are too many for this page; compare the runs with `satbench compare`.";
  const missing = [[a, first], [b, second]].filter(([, known]) => !known).map(([id]) => page.models[id].name);
  if (missing.length) return `No paired comparison: this leaderboard holds no outcomes image by image of ${missing.join(" and ")}.`;
  if (first.images !== second.images) return "No paired comparison: the two models were measured on different images.";
  const rows = first.seeds.flatMap((one, i) => second.seeds.map((other, j) => comparisonRow(one, other, `A ${i + 1}, B ${j + 1}`)));
  return asTable("Robust accuracy of A against B on the images that both met, a line for each pair of networks",
    ["seeds", "A is", "A - B points", "n", "only A", "only B", "p"], rows);
}

function picked() {
  return state.compare ? state.compare.split("|").map((slug) => page.models.findIndex((model) => model.slug === slug)).filter((id) => id >= 0) : [];
}

function markPicked() {
  const ids = picked();
  for (const box of document.querySelectorAll(".list:not([hidden]) .pick")) box.checked = ids.includes(Number(box.dataset.id));
  const button = query("#compare");
  if (button) button.disabled = ids.length !== 2;
}

function pick(id, wanted) {
  const ids = picked().filter((one) => one !== id);
  if (wanted) ids.push(id);
  state.compare = ids.slice(-2).map((one) => page.models[one].slug).join("|");
  markPicked();
  writeAddress();
}

function openComparison() {
  const section = query(`#${CSS.escape(state.list)}`);
  const [a, b] = picked();
  const rows = [["A", a], ["B", b]].map(([letter, id]) => {
    const cells = section.rowsById.get(id) ?? [];
    return { label: letter, model: page.models[id].name, robust: cells[4], clean: cells[5], n: cells[6], rank: cells[0] };
  });
  const found = comparison(section, a, b);
  open("Two models on the same images", asTable("The two models in this list, in percent with 95% intervals",
    ["label", "model", "rank", "robust", "clean", "n"], rows, ["robust"]),
    typeof found === "string" ? element("p", { textContent: found }) : found);
  state.paired = "open";
  writeAddress();
}
