/* The card of a model: each part is there only where the data has it. */
const IS_ADDRESS = /^(https?:\/\/|[^:]*$)/; // and no other scheme, which could run code
const modal = query("#card");
const FIRST_MODELS = "This page has room for those of the models that come first in its lists.";
const NO_ROOM = {
  details: `Classes, evidence, training and commands are in the run file. ${FIRST_MODELS}`,
  pictures: `Pictures are in the run file. ${FIRST_MODELS}`,
};

function open(title, ...content) {
  leave();
  const close = element("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => modal.close());
  modal.replaceChildren(element("header", {}, element("h2", { id: "card-title", textContent: title }), close), ...content);
  if (!modal.open) modal.showModal();
  modal.scrollTop = 0;
}

function leave() {
  for (const [where, view] of views) if (modal.contains(where)) { view.finalize(); views.delete(where); }
  Object.assign(state, { card: "", paired: "" });
}

modal.addEventListener("close", () => {
  if (modal.open) return; // opened again since
  leave();
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

/* An example: the image, its perturbation and the attacked image, with the predictions. */
function pictured(example) {
  const { attack, sample, label, clean, predicted, largest, step } = example;
  const shown = [
    [example.image, `Image ${sample}`, `original: predicted ${clean}`],
    [example.perturbation, `Perturbation of ${sample} on grey`, `perturbation magnified, largest entry ${(largest * 255).toFixed(1)}/255`],
    [example.attacked, `Image ${sample} after the attack`, `attacked: predicted ${predicted}`],
  ];
  const every = step > 1 ? `; one in ${step} pixels of each direction is shown` : "";
  return element("figure", {}, element("figcaption", { textContent: `${sample}, ${label}, under ${attack}${every}` }),
    element("div", { className: "pictures" }, ...shown.map(([png, alt, caption]) => element("figure", {},
      element("img", { src: `data:image/png;base64,${png}`, alt }), element("figcaption", { textContent: caption })))));
}

function detailParts(detail, charts) {
  const found = [];
  if (detail.classes) found.push(...titled(`By class, ${detail.under}`, asTable("Accuracy of each class in percent, with 95% intervals", ["class", "n", "clean", "robust"], detail.classes, ["robust"])));
  if (detail.evidence) found.push(...titled("What the trust battery saw", listed(detail.evidence)));
  if (detail.training) {
    const where = figure("Figures of the training by epoch.");
    charts.push([where, page.epochs, detail.training]);
    found.push(...titled("Training", where));
  }
  if (detail.examples) found.push(...titled("Pictures", element("p", { className: "note", textContent: page.chosen }), ...detail.examples.map(pictured)));
  if (detail.left_out) found.push(element("p", { className: "note", textContent: NO_ROOM[detail.left_out] }));
  if (detail.provenance) found.push(...titled("Provenance", pairs(detail.provenance)));
  if (detail.commands) found.push(...titled("The same number again", ...detail.commands.map((text) => element("pre", { textContent: text }))));
  if (detail.downloads) found.push(...titled("Downloads", element("ul", {}, ...detail.downloads.map(([label, href]) =>
    element("li", {}, IS_ADDRESS.test(href) ? element("a", { href, textContent: label }) : `${label}: ${href}`)))));
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
