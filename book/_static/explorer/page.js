// The page: controls, plot, tau, the run that was chosen, the table; all of it follows one state, kept in the address.
window.flatlibExplorer = window.flatlibExplorer || {};

flatlibExplorer.start = (root, runs) => {
  const { element, number } = flatlibExplorer;
  const selection = flatlibExplorer.makeSelection(runs);
  const words = flatlibExplorer.makeWords(selection);
  const state = selection.read(window.location.search);
  let points = [];
  let chosen = state.run;

  const surface = element("div", {
    ...{ class: "explorer-plot", tabindex: "0", role: "application", "aria-roledescription": "scatter plot" },
    keydown: (event) => step(event),
  });
  const status = element("p", { class: "explorer-status", role: "status" });
  const key = element("ul", { class: "explorer-key", "aria-label": "Colours" });
  const taus = element("div", { class: "explorer-taus" });
  const card = element("section", { class: "explorer-card", "aria-live": "polite", "aria-label": "The chosen run" });
  const summary = element("summary");
  const rows = element("div", { class: "explorer-rows", tabindex: "0", role: "region", "aria-label": "Table of runs" });
  const list = element("details", { toggle: () => fillTable() }, summary, rows);
  const save = element(
    "button",
    { type: "button", class: "explorer-button", click: () => download() },
    "Download as CSV",
  );
  const plot = flatlibExplorer.makePlot(surface, (run) => choose(run));

  const axis = (side, drawn) => {
    const about = selection.axes.get(state[side]);
    const positive = drawn.every((run) => selection.value(state[side], run) > 0);
    return { label: words.axisLabel(about), log: state[`${side}log`] && positive };
  };

  const render = () => {
    root.setAttribute("aria-busy", "true");
    const kept = selection.kept(state.filters);
    const drawn = kept.filter((run) => selection.has(state.x, run) && selection.has(state.y, run));
    const theme = flatlibExplorer.theme();
    const looks = flatlibExplorer.looks(selection, state, drawn, theme);
    points = drawn.map((run) => ({
      ...{ run, x: words.shown(state.x, run), y: words.shown(state.y, run), status: runs.status[run] },
      ...{ look: looks.of.get(looks.keyOf(run)), about: words.tooltip(state, run) },
    }));
    points.sort((a, b) => a.x - b.x || a.y - b.y);
    const axes = { x: axis("x", drawn), y: axis("y", drawn) };
    const bent = ["x", "y"].filter((side) => state[`${side}log`] && !axes[side].log);
    key.replaceChildren(
      element("li", { class: "explorer-title" }, `${selection.colourName(state.colour)}:`),
      ...[...looks.of.values()].map((look) => {
        const sign = element("span", { style: `color: ${look.colour}`, "aria-hidden": "true" }, look.sign);
        return element("li", {}, sign, ` ${look.name}`);
      }),
    );
    say(kept, drawn, bent);
    surface.setAttribute(
      "aria-label",
      `${axes.y.label} against ${axes.x.label}, ${points.length} runs. Arrow keys go from run to run.`,
    );
    summary.textContent = `These ${kept.length} runs as a table`;
    fillTable();
    controls.refresh();
    choose(points.some((point) => point.run === chosen) ? chosen : null, false);
    if (!points.length) {
      plot.clear(element("p", { class: "explorer-empty" }, "No run is left that has both numbers. Keep more runs, or choose another axis."));
      root.setAttribute("aria-busy", "false");
      return Promise.resolve();
    }
    return plot.draw(axes, points, theme).then(() => {
      plot.mark(points.find((point) => point.run === chosen));
      root.setAttribute("aria-busy", "false");
    });
  };

  const say = (kept, drawn, bent) => {
    const levels = selection.taus(state);
    const n = (name, among = kept) => among.filter((run) => runs.status[run] === name).length;
    const ended = (name, sign) => (n(name, drawn) ? `${name} (${sign})` : name);
    const compared = selection.compared(state).length;
    const left = [
      [n("capped"), ended("capped", "open points")],
      [n("diverged"), ended("diverged", "crosses")],
      [n("reached") - compared, "without one of the two numbers"],
    ];
    const out = left.filter(([count]) => count).map(([count, why]) => `${count} ${why}`);
    // Runs of different experiments differ in everything at once: the headline compares those of the same one.
    const { level, tau } = levels.find((found) => found.level === "same experiment") || levels[0];
    status.replaceChildren(
      element("strong", {}, `Kendall's τ = ${tau === null ? "–" : number(Number(tau.toFixed(3)))}`),
      ` (${level})`,
      ` over ${compared} of the ${kept.length} runs kept${out.length ? `; left out: ${out.join(", ")}` : ""}.`,
      ...bent.map(
        (side) => ` The ${side === "x" ? "horizontal" : "vertical"} axis is linear, as not every value is positive.`,
      ),
    );
    const heads = ["Compared", "τ", "runs", "groups", "pairs"];
    const cells = (found) => [
      found.level,
      found.tau === null ? "–" : number(Number(found.tau.toFixed(3))),
      found.runs,
      found.groups,
      found.pairs,
    ];
    taus.replaceChildren(
      element(
        "table",
        { class: "table" },
        element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
        element(
          "tbody",
          {},
          ...levels.map((found) =>
            element(
              "tr",
              { "data-tau": String(found.tau) },
              ...cells(found).map((text) => element("td", {}, String(text))),
            ),
          ),
        ),
      ),
      element(
        "p",
        { class: "explorer-note" },
        "Runs of the same experiment share chapter, scale, data and network; a run that two chapters share counts in both. ",
        "The τ of several groups is their mean, weighted by their pairs. ",
        element("a", { href: "glossary.html" }, "What the words mean"),
        ".",
      ),
    );
  };

  const choose = (run, mark = true) => {
    chosen = run;
    if (run !== state.run) {
      state.run = run;
      window.history.replaceState(null, "", selection.write(state));
    }
    const point = points.find((one) => one.run === run);
    card.replaceChildren(...(point ? words.card(state, run) : []));
    if (mark) plot.mark(point);
  };

  const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity };
  const step = (event) => {
    if (event.key === "Escape") return choose(null);
    if (!(event.key in STEPS) || !points.length) return;
    event.preventDefault();
    const at = points.findIndex((point) => point.run === chosen);
    const next = at < 0 && Number.isFinite(STEPS[event.key]) ? 0 : at + STEPS[event.key];
    choose(points[Math.min(Math.max(next, 0), points.length - 1)].run);
  };

  const fillTable = () =>
    rows.replaceChildren(...(list.open ? [words.table(state, selection.kept(state.filters))] : []));

  const download = () => {
    const file = new Blob([words.csv(selection.kept(state.filters))], { type: "text/csv" });
    const link = element("a", { href: URL.createObjectURL(file), download: "runs.csv" });
    link.click();
    URL.revokeObjectURL(link.href);
  };

  const changed = () => {
    window.history.replaceState(null, "", selection.write(state));
    return render();
  };

  const controls = flatlibExplorer.makeControls(selection, state, changed);
  root.replaceChildren(
    controls.axes,
    element(
      "div",
      { class: "explorer-middle" },
      controls.filters,
      element("div", { class: "explorer-main" }, status, surface, key),
      card,
      taus,
    ),
    list,
    save,
  );
  new MutationObserver(render).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  return render();
};

document.addEventListener("DOMContentLoaded", async () => {
  const root = document.querySelector(".explorer");
  try {
    await flatlibExplorer.start(root, window.flatlibRuns);
  } catch (error) {
    root.textContent = "The Explorer cannot be shown in this browser; the runs are in the folder book/records.";
    throw error;
  }
});
