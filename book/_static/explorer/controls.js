// What the reader chooses with: native controls, so that a keyboard and a screen reader know them.
window.flatlibExplorer = window.flatlibExplorer || {};

flatlibExplorer.makeControls = (selection, state, onChange) => {
  const { element } = flatlibExplorer;
  const { runs, axes } = selection;
  const TITLES = { chapter: "Chapter", scale: "Scale" };
  const title = (facet) => TITLES[facet] || runs.settings[facet].label;

  const choice = (id, text, groups, chosen, onPick) => {
    const select = element("select", { id, change: () => onPick(select.value) });
    for (const [group, options] of groups) {
      const list = options.map(([value, label]) => new Option(label, value, value === chosen, value === chosen));
      select.append(...(group ? [element("optgroup", { label: group }, ...list)] : list));
    }
    return element("div", { class: "explorer-choice" }, element("label", { for: id }, text), select);
  };
  const tick = (id, text, checked, onPick) => {
    const box = element("input", { type: "checkbox", id, change: () => onPick(box.checked) });
    box.checked = checked;
    return element("label", { class: "explorer-tick", for: id }, box, element("span", {}, text));
  };

  const groups = [...new Set(runs.axes.map((axis) => axis.group))].map((group) => [
    group,
    runs.axes.filter((axis) => axis.group === group).map((axis) => [axis.name, axis.label]),
  ]);
  const side = (name, text) => {
    const log = tick(`explorer-${name}log`, "log", state[`${name}log`], (checked) => {
      state[`${name}log`] = checked;
      onChange();
    });
    const made = choice(`explorer-${name}`, text, groups, state[name], (value) => {
      state[name] = value;
      state[`${name}log`] = log.firstChild.checked = axes.get(value).log;
      onChange();
    });
    made.append(log);
    return made;
  };
  const colours = selection.colours.map((name) => [name, selection.colourName(name)]);
  const colour = choice("explorer-colour", "Colour", [[null, colours]], state.colour, (value) => {
    state.colour = value;
    onChange();
  });

  const facet = (name) => {
    const boxes = selection.options(name).map(([value, text], i) => {
      const made = tick(`explorer-${name}-${i}`, text, state.filters[name].has(value), (checked) => {
        state.filters[name][checked ? "add" : "delete"](value);
        onChange();
      });
      made.append(element("span", { class: "explorer-count" }));
      return [value, made];
    });
    const fieldset = element("fieldset", {}, element("legend", { class: "visually-hidden" }, title(name)));
    fieldset.append(...boxes.map(([, made]) => made));
    const summary = element("summary");
    return { name, boxes, summary, made: element("details", {}, summary, fieldset) };
  };
  const facets = selection.facets.map(facet);
  if (window.matchMedia("(min-width: 992px)").matches) facets[0].made.open = true;
  const clear = element("button", { type: "button", class: "explorer-button" }, "Keep all runs");
  clear.addEventListener("click", () => {
    for (const { name, boxes } of facets) {
      state.filters[name].clear();
      for (const [, made] of boxes) made.firstChild.checked = false;
    }
    onChange();
  });

  // The number of runs behind each choice, and what is chosen in each closed list.
  const refresh = () => {
    for (const { name, boxes, summary } of facets) {
      const counts = selection.counts(state.filters, name);
      for (const [value, made] of boxes) {
        made.lastChild.textContent = counts.get(value) || 0;
        made.classList.toggle("explorer-none", !counts.get(value));
      }
      const chosen = boxes
        .filter(([value]) => state.filters[name].has(value))
        .map(([, made]) => made.children[1].textContent);
      summary.textContent = `${title(name)}: ${chosen.length ? chosen.join(", ") : "all"}`;
    }
    const kept = selection.kept(state.filters);
    for (const option of document.querySelectorAll("#explorer-x option, #explorer-y option")) {
      const n = kept.filter((run) => selection.has(option.value, run)).length;
      option.textContent = `${axes.get(option.value).label} (${n})`;
    }
  };

  return {
    axes: element("div", { class: "explorer-axes" }, side("y", "Vertical"), side("x", "Horizontal"), colour),
    filters: element(
      "div",
      { class: "explorer-filters", role: "group", "aria-label": "Keep only these runs" },
      element("p", { class: "explorer-title" }, "Keep only"),
      ...facets.map(({ made }) => made),
      clear,
    ),
    refresh,
  };
};
