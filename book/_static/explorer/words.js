// What the page says of runs: numbers, one run in a few words or in full, all kept runs as a file.
window.flatlibExplorer = window.flatlibExplorer || {};

flatlibExplorer.element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
};

flatlibExplorer.number = (value) => {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5 ? value.toExponential(2) : value.toPrecision(4);
  return (value === 0 ? "0" : text.includes("e") || !text.includes(".") ? text : text.replace(/\.?0+$/, "")).replace(
    "-",
    "−",
  );
};

flatlibExplorer.makeWords = (selection) => {
  const { element, number } = flatlibExplorer;
  const { runs, axes, places } = selection;

  const axisLabel = ({ label, unit }) => (unit ? `${label} (${unit})` : label);
  const shown = (name, run) =>
    selection.has(name, run) ? selection.value(name, run) * axes.get(name).multiplier : NaN;
  const reading = (name, run) => [axes.get(name).label, `${number(shown(name, run))} ${axes.get(name).unit}`.trim()];
  const setting = (name, run) => [runs.settings[name].label, selection.nameOf(name, run)];

  // The settings that differ in the run's chapters, then the others.
  const varying = (run) => [...new Set(runs.in[run].flatMap((place) => runs.varies[place]))];
  const others = (run) => Object.keys(runs.settings).filter((name) => !varying(run).includes(name));
  const measured = (run) => [...axes.keys()].filter((name) => name in runs.measures && selection.has(name, run));
  const where = (run) => runs.in[run].map((i) => `${runs.chapters[places[i].chapter]} (${places[i].scale})`);
  const briefly = (run) =>
    varying(run)
      .map((name) => setting(name, run).join(" "))
      .join(", ");

  const rows = (pairs) => pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);

  // Shown beside the pointer, as HTML.
  const tooltip = (state, run, most = 8) => {
    const names = varying(run);
    const more = names.length > most ? [["…", `and ${names.length - most} more settings`]] : [];
    const ended = runs.status[run] === "reached" ? [] : [["This run", runs.status[run]]];
    const pairs = [reading(state.x, run), reading(state.y, run), ...ended];
    const settings = names.slice(0, most).map((name) => setting(name, run));
    const made = element("div", {}, element("strong", {}, where(run).join("; ")));
    for (const [name, value] of [...pairs, ...settings, ...more]) made.append(element("div", {}, `${name}: ${value}`));
    return made.innerHTML;
  };

  // Shown below the plot for the run that was chosen.
  const card = (state, run) => [
    element("h2", { class: "explorer-heading" }, "The chosen run"),
    element("p", {}, ...links(run), " Run ", element("code", {}, runs.run_id[run])),
    element(
      "dl",
      {},
      ...rows([["Ended", runs.status[run]], reading(state.x, run), reading(state.y, run)]),
      ...rows(varying(run).map((name) => setting(name, run))),
    ),
    element(
      "details",
      {},
      element("summary", {}, "All its settings and measures"),
      element(
        "dl",
        {},
        ...rows(others(run).map((name) => setting(name, run))),
        ...rows(measured(run).map((name) => reading(name, run))),
      ),
    ),
  ];
  const links = (run) =>
    where(run).flatMap((text, i) => {
      const { chapter } = places[runs.in[run][i]];
      return [element("a", { href: `claims/${chapter}.html` }, text), ". "];
    });

  const table = (state, kept) => {
    const heads = [
      "Chapter (scale)",
      axisLabel(axes.get(state.x)),
      axisLabel(axes.get(state.y)),
      "Ended",
      "Settings that vary in its chapter",
      "Run",
    ];
    const cells = (run) => [
      where(run).join("; "),
      number(shown(state.x, run)),
      number(shown(state.y, run)),
      runs.status[run],
      briefly(run),
      runs.run_id[run],
    ];
    const row = (run) => element("tr", {}, ...cells(run).map((text) => element("td", {}, text)));
    return element(
      "table",
      { class: "table" },
      element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...kept.map(row)),
    );
  };

  // Every setting and measure of the kept runs, in the units of the record.
  const csv = (kept) => {
    const names = [...Object.keys(runs.settings), ...Object.keys(runs.measures)];
    const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
    const line = (cells) => cells.map((cell) => quoted(String(cell ?? ""))).join(",");
    const row = (run) => [
      runs.run_id[run],
      where(run).join("; "),
      runs.status[run],
      ...names.map((name) => selection.value(name, run)),
    ];
    return [line(["run_id", "chapters", "status", ...names]), ...kept.map((run) => line(row(run)))].join("\n");
  };

  return { axisLabel, shown, tooltip, card, table, csv };
};
