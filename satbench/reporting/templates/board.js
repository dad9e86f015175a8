/* The lists of the page: their tables, the controls, and which one is shown. Runs last. */
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
  const section = query(`#${CSS.escape(state.list)}`);
  const ids = table.rows({ search: "applied" }).nodes().toArray().map((row) => Number(row.dataset.id));
  const kept = ids.length < section.rowsById.size ? Object.fromEntries(ids.map((id) => [id, true])) : null;
  views.get(query(".chart", section)).signal("kept", kept).runAsync();
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
      table.order(column === undefined ? [0, "asc"] : [column, state.sort.slice(split + 1)]);
      applyColumns();
    }
    buildControls(section);
    drawScatter(section);
  }
  if (table) applyFilters();
  markPicked();
  const id = page.models.findIndex((model) => model.slug === state.card);
  if (state.card && id >= 0) openCard(id);
  else if (state.paired && picked().length === 2) openComparison();
  else modal.close();
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
