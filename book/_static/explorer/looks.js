// Colours and markers. A name keeps its look whatever is selected; numbers run through viridis in their order.
window.flatlibExplorer = window.flatlibExplorer || {};

// Five markers and six hues: thirty names have looks of their own.
flatlibExplorer.MARKERS = ["circle", "square", "triangle", "diamond", "inverted_triangle"];
flatlibExplorer.SIGNS = ["●", "■", "▲", "◆", "▼"];
flatlibExplorer.HUES = 6;
flatlibExplorer.VIRIDIS = { light: [0, 0.6], dark: [0.4, 1] }; // the end that is lost on the page is left out

// The colours of the theme that the reader has chosen, from explorer.css.
flatlibExplorer.theme = () => {
  const style = getComputedStyle(document.querySelector(".explorer"));
  const colour = (name) => style.getPropertyValue(`--fl-explorer-${name}`).trim();
  return {
    name: document.documentElement.dataset.theme === "dark" ? "dark" : "light",
    text: colour("text"),
    grid: colour("grid"),
    paper: colour("paper"),
    hues: [...Array(flatlibExplorer.HUES).keys()].map((i) => colour(`hue-${i}`)),
  };
};

// For each value of a setting (or chapter) that the runs have: its name, colour and marker, and the marker's sign in
// the key. keyOf says which value a run has.
flatlibExplorer.looks = (selection, state, runs, theme) => {
  const setting = selection.runs.settings[state.colour];
  const chapters = selection.runs.chapters;
  const keyOf = setting ? (run) => setting.index[run] : (run) => selection.chapterOf(state.filters, run);
  const keys = setting ? [...setting.values.keys()] : Object.keys(chapters);
  const name = (key) => (setting ? setting.names[key] : chapters[key]);
  const ordered = setting && setting.values.every((value) => value === null || typeof value === "number");
  const found = new Set(runs.map(keyOf));
  const present = keys.filter((key) => found.has(key));
  const look = (key, place) => {
    const i = ordered ? place : keys.indexOf(key);
    return {
      name: name(key),
      colour: ordered ? flatlibExplorer.viridis(place, present.length, theme) : theme.hues[i % theme.hues.length],
      marker: flatlibExplorer.MARKERS[i % flatlibExplorer.MARKERS.length],
      sign: flatlibExplorer.SIGNS[i % flatlibExplorer.SIGNS.length],
    };
  };
  return { keyOf, of: new Map(present.map((key, place) => [key, look(key, place)])) };
};

flatlibExplorer.viridis = (place, n, theme) => {
  const [low, high] = flatlibExplorer.VIRIDIS[theme.name];
  const share = n > 1 ? place / (n - 1) : 0.5;
  const rgba = Bokeh.Palettes.viridis(256)[Math.round((low + share * (high - low)) * 255)];
  return `#${(rgba >>> 8).toString(16).padStart(6, "0")}`;
};
