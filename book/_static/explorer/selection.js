// Which runs are kept and what is drawn of them: the state of the page, its address, and the counts behind a choice.
window.flatlibExplorer = window.flatlibExplorer || {};

flatlibExplorer.FACETS = ["chapter", "scale", "dataset", "model", "optimizer", "learning_rate", "batch_size"];
flatlibExplorer.FIRST = { x: ["lambda_max", "peak_lambda_max"], y: ["test_accuracy"] }; // the first that the runs have

flatlibExplorer.makeSelection = (runs) => {
  const size = runs.run_id.length;
  const everyRun = [...Array(size).keys()];
  const axes = new Map(runs.axes.map((axis) => [axis.name, axis]));
  const places = runs.places.map(([chapter, scale]) => ({ chapter, scale }));

  const value = (name, run) =>
    name in runs.measures ? runs.measures[name][run] : runs.settings[name].values[runs.settings[name].index[run]];
  const nameOf = (setting, run) => runs.settings[setting].names[runs.settings[setting].index[run]];

  // What can be ticked: [value in the address, name on the page].
  const options = (facet) => {
    if (facet === "chapter") return Object.entries(runs.chapters);
    if (facet === "scale") return [...new Set(places.map((place) => place.scale))].sort().map((name) => [name, name]);
    return runs.settings[facet].names.map((name) => [name, name]);
  };
  const facets = flatlibExplorer.FACETS.filter((facet) => facet in places[0] || facet in runs.settings);

  // What can colour the points: settings that differ within some chapter.
  const differing = new Set(runs.varies.flat());
  const colours = ["chapter", ...Object.keys(runs.settings).filter((name) => differing.has(name))];
  const colourName = (name) => (name === "chapter" ? "Chapter" : runs.settings[name].label);

  const allowed = (filters, facet, name) => !filters[facet].size || filters[facet].has(name);
  // The places (chapter and scale) through which a run is kept: one that two chapters share has two.
  const placesKept = (filters, run) =>
    runs.in[run].filter((i) => ["chapter", "scale"].every((facet) => allowed(filters, facet, places[i][facet])));
  const chapterOf = (filters, run) => places[placesKept(filters, run)[0] ?? runs.in[run][0]].chapter;
  const settingsKept = (filters, run) =>
    facets.every((facet) => facet in places[0] || allowed(filters, facet, nameOf(facet, run)));
  const kept = (filters) => everyRun.filter((run) => settingsKept(filters, run) && placesKept(filters, run).length > 0);

  // How many runs each value of a facet has, all other filters as they are.
  const counts = (filters, facet) => {
    const others = { ...filters, [facet]: new Set() };
    const found = new Map();
    for (const run of kept(others)) {
      const names = facet in places[0] ? placesKept(others, run).map((i) => places[i][facet]) : [nameOf(facet, run)];
      for (const name of new Set(names)) found.set(name, (found.get(name) || 0) + 1);
    }
    return found;
  };

  const has = (name, run) => Number.isFinite(value(name, run));
  const compared = (state) =>
    kept(state.filters).filter((run) => runs.status[run] === "reached" && has(state.x, run) && has(state.y, run));

  // Tau at each level of what is held: any two runs, once each; or runs of one place that share these settings.
  const taus = (state) => {
    const chosen = compared(state);
    const point = (run) => [value(state.x, run), value(state.y, run)];
    return Object.entries(runs.held).map(([level, held]) => {
      if (held === null) return { level, ...flatlibExplorer.concordance([chosen.map(point)]) };
      const groups = new Map();
      for (const run of chosen) {
        for (const place of placesKept(state.filters, run)) {
          const key = [place, ...held.map((name) => runs.settings[name].index[run])].join();
          groups.set(key, [...(groups.get(key) || []), point(run)]);
        }
      }
      return { level, ...flatlibExplorer.concordance([...groups.values()]) };
    });
  };

  const read = (address) => {
    const query = new URLSearchParams(address);
    const filters = {};
    for (const facet of facets) {
      const known = new Set(options(facet).map(([name]) => name));
      filters[facet] = new Set(query.getAll(facet).filter((name) => known.has(name)));
    }
    const runsKept = kept(filters);
    const axis = (side) => {
      if (axes.has(query.get(side))) return query.get(side);
      const first = flatlibExplorer.FIRST[side].filter((name) => axes.has(name));
      return first.find((name) => runsKept.some((run) => has(name, run))) || first[0] || runs.axes[0].name;
    };
    const scale = (side, name) =>
      ["log", "linear"].includes(query.get(`${side}scale`)) ? query.get(`${side}scale`) === "log" : axes.get(name).log;
    const [x, y] = [axis("x"), axis("y")];
    const usual = filters.chapter.size === 1 ? firstVarying([...filters.chapter][0]) : "chapter";
    const colour = colours.includes(query.get("colour")) ? query.get("colour") : usual;
    const found = runs.run_id.indexOf(query.get("run"));
    return { x, y, xlog: scale("x", x), ylog: scale("y", y), colour, filters, run: found < 0 ? null : found };
  };
  // The setting that a chapter's points are coloured by at first: its batch size if that varies, as in its figures.
  const firstVarying = (chapter) => {
    const names = runs.varies.filter((_, i) => places[i].chapter === chapter).flat();
    return names.find((name) => name === "batch_size") || names[0] || "chapter";
  };
  const write = (state) => {
    const query = new URLSearchParams({ x: state.x, y: state.y, colour: state.colour });
    for (const side of ["x", "y"]) {
      const log = state[`${side}log`];
      if (log !== axes.get(state[side]).log) query.set(`${side}scale`, log ? "log" : "linear");
    }
    for (const facet of facets) for (const name of state.filters[facet]) query.append(facet, name);
    if (state.run !== null) query.set("run", runs.run_id[state.run]);
    return `?${query}`;
  };

  return {
    runs,
    axes,
    facets,
    places,
    options,
    counts,
    kept,
    compared,
    taus,
    value,
    nameOf,
    has,
    chapterOf,
    colours,
    colourName,
    read,
    write,
  };
};
