/* The data of the page, the state that a link keeps, and charts. Runs first. */
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
const state = { list: page.first, q: "", activation: "", method: "", sort: "", columns: "", by: "activation", card: "", compare: "", paired: "" };
const defaults = { ...state };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(state)) state[name] = given.get(name) ?? defaults[name];
  const unknown = state.list in page.lists ? "" : state.list;
  if (unknown) state.list = page.first;
  query("#unknown").hidden = !unknown;
  query("#unknown").textContent = `The link asks for the list ${unknown}, which is not on this page; shown is another one.`;
}

function writeAddress() {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (name === "list" || value !== defaults[name]) kept.set(name, value);
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
