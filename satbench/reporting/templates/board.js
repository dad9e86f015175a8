const page = JSON.parse(document.getElementById("data").textContent);
const rowsOf = ({ names, rows }) => rows.map((row) => Object.fromEntries(row.map((value, place) => [names[place], value])));
for (const id of Object.keys(page.lists)) page.lists[id] = rowsOf(page.lists[id]);
for (const name of ["lines", "networks"]) {
  for (const { model, ...row } of rowsOf(page[name])) (page.models[model][name] ??= []).push(row);
}
const query = (selector, from = document) => from.querySelector(selector);
const LEFT_OUT = ["rank", "model"]; // columns that are always there
const FIRST = 9; // columns that are there at first
const ROBUST = 4;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/* ---- state: everything that a link keeps, in the address after # ---- */
const state = { list: page.first, q: "", activation: "", method: "", sort: "", columns: "", by: "activation", card: "", compare: "" };
const defaults = { ...state };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(state)) state[name] = given.get(name) ?? defaults[name];
  if (!(state.list in page.lists)) state.list = page.first;
}

function writeAddress() {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (value !== defaults[name]) kept.set(name, value);
  history.replaceState(null, "", "#" + kept);
}

/* ---- charts ---- */
const views = new Map(); // the Vega view of an element

function draw(where, spec, points, signals = {}) {
  views.get(where)?.finalize();
  const view = new window.vega.View(window.vega.parse(spec), { renderer: "svg", hover: true });
  for (const [name, value] of Object.entries(signals)) view.signal(name, value);
  const inside = element("div", { ariaHidden: "true" }); // what is drawn: its alternative text is on the outside
  where.replaceChildren(inside);
  view.data("points", points).initialize(inside).tooltip(() => {});
  views.set(where, view);
  return view.runAsync().then(() => view);
}

function describe(point) {
  if (point.published) return point.published;
  const [, , , , robust, clean, n, seeds, trust] = query(`#${CSS.escape(state.list)}`).rowsById.get(point.id);
  const model = page.models[point.id];
  return `${model.name}${model.method ? ", " + model.method : ""}\nrobust ${robust}\nclean ${clean}\nn ${n}, seeds ${seeds}, trust ${trust}`;
}

function showTip(event, text) {
  const tip = query("#tip");
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 8) + "px";
}

async function drawScatter(section) {
  const view = await draw(query(".chart", section), section.rowsById.size ? page.scatter : page.published,
    page.lists[section.id], { by: state.by });
  const pointOf = (item) => (item?.datum?.id !== undefined && item.mark.marktype === "symbol" ? item.datum : null);
  const near = (id) => view.signal("near", id).runAsync();
  view.addEventListener("mousemove", (event, item) => {
    const point = pointOf(item);
    if (point && view.signal("near") !== point.id) near(point.id);
    if (!point && view.signal("near") !== -1) near(-1);
    showTip(event, point && describe(point));
  });
  view.addEventListener("mouseout", (event) => showTip(event, ""));
  view.addEventListener("click", (event, item) => {
    const point = pointOf(item);
    if (point && !point.published) openCard(point.id);
  });
}

/* ---- tables ---- */
let table = null;

function columnNames(section) {
  return [...section.querySelectorAll("table.board thead th")].map((cell) => cell.dataset.name);
}

/* Texts of the first columns by model, and a box in each row; before DataTables moves rows out of the document. */
function prepare(section) {
  section.rowsById = new Map();
  const board = query("table.board", section);
  if (!board) return;
  query("thead tr", board).append(element("th", { scope: "col", className: "pickcell", textContent: "compare" }));
  for (const head of board.querySelectorAll("thead th")) head.dataset.name = head.textContent;
  for (const row of board.querySelectorAll("tbody tr")) {
    const id = Number(row.dataset.id);
    section.rowsById.set(id, [...row.cells].slice(0, FIRST).map((cell) => cell.textContent.trim()));
    row.cells[ROBUST].append(bar(row.cells[ROBUST].textContent));
    const box = element("input", { type: "checkbox", className: "pick" });
    box.dataset.id = id;
    box.setAttribute("aria-label", `Compare ${page.models[id].name}`);
    row.append(element("td", { className: "pickcell" }, box));
  }
  board.classList.remove("plain");
}

function makeTable(section) {
  const board = query("table.board", section);
  if (!board) return null;
  if (board.dataTable) return board.dataTable;
  const last = board.tHead.rows[0].cells.length - 1;
  board.dataTable = new window.DataTable(board, {
    autoWidth: false,
    pageLength: 50,
    lengthMenu: [50, 200, { label: "all", value: -1 }],
    order: [[0, "asc"]],
    columnDefs: [
      { targets: last, orderable: false },
      { targets: [...Array(last).keys()].slice(FIRST), visible: false },
      { targets: [4, 5], orderSequence: ["desc", "asc"] },
    ],
    layout: { topStart: null, topEnd: null, bottomStart: board.tBodies[0].rows.length > 50 ? "info" : null,
      bottomEnd: board.tBodies[0].rows.length > 50 ? "paging" : null },
    language: { emptyTable: "No model", zeroRecords: "No model fits the filters" },
  });
  board.dataTable.on("order", () => {
    const [[column, direction] = []] = board.dataTable.order();
    const name = columnNames(section)[column] ?? board.dataTable.column(column).header()?.dataset.name;
    state.sort = column === undefined || (column === 0 && direction === "asc") ? "" : `${nameOf(column)} ${direction}`;
    writeAddress();
  });
  board.dataTable.on("draw", markPicked);
  return board.dataTable;
}

const nameOf = (column) => table.column(column).header().dataset.name;
const indexOf = (name) => table.columns().indexes().toArray().find((column) => nameOf(column) === name);

function shownColumns() {
  return state.columns ? state.columns.split(",") : [];
}

/* state.columns lists names that differ from the first view: "+attacks,-seeds" */
function applyColumns() {
  const changed = new Map(shownColumns().map((one) => [one.slice(1), one[0] === "+"]));
  table.columns().every(function () {
    const name = this.header().dataset.name;
    const first = this.index() < FIRST || name === "compare";
    this.visible(changed.get(name) ?? first, false);
  });
  table.columns.adjust();
}

function applyFilters() {
  for (const name of ["activation", "method"]) {
    table.column(indexOf(name)).search(state[name], { exact: Boolean(state[name]) });
  }
  table.search(state.q).draw();
}

/* ---- controls ---- */
function chosen(name, label, values) {
  const select = element("select", { id: name }, element("option", { value: "", textContent: "all" }),
    ...values.map((value) => element("option", { value, textContent: value })));
  select.addEventListener("change", () => change({ [name]: select.value }));
  return element("label", {}, label, select);
}

function chooser() {
  const box = element("fieldset", {}, element("legend", { textContent: "Columns" }));
  table.columns().every(function () {
    const name = this.header().dataset.name;
    if (LEFT_OUT.includes(name) || name === "compare") return;
    const tick = element("input", { type: "checkbox", checked: this.visible() });
    const first = this.index() < FIRST;
    tick.addEventListener("change", () => {
      const others = shownColumns().filter((one) => one.slice(1) !== name);
      if (tick.checked !== first) others.push((tick.checked ? "+" : "-") + name);
      change({ columns: others.join(",") });
    });
    box.append(element("label", {}, tick, " " + name));
  });
  return element("details", { className: "chooser" }, element("summary", { textContent: "Columns" }), box);
}

function buildControls(section) {
  query("label.own")?.remove();
  const values = (field) => [...new Set(page.lists[section.id].map((point) => point[field]).filter(Boolean))].sort();
  const by = element("select", { id: "by" }, ...["activation", "method"].map((value) =>
    element("option", { value, textContent: value })));
  by.value = state.by;
  by.addEventListener("change", () => change({ by: by.value }));
  const bar = element("label", { className: "own" }, "Colour by", by);
  if (section.rowsById.size) query(".controls").append(bar);
  query(".controls.rows")?.remove();
  if (!table) return;
  const search = element("input", { type: "search", id: "q", value: state.q });
  search.addEventListener("input", () => change({ q: search.value }));
  const compare = element("button", { type: "button", id: "compare", textContent: "Compare two models", disabled: true });
  compare.addEventListener("click", openComparison);
  const rows = element("div", { className: "controls rows" }, element("label", {}, "Search", search),
    chosen("activation", "Activation", values("activation")), chosen("method", "Method", values("method")), chooser(), compare);
  for (const name of ["activation", "method"]) query(`#${name}`, rows).value = state[name];
  query(".wide", section).before(rows);
}

/* ---- cards ---- */
const modal = query("#card");

function open(title, ...content) {
  const close = element("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => modal.close());
  modal.replaceChildren(element("header", {}, element("h2", { id: "card-title", textContent: title }), close), ...content);
  if (!modal.open) modal.showModal();
  modal.scrollTop = 0;
}

modal.addEventListener("close", () => {
  for (const [where, view] of views) if (modal.contains(where)) { view.finalize(); views.delete(where); }
  Object.assign(state, { card: "" });
  writeAddress();
});
modal.addEventListener("click", (event) => { if (event.target === modal) modal.close(); });

function bar(text) {
  const [value, low, high] = text.match(/[\d.]+/g).map(Number);
  const holder = element("span");
  holder.innerHTML = `<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><path d="M${low} 4H${high}"/><path d="M${value} 0V8"/></svg>`;
  return holder.firstChild;
}

function asTable(caption, names, rows, drawn = []) {
  const body = rows.map((row) => element("tr", {}, ...names.map((name, place) => {
    const cell = element(place ? "td" : "th", { textContent: row[name] ?? "-" });
    if (!place) cell.scope = "row";
    if (drawn.includes(name) && row[name]) cell.append(bar(row[name]));
    return cell;
  })));
  const heads = names.map((name) => element("th", { scope: "col", textContent: name }));
  const made = element("table", { className: "bars" }, element("caption", { textContent: caption }),
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
  return element("div", { className: "wide", role: "region", tabIndex: 0, ariaLabel: caption }, made);
}

function titled(title, ...content) {
  return [element("h3", { textContent: title }), ...content];
}

function pairs(entries) {
  return element("dl", {}, ...entries.flatMap(([name, value]) =>
    [element("dt", { textContent: name }), element("dd", { textContent: value })]));
}

const listed = (texts, tag = "li") => element("ul", {}, ...texts.map((text) => element(tag, { textContent: text })));

function figure(alt) {
  const where = element("div", { className: "small", role: "img" });
  where.setAttribute("aria-label", alt);
  return where;
}

/* Each part of a card is there only where the data has it. */
function detailParts(detail, charts) {
  const found = [];
  if (detail.classes) found.push(...titled(`By class, ${detail.under}`, asTable("Accuracy of each class in percent, with 95% intervals", ["class", "n", "clean", "robust"], detail.classes, ["robust"])));
  if (detail.evidence) found.push(...titled("What the trust battery saw", listed(detail.evidence)));
  if (detail.training) {
    const where = figure("Figures of the training by epoch.");
    charts.push([where, page.epochs, detail.training]);
    found.push(...titled("Training", where));
  }
  for (const picture of detail.pictures ?? []) {
    found.push(element("p", { textContent: picture.caption }), element("div", { className: "pictures" },
      ...picture.images.map((src, place) => element("img", { src, alt: `${picture.caption}, picture ${place + 1}` }))));
  }
  if (detail.provenance) found.push(...titled("Provenance", pairs(detail.provenance)));
  if (detail.commands) found.push(...titled("The same number again", ...detail.commands.map((text) => element("pre", { textContent: text }))));
  if (detail.downloads) found.push(...titled("Downloads", element("ul", {}, ...detail.downloads.map(([label, href]) =>
    element("li", {}, element("a", { href, textContent: label }))))));
  return found;
}

function openCard(id) {
  const model = page.models[id];
  const charts = [];
  const shown = [["activation", model.activation], ["method", model.method], ["trained for", model.trained], ["extra data", model.extra]];
  const parts = [element("p", { textContent: shown.filter(([, value]) => value).map(([name, value]) => `${name} ${value}`).join(" · ") })];
  if (model.curve) {
    const where = figure(`Robust accuracy of ${model.name} over eps; its figures are in the table below.`);
    charts.push([where, page.eps, model.curve]);
    parts.push(...titled("Robust accuracy over eps", where));
  }
  const threats = [...new Set(model.lines.map((line) => line.threat))];
  const names = ["attack", "n", "robust", "clean", "passes", "trust"].filter((name) => model.lines.some((line) => line[name]));
  parts.push(...titled("Every attack"));
  for (const threat of threats) {
    const lines = model.lines.filter((line) => line.threat === threat);
    parts.push(asTable(`${threat}: accuracy in percent, with 95% intervals`, names, lines, ["robust"]));
  }
  if (model.reasons) parts.push(...titled("Why its trust verdict is not pass", listed(model.reasons)));
  for (const detail of model.details ?? []) parts.push(...titled(detail.network), ...detailParts(detail, charts));
  parts.push(...titled("Networks"), ...model.networks.map((network) => pairs(Object.entries(network))));
  open(model.name, ...parts);
  for (const [where, spec, points] of charts) draw(where, spec, points);
  state.card = model.slug;
  writeAddress();
}

/* ---- two models on the same images ---- */
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
    ["seeds", "n", "only A", "only B", "A - B points", "p", "A is"], rows);
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
}

/* ---- one list at a time ---- */
let current = "";

function show() {
  const section = query(`#${CSS.escape(state.list)}`);
  const isNew = current !== section.id;
  for (const other of document.querySelectorAll(".list")) other.hidden = other !== section;
  query("#list").value = section.id;
  if (isNew) {
    current = section.id;
    section.hidden = true; // the layout of a thousand rows takes a second, and most leave the document at once
    if (!section.rowsById) prepare(section);
    table = makeTable(section);
    section.hidden = false;
    if (table) {
      const split = state.sort.lastIndexOf(" ");
      const column = state.sort ? indexOf(state.sort.slice(0, split)) : undefined;
      if (column !== undefined) table.order([column, state.sort.slice(split + 1)]);
      applyColumns();
    }
    buildControls(section);
    drawScatter(section);
  }
  if (table) applyFilters();
  markPicked();
  const id = page.models.findIndex((model) => model.slug === state.card);
  if (state.card && id >= 0 && !modal.open) openCard(id);
}

function change(changes) {
  Object.assign(state, changes);
  writeAddress();
  if ("list" in changes) {
    Object.assign(state, { activation: "", method: "", q: "" });
    writeAddress();
    show();
  } else if ("by" in changes) {
    views.get(query(`#${CSS.escape(state.list)} .chart`)).signal("by", state.by).runAsync();
  } else if ("columns" in changes) applyColumns();
  else applyFilters();
}

query("#list").addEventListener("change", (event) => change({ list: event.target.value }));
query("main").addEventListener("click", (event) => {
  const row = event.target.closest("tbody tr[data-id]");
  if (event.target.matches(".pick")) pick(Number(row.dataset.id), event.target.checked);
  else if (row && event.target.closest("th a")) { event.preventDefault(); openCard(Number(row.dataset.id)); }
});
addEventListener("hashchange", () => { readAddress(); current = ""; show(); });
addEventListener("beforeprint", () => table?.page.len(-1).draw());
addEventListener("afterprint", () => table?.page.len(50).draw());
query(".controls").hidden = false;
readAddress();
show();
