// The scatter plot: a BokehJS figure that is made anew whenever something on the page changes.
window.flatlibExplorer = window.flatlibExplorer || {};

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
      tools: "pan,box_zoom,wheel_zoom,tap,reset,save",
      toolbar_location: "above",
      background_fill_color: theme.paper,
      border_fill_color: theme.paper,
      outline_line_color: null,
    });
    figure.toolbar.logo = null;
    // A drag on a touch screen scrolls the page, until the reader chooses a tool.
    if (window.matchMedia("(pointer: coarse)").matches) figure.toolbar.active_drag = null;
    for (const axis of [...figure.below, ...figure.left]) {
      for (const part of ["axis_line", "major_tick_line", "minor_tick_line"]) axis[`${part}_color`] = theme.grid;
      for (const part of ["axis_label", "major_label"]) axis[`${part}_text_color`] = theme.text;
      Object.assign(axis, { axis_label_text_font_size: "14px", axis_label_text_font_style: "normal" });
      axis.major_label_text_font_size = "12px";
    }
    for (const grid of figure.center) grid.grid_line_color = theme.grid;
    return figure;
  };

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
    const look = { line_color: { field: "line" }, fill_color: { field: "fill" }, fill_alpha: 0.65, line_width: 1.5 };
    const dots = plot.scatter({ field: "x" }, { field: "y" }, { marker: { field: "marker" }, size: 9, ...look, source: data });
    dots.nonselection_glyph = dots.selection_glyph = dots.glyph;
    ring = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
    plot.scatter({ field: "x" }, { field: "y" }, {
      ...{ marker: "circle", size: 19, fill_color: null, line_color: theme.text, line_width: 2, source: ring },
    });
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
    ring.data = { x: point ? [point.x] : [], y: point ? [point.y] : [] };
  };

  return { draw, mark };
};
