// The scatter plot: a BokehJS figure that is made anew whenever something on the page changes.
window.flatlibExplorer = window.flatlibExplorer || {};

// Where a logarithmic axis has its numbers: at decades, or at 1, 2 and 5 of each where there are few of them (as in the
// book's figures), or evenly where the reader has zoomed into one.
flatlibExplorer.logTicks = (start, end) => {
  const ratio = end / start;
  if (ratio < 5) {
    const rough = (end - start) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const first = Math.ceil(start / step);
    return [...Array(Math.max(Math.floor(end / step) - first + 1, 0)).keys()].map((i) => (first + i) * step);
  }
  const mantissas = ratio < 100 ? [1, 2, 5] : [1];
  const decades = [...Array(Math.ceil(Math.log10(ratio)) + 2).keys()].map((i) => Math.floor(Math.log10(start)) + i);
  const ticks = decades.flatMap((decade) => mantissas.map((mantissa) => Number(`${mantissa}e${decade}`)));
  return ticks.filter((tick) => start <= tick && tick <= end);
};

// target: an element. onTap(run): called when a point is clicked.
// draw takes axes {x, y} of {label, log}; points of {run, x, y, look, status, about}, about being HTML; and the theme.
flatlibExplorer.makePlot = (target, onTap) => {
  const NONE = "rgba(0, 0, 0, 0)";
  let view = null;
  let ring = null;
  let last = 0;

  const figure = (axes, theme) => {
    const narrow = window.matchMedia("(max-width: 600px)").matches;
    const figure = Bokeh.Plotting.figure({
      sizing_mode: "stretch_width",
      height: narrow ? 380 : 500,
      x_axis_type: axes.x.log ? "log" : "linear",
      y_axis_type: axes.y.log ? "log" : "linear",
      x_axis_label: axes.x.label,
      y_axis_label: axes.y.label,
      tools: "box_zoom,pan,wheel_zoom,tap,undo,redo,reset,save",
      toolbar_location: "above",
      background_fill_color: theme.paper,
      border_fill_color: theme.paper,
      outline_line_color: null,
    });
    figure.toolbar.logo = null;
    // A drag on a touch screen scrolls the page, until the reader chooses a tool.
    const coarse = window.matchMedia("(pointer: coarse)").matches;
    figure.toolbar.active_scroll = null; // the wheel scrolls the page, too
    figure.toolbar.active_drag = coarse ? null : figure.toolbar.tools.find((tool) => tool instanceof Bokeh.BoxZoomTool);
    const sides = [
      [figure.below[0], 0, axes.x],
      [figure.left[0], 1, axes.y],
    ];
    for (const [axis, dimension, { log }] of sides) {
      const grid = figure.center.find((part) => part.dimension === dimension);
      if (log) grid.ticker = axis.ticker = ticker();
      grid.grid_line_color = theme.grid;
    }
    for (const axis of [...figure.below, ...figure.left]) {
      for (const part of ["axis_line", "major_tick_line", "minor_tick_line"]) axis[`${part}_color`] = theme.grid;
      for (const part of ["axis_label", "major_label"]) axis[`${part}_text_color`] = theme.text;
      Object.assign(axis, { axis_label_text_font_size: "14px", axis_label_text_font_style: "normal" });
      Object.assign(axis, { major_label_text_font_size: "12px", major_label_policy: new Bokeh.NoOverlap() });
    }
    return figure;
  };

  const ticker = () =>
    new Bokeh.CustomJSTicker({ major_code: "return flatlibExplorer.logTicks(cb_data.start, cb_data.end);" });

  const source = (points, theme) => {
    const colour = (point) => (point.status === "diverged" ? theme.text : point.look.colour);
    return new Bokeh.ColumnDataSource({
      data: {
        x: points.map((point) => point.x),
        y: points.map((point) => point.y),
        line: points.map(colour),
        fill: points.map((point) => (point.status === "reached" ? colour(point) : NONE)),
        marker: points.map((point) => (point.status === "diverged" ? "x" : point.look.marker)),
        about: points.map((point) => point.about),
      },
    });
  };

  const draw = async (axes, points, theme) => {
    const turn = (last += 1);
    const plot = figure(axes, theme);
    const data = source(points, theme);
    const look = { line_color: { field: "line" }, fill_color: { field: "fill" }, fill_alpha: 0.75, line_width: 1.5 };
    const dots = plot.scatter(
      { field: "x" },
      { field: "y" },
      { marker: { field: "marker" }, size: 9, ...look, source: data },
    );
    dots.nonselection_glyph = dots.selection_glyph = dots.glyph;
    ring = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
    plot.scatter(
      { field: "x" },
      { field: "y" },
      {
        ...{ marker: "circle", size: 19, fill_color: null, line_color: theme.text, line_width: 2, source: ring },
      },
    );
    plot.add_tools(new Bokeh.HoverTool({ renderers: [dots], tooltips: "<div>@about{safe}</div>", limit: 1 }));
    data.selected.change.connect(() => {
      const [i] = data.selected.indices;
      if (i !== undefined) onTap(points[i].run);
    });
    const made = document.createElement("div");
    const shown = await Bokeh.Plotting.show(plot, made);
    if (turn !== last) return shown.remove(); // something has changed meanwhile
    if (view) view.remove();
    view = shown;
    target.replaceChildren(made);
  };

  // A ring around one point, or around none.
  const mark = (point) => {
    if (ring) ring.data = { x: point ? [point.x] : [], y: point ? [point.y] : [] };
  };

  // Words in the place of a plot without points.
  const clear = (words) => {
    last += 1; // a plot that is still being drawn is dropped
    if (view) view.remove();
    view = ring = null;
    target.replaceChildren(words);
  };

  return { draw, mark, clear };
};
